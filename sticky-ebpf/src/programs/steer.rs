//! `steer`: SYN → client → slot → the worker's socket. A trusted proxy's connection → the gate's sockets and then
//! [`crate::reader`], or the redirect's socket.

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SkReuseportContext;
use sticky_ebpf::abi::{Config, GATE, MAX_SLOTS, Outcome, REDIRECT, SINK, Slot, Source, slot_counter};
use sticky_ebpf::client::Client;
use sticky_ebpf::steer::{Choice, Whom, steer as choose};

use crate::maps::{CONFIG, COUNTERS, GATED, READER, RELAYED, SOCKETS, TABLES, TRUSTED};
use crate::memory::Memory;
use crate::opened::Opened;
use crate::packet::{self, Segment, remote, remote_port, segment, source};
use crate::sink;

/// Steers in silence.
#[sk_reuseport(migrate)]
fn steer(ctx: SkReuseportContext) -> u32 {
    decide(&ctx, |_, _| {})
}

/// Steers and logs each decision. A program of its own: without CAP_PERFMON the verifier also follows the paths that
/// a log level rules out, and rejects what aya-log does there.
#[sk_reuseport(migrate)]
fn steer_traced(ctx: SkReuseportContext) -> u32 {
    decide(&ctx, |client, choice| packet::log(&ctx, client, choice))
}

/// Always selects or drops: passing without a selection would let the kernel pick any socket of the group.
#[inline(always)]
fn decide(ctx: &SkReuseportContext, log: impl Fn(Client, Option<Choice>)) -> u32 {
    let Some(config) = CONFIG.get(0) else { return SK_DROP };
    let Some(table) = TABLES.get(config.table & 1) else { return SK_DROP };
    let migrating = ctx.migrating_sk();
    // The program also runs for what is left over of connections that are gone, which is not counted.
    let (port, segment) = segment(ctx);
    let opens = packet::is_datagram(ctx) || matches!(segment, Segment::Opening { .. });
    let mut tally = Tally { counts: migrating.is_some() || opens };
    let client = match &migrating {
        Some(socket) => remote(socket),
        None => source(ctx),
    };
    let client = client.unwrap_or_else(|| {
        tally.count(Outcome::NoAddress.counter());
        Client::default()
    });
    let mut decided = migrating.as_ref().map(|_| Outcome::Migrated);
    let (mut whose, mut by_port) = (client, None);
    if config.proxies.trusting() {
        let port = migrating.as_ref().map_or(port, remote_port);
        let segment = if migrating.is_none() && config.proxies.gated() { Some(segment) } else { None };
        match proxied(ctx, config, client, port, segment, migrating.is_some(), &mut tally) {
            Proxied::No => {}
            Proxied::Decided(verdict) => return verdict,
            Proxied::Client(client) => whose = client,
            Proxied::Spread(outcome) => (decided, by_port) = (Some(outcome), Some(port)),
        }
    }
    // From here on the way is the same for all.
    let decided = decided.map_or(0, |outcome| 1 + u64::from(outcome.counter()));
    let both = forget(decided << 1 | u64::from(tally.counts), config.seed.0[0]);
    let decided = both >> 1;
    tally.counts = both & 1 != 0;
    let whom = match by_port {
        Some(port) => Whom::connection(client, port),
        None => Whom::client(config, whose),
    };
    let choice = choose(config, table, whom, &Memory::new(ctx, &tally));
    log(client, choice);
    tally.verdict(choice, decided)
}

/// The same number, of which the verifier knows nothing any more: it does not see that taking `any` number of a map twice
/// changes nothing.
///
/// Known clients come by here, so it touches no map, as [`sticky_ebpf::steer::Maps::forget`] does. In a loop that would not
/// do: without CAP_PERFMON the verifier keeps fewer of its states there, and never comes to an end.
#[inline(always)]
fn forget(number: u64, any: u64) -> u64 {
    let mut same = number;
    // SAFETY: arithmetic on two registers.
    unsafe {
        core::arch::asm!(
            "{same} ^= {any}",
            "{same} ^= {any}",
            same = inout(reg) same,
            any = in(reg) any,
            options(pure, nomem, nostack),
        );
    }
    same
}

/// What trusted proxies have to do with a connection.
enum Proxied {
    /// Nothing.
    No,
    /// All is done.
    Decided(u32),
    /// The gate let it in, for this client, as far as that is remembered.
    Client(Client),
    /// It comes from one, and nobody looks for its client.
    Spread(Outcome),
}

