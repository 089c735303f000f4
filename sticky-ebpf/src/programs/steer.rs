//! `steer`: SYN → client → slot → the worker's socket. A trusted proxy's connection → the gate's sockets and then
//! [`crate::reader`], or the redirect's socket.

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SkReuseportContext;
use sticky_ebpf::abi::{Config, GATE, MAX_SLOTS, Outcome, REDIRECT, Slot, Source, slot_counter};
use sticky_ebpf::client::Client;
use sticky_ebpf::steer::{Choice, affine, spread, steer as choose};

use crate::maps::{CONFIG, COUNTERS, GATED, OPENED, READER, RELAYED, SOCKETS, TABLES, TRUSTED};
use crate::packet::{self, Segment, remote, remote_port, segment, source, source_port};
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
    let opens = || packet::is_datagram(ctx) || matches!(segment(ctx), Segment::Opening { .. });
    let mut tally = Tally { counts: migrating.is_some() || opens() };
    let client = match &migrating {
        Some(socket) => remote(socket),
        None => source(ctx),
    };
    let client = client.unwrap_or_else(|| {
        tally.count(Outcome::NoAddress.counter());
        Client::default()
    });
    let mut hash = affine(config, client);
    let mut decided = migrating.as_ref().map(|_| Outcome::Migrated);
    if config.proxies.trusting() {
        let port = match &migrating {
            Some(socket) => remote_port(socket),
            None => source_port(ctx),
        };
        match proxied(ctx, config, client, port, migrating.is_some(), &mut tally) {
            Proxied::No => {}
            Proxied::Decided(verdict) => return verdict,
            Proxied::Client(client) => hash = affine(config, client),
            Proxied::Spread(outcome) => {
                hash = spread(config, client, port);
                decided = Some(outcome);
            }
        }
    }
    let choice = choose(config, table, hash, |slot| SOCKETS.select(ctx, slot));
    log(client, choice);
    tally.verdict(choice, decided)
}

/// What trusted proxies have to do with a connection.
enum Proxied {
    /// Nothing.
    No,
    /// All is done.
    Decided(u32),
    /// The gate let it in, for this client.
    Client(Client),
    /// It comes from one, and nobody looks for its client.
    Spread(Outcome),
}

/// The redirect's own connections go to their slot or nowhere: when its worker is gone, the redirect chooses again. Where
/// no redirect is left, what stands in its map means nothing.
#[inline(always)]
fn proxied(
    ctx: &SkReuseportContext,
    config: &Config,
    peer: Client,
    port: u16,
    migrating: bool,
    tally: &mut Tally,
) -> Proxied {
    let source = Source::new(peer, port);
    // SAFETY: an entry is not changed while its connection is made.
    if let Some(relay) = unsafe { RELAYED.get(source) } {
        let selected = SOCKETS.select(ctx, relay.slot);
        if selected || SOCKETS.select(ctx, REDIRECT) {
            return Proxied::Decided(tally.relayed(relay.slot, selected));
        }
    }
    if TRUSTED.get(Key::new(128, peer)).is_none() {
        return Proxied::No;
    }
    if migrating {
        // SAFETY: as above.
        if let Some(client) = unsafe { GATED.get(source) } {
            return Proxied::Client(*client);
        }
    } else if config.proxies.gated() {
        match segment(ctx) {
            Segment::Opening { sequence } if SOCKETS.select(ctx, GATE) => {
                let _ = OPENED.insert(source, Opened::now(sequence), 0);
                return Proxied::Decided(SK_PASS);
            }
            Segment::Bare if sink::drop_it(ctx) => return Proxied::Decided(SK_PASS),
            // The first one was lost, or is being dealt with by another CPU: this one will come again.
            Segment::Data { sequence, .. } | Segment::Closing { sequence }
                if overtakes(source, sequence) && sink::drop_it(ctx) =>
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

/// Whether data, or an end, of this number comes before the first data of its connection. Its cookie would not fit, and
/// the kernel would reset the connection.
#[inline(always)]
fn overtakes(source: Source, sequence: u32) -> bool {
    // SAFETY: a torn entry makes a segment come again, or a reset where one would have been without us.
    match unsafe { OPENED.get(source) } {
        Some(opened) => opened.recently() && opened.sequence.wrapping_add(1) != sequence,
        None => false,
    }
}

/// When a connection was opened, and by which number.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Opened {
    sequence: u32,
    /// In units of about a millisecond.
    at: u32,
}

impl Opened {
    /// How long data may wait for the data before it. Afterwards it is left over of a connection that is gone.
    const LIMIT: u32 = 3000;

    #[inline(always)]
    fn now(sequence: u32) -> Self {
        Self { sequence, at: Self::time() }
    }

    #[inline(always)]
    fn recently(&self) -> bool {
        Self::time().wrapping_sub(self.at) < Self::LIMIT
    }

    #[inline(always)]
    fn time() -> u32 {
        // SAFETY: it only reads a clock.
        (unsafe { bpf_ktime_get_ns() } >> 20) as u32
    }
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

    /// Counts a choice, by its own outcome if no other `decided` before, and passes what was selected.
    #[inline(always)]
    pub(crate) fn verdict(&self, choice: Option<Choice>, decided: Option<Outcome>) -> u32 {
        match choice {
            Some(Choice { slot, outcome }) => {
                self.count(decided.unwrap_or(outcome).counter());
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
            return self.verdict(selected.then_some(choice), None);
        }
        if selected { SK_PASS } else { SK_DROP }
    }
}
