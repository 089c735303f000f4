//! `steer`: SYN → client → slot → the worker's socket.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::programs::{SkReuseportContext, SockContext};
use aya_log_ebpf::trace;
use sticky_ebpf::abi::{Outcome, slot_counter};
use sticky_ebpf::client::Client;
use sticky_ebpf::steer::{Choice, steer as choose};

use crate::maps::{CONFIG, COUNTERS, SOCKETS, TABLES};

const ETH_P_IP: u32 = (0x0800u16).to_be() as u32;
const ETH_P_IPV6: u32 = (0x86ddu16).to_be() as u32;
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
    let client = match &migrating {
        Some(socket) => remote(socket),
        None => source(ctx),
    };
    let client = client.unwrap_or_else(|| {
        count(Outcome::NoAddress.counter());
        Client::default()
    });
    let choice = choose(config, table, client, |slot| SOCKETS.select(ctx, slot));
    log(client, choice);
    match choice {
        Some(Choice { slot, outcome }) => {
            count(if migrating.is_some() { Outcome::Migrated } else { outcome }.counter());
            count(slot_counter(slot));
            SK_PASS
        }
        None => {
            count(Outcome::Refused.counter());
            SK_DROP
        }
    }
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

/// Adds one to a counter, by a lookup: indexing into one large element is arithmetic on pointers, of which the
/// verifier allows less to a loader without CAP_PERFMON.
#[inline(always)]
fn count(counter: u32) {
    if let Some(count) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: this CPU's own element.
        unsafe { *count += 1 }
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