/// The redirect's own connections go to their slot or nowhere: when its worker is gone, the redirect chooses again. Where
/// no redirect is left, what stands in its map means nothing.
///
/// `segment` is what comes to an open gate.
#[inline(always)]
fn proxied(
    ctx: &SkReuseportContext,
    config: &Config,
    peer: Client,
    port: u16,
    segment: Option<Segment>,
    migrating: bool,
    tally: &mut Tally,
) -> Proxied {
    let source = Source::new(peer, port);
    let trusted = TRUSTED.get(Key::new(128, peer)).is_some();
    // Ours may come with a SYN cookie, too, where a worker's queue is full. Of a trusted peer only the data that follows
    // has to be told apart.
    let may_be_ours = !(trusted && segment == Some(Segment::Bare));
    // SAFETY: an entry is not changed while its connection is made.
    if may_be_ours && let Some(relay) = unsafe { RELAYED.get(source) } {
        let selected = SOCKETS.select(ctx, relay.slot);
        if selected || SOCKETS.select(ctx, REDIRECT) {
            return Proxied::Decided(tally.relayed(relay.slot, selected));
        }
    }
    if !trusted {
        return Proxied::No;
    }
    if migrating {
        // Else it may be of an earlier connection of the same port.
        if config.proxies.real_client_address()
            // SAFETY: as above.
            && let Some(client) = unsafe { GATED.get(source) }
        {
            return Proxied::Client(*client);
        }
    } else if let Some(segment) = segment {
        match segment {
            // Of a process that was killed the sink goes before the gate.
            Segment::Opening { sequence } if SOCKETS.select(ctx, SINK) && SOCKETS.select(ctx, GATE) => {
                Opened::now(peer, port, sequence);
                return Proxied::Decided(SK_PASS);
            }
            Segment::Bare if sink::drop_it(ctx) => return Proxied::Decided(SK_PASS),
            // The first one was lost, or is being dealt with by another CPU: this one will come again.
            Segment::Data { sequence, .. } | Segment::Closing { sequence }
                if Opened::overtaken(peer, port, sequence) && sink::drop_it(ctx) =>
            {
                return Proxied::Decided(SK_PASS);
            }
            Segment::Closing { .. } => {
                tally.counts = true;
                return Proxied::Spread(Outcome::Silent);
            }
            // SAFETY: nothing here waits to be dropped. Without a reader it returns.
            Segment::Data { .. } => unsafe { READER.tail_call(ctx, 0) },
            Segment::Opening { .. } | Segment::Bare => {}
        }
    }
    if SOCKETS.select(ctx, REDIRECT) {
        tally.count(Outcome::Redirected.counter());
        return Proxied::Decided(SK_PASS);
    }
    Proxied::Spread(Outcome::Unredirected)
}

/// The zero point of the bench.
#[sk_reuseport(migrate)]
fn empty(_: SkReuseportContext) -> u32 {
    SK_PASS
}

/// Counts what is decided about connections, and nothing about stray packets.
pub(crate) struct Tally {
    pub(crate) counts: bool,
}

impl Tally {
    /// Adds one to a counter, by a lookup: indexing into one large element is arithmetic on pointers, of which the
    /// verifier allows less to a loader without CAP_PERFMON.
    #[inline(always)]
    pub(crate) fn count(&self, counter: u32) {
        if self.counts
            && let Some(count) = COUNTERS.get_ptr_mut(counter)
        {
            // SAFETY: this CPU's own element.
            unsafe { *count += 1 }
        }
    }

    /// Counts a choice, by its own outcome if no other was `decided` before (its counter and one more, or 0), and passes
    /// what was selected.
    #[inline(always)]
    pub(crate) fn verdict(&self, choice: Option<Choice>, decided: u64) -> u32 {
        match choice {
            Some(Choice { slot, outcome }) => {
                self.count(if decided == 0 { outcome.counter() } else { decided as u32 - 1 });
                self.count(slot_counter(slot));
                SK_PASS
            }
            None => {
                self.count(Outcome::Refused.counter());
                SK_DROP
            }
        }
    }

    /// The same for a connection of our own to `slot`. The gate's cork counts for nothing.
    #[inline(always)]
    fn relayed(&self, slot: Slot, selected: bool) -> u32 {
        if slot < MAX_SLOTS as Slot {
            let choice = Choice { slot, outcome: Outcome::Relayed };
            return self.verdict(selected.then_some(choice), 0);
        }
        if selected { SK_PASS } else { SK_DROP }
    }
}
