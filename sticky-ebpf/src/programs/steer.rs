//! `steer`: SYN → client → slot → the worker's socket. A trusted proxy's SYN → the redirect's socket.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative};
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::{SkReuseportContext, SockContext};
use aya_log_ebpf::trace;
use sticky_ebpf::abi::{Outcome, REDIRECT, Source, slot_counter};
use sticky_ebpf::client::Client;
use sticky_ebpf::steer::{Choice, affine, spread, steer as choose};

use crate::maps::{CONFIG, COUNTERS, RELAYED, SOCKETS, TABLES, TRUSTED};

const ETH_P_IP: u32 = (0x0800u16).to_be() as u32;
const ETH_P_IPV6: u32 = (0x86ddu16).to_be() as u32;
const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// Where the source address stands in the header: RFC 791 section 3.1, RFC 8200 section 3.
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;

/// Steers in silence.
#[sk_reuseport(migrate)]
fn steer(ctx: SkReuseportContext) -> u32 {
    decide(&ctx, |_, _| {})
}

/// Steers and logs each decision. A program of its own: without CAP_PERFMON the verifier also follows the paths that
/// a log level rules out, and rejects what aya-log does there.
#[sk_reuseport(migrate)]
fn steer_traced(ctx: SkReuseportContext) -> u32 {
    decide(&ctx, |client, choice| match choice {
        Some(Choice { slot, outcome }) => {
            trace!(&ctx, "{:i} gets slot {}, outcome {}", octets(client), slot, outcome as u32);
        }
        None => trace!(&ctx, "{:i} is refused: no worker is alive", octets(client)),
    })
}

/// Always selects or drops: passing without a selection would let the kernel pick any socket of the group.
#[inline(always)]
fn decide(ctx: &SkReuseportContext, log: impl Fn(Client, Option<Choice>)) -> u32 {
    let Some(config) = CONFIG.get(0) else { return SK_DROP };
    let Some(table) = TABLES.get(config.table & 1) else { return SK_DROP };
    let migrating = ctx.migrating_sk();
    let tally = Tally { counts: migrating.is_some() || opens(ctx) };
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
        match proxied(ctx, client, port, &tally) {
            Proxied::No => {}
            Proxied::Decided(verdict) => return verdict,
            Proxied::Unredirected => {
                hash = spread(config, client, port);
                decided = Some(Outcome::Unredirected);
            }
        }
    }
    let choice = choose(config, table, hash, |slot| SOCKETS.select(ctx, slot));
    log(client, choice);
    match choice {
        Some(Choice { slot, outcome }) => {
            tally.count(decided.unwrap_or(outcome).counter());
            tally.count(slot_counter(slot));
            SK_PASS
        }
        None => {
            tally.count(Outcome::Refused.counter());
            SK_DROP
        }
    }
}

/// What trusted proxies have to do with a connection.
enum Proxied {
    /// Nothing.
    No,
    /// All is done.
    Decided(u32),
    /// It comes from one, and there is no redirect.
    Unredirected,
}

/// The redirect's own connections go to their slot or nowhere: when its worker is gone, the redirect chooses again.
#[inline(always)]
fn proxied(ctx: &SkReuseportContext, peer: Client, port: u16, tally: &Tally) -> Proxied {
    // SAFETY: an entry is not changed while its connection is made.
    if let Some(relay) = unsafe { RELAYED.get(Source::new(peer, port)) } {
        return Proxied::Decided(if SOCKETS.select(ctx, relay.slot) {
            tally.count(Outcome::Relayed.counter());
            tally.count(slot_counter(relay.slot));
            SK_PASS
        } else {
            tally.count(Outcome::Refused.counter());
            SK_DROP
        });
    }
    if TRUSTED.get(Key::new(128, peer)).is_none() {
        return Proxied::No;
    }
    if SOCKETS.select(ctx, REDIRECT) {
        tally.count(Outcome::Redirected.counter());
        return Proxied::Decided(SK_PASS);
    }
    Proxied::Unredirected
}

/// The zero point of the bench.
#[sk_reuseport(migrate)]
fn empty(_: SkReuseportContext) -> u32 {
    SK_PASS
}

/// The client of a connection that is leaving a closed listener's queue: the packet is empty then.
#[inline(always)]
fn remote(socket: &SockContext) -> Option<Client> {
    let socket = socket.sock;
    // SAFETY: the kernel's pointer is not null, and the verifier checks each of these fields.
    unsafe {
        match (*socket).family {
            AF_INET => Some(Client::v4((*socket).dst_ip4)),
            AF_INET6 => {
                let [a, b, c, d] = [
                    u64::from((*socket).dst_ip6[0]),
                    u64::from((*socket).dst_ip6[1]),
                    u64::from((*socket).dst_ip6[2]),
                    u64::from((*socket).dst_ip6[3]),
                ];
                Some(Client::v6([b << 32 | a, d << 32 | c]))
            }
            _ => None,
        }
    }
}

/// The port of [`remote`], in network byte order.
#[inline(always)]
fn remote_port(socket: &SockContext) -> u16 {
    // SAFETY: as in `remote`.
    unsafe { (*socket.sock).dst_port }
}

/// The port a packet comes from, in network byte order: the first field of the TCP and the UDP header.
#[inline(always)]
fn source_port(ctx: &SkReuseportContext) -> u16 {
    let mut port = 0u16;
    // SAFETY: the helper fills all of `port`; what it reads begins with the transport header.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), 0, (&raw mut port).cast(), size_of::<u16>() as u32) };
    port
}

/// The client a packet comes from.
#[inline(always)]
fn source(ctx: &SkReuseportContext) -> Option<Client> {
    match ctx.eth_protocol() {
        ETH_P_IP => load(ctx, IPV4_SOURCE).map(Client::v4),
        ETH_P_IPV6 => load(ctx, IPV6_SOURCE).map(Client::v6),
        _ => None,
    }
}

/// A part of the packet, from `offset` into its network header, as it lies in memory.
#[inline(always)]
fn load<T: Word>(ctx: &SkReuseportContext, offset: u32) -> Option<T> {
    let mut part = MaybeUninit::<T>::uninit();
    // SAFETY: the helper fills all of `part`.
    let error = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            offset,
            part.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            BPF_HDR_START_NET,
        )
    };
    // SAFETY: filled, with zeros on an error, and any bytes are a `Word`.
    (error == 0).then(|| unsafe { part.assume_init() })
}

/// What can be read from a packet: any bytes are a value.
trait Word: Copy {}
impl Word for u32 {}
impl Word for [u64; 2] {}

/// Whether the packet opens a connection, or is a datagram. The program also runs for what is left over of connections
/// that are gone, and for the ACK that brings a SYN cookie back: RFC 9293 section 3.1 has the flags.
#[inline(always)]
fn opens(ctx: &SkReuseportContext) -> bool {
    const SYN: u8 = 2;
    let mut flags = 0u8;
    // SAFETY: the helper fills `flags`; what it reads begins with the transport header.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), 13, (&raw mut flags).cast(), 1) };
    ctx.ip_protocol() != IPPROTO_TCP || flags & SYN != 0
}

/// Counts what is decided about connections, and nothing about stray packets.
struct Tally {
    counts: bool,
}

impl Tally {
    /// Adds one to a counter, by a lookup: indexing into one large element is arithmetic on pointers, of which the
    /// verifier allows less to a loader without CAP_PERFMON.
    #[inline(always)]
    fn count(&self, counter: u32) {
        if self.counts
            && let Some(count) = COUNTERS.get_ptr_mut(counter)
        {
            // SAFETY: this CPU's own element.
            unsafe { *count += 1 }
        }
    }
}

/// The client's address in network byte order, for a log line.
#[inline(always)]
fn octets(client: Client) -> [u8; 16] {
    let [high, low] = client.words().map(u64::to_ne_bytes);
    let [a, b, c, d, e, f, g, h] = high;
    let [i, j, k, l, m, n, o, p] = low;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}
