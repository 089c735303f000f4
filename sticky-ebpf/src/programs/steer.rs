//! `steer`: SYN → client → slot → the worker's socket.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::programs::SkReuseportContext;
use aya_log_ebpf::trace;
use sticky_ebpf::abi::{Counters, MAX_SLOTS, Outcome, Slot};
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

/// Always selects or drops: passing without a selection would let the kernel pick any socket of the group.
#[sk_reuseport(migrate)]
fn steer(ctx: SkReuseportContext) -> u32 {
    let (Some(config), Some(counters)) = (CONFIG.get(0), COUNTERS.get_ptr_mut(0)) else {
        return SK_DROP;
    };
    let Some(table) = TABLES.get(config.table & 1) else {
        return SK_DROP;
    };
    let (client, migrating) = match migrating_client(&ctx) {
        Some(client) => (client, true),
        None => (packet_client(&ctx), false),
    };
    let client = client.unwrap_or_else(|| {
        count(counters, Outcome::NoAddress);
        Client::default()
    });
    match choose(config, table, client, |slot| SOCKETS.select(&ctx, slot)) {
        Some(Choice { slot, outcome }) => {
            let outcome = if migrating { Outcome::Migrated } else { outcome };
            count(counters, outcome);
            count_slot(counters, slot);
            trace!(&ctx, "{:i} gets slot {}, outcome {}", client.octets(), slot, outcome as u32);
            SK_PASS
        }
        None => {
            count(counters, Outcome::Refused);
            trace!(&ctx, "{:i} is refused: no worker is alive", client.octets());
            SK_DROP
        }
    }
}

/// The zero point of the bench.
#[sk_reuseport(migrate)]
fn empty(_: SkReuseportContext) -> u32 {
    SK_PASS
}

/// The client of a connection that is leaving a closed listener's queue; `None` when it is not such a connection,
/// `Some(None)` when its address is of no family we know.
#[inline(always)]
fn migrating_client(ctx: &SkReuseportContext) -> Option<Option<Client>> {
    let socket = ctx.migrating_sk()?.sock;
    // SAFETY: the kernel's pointer is not null, and the verifier checks each of these fields.
    unsafe {
        match (*socket).family {
            AF_INET => Some(Some(Client::v4((*socket).dst_ip4.to_ne_bytes()))),
            AF_INET6 => {
                let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = [
                    (*socket).dst_ip6[0].to_ne_bytes(),
                    (*socket).dst_ip6[1].to_ne_bytes(),
                    (*socket).dst_ip6[2].to_ne_bytes(),
                    (*socket).dst_ip6[3].to_ne_bytes(),
                ];
                Some(Some(Client::v6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])))
            }
            _ => Some(None),
        }
    }
}

/// The client a packet comes from.
#[inline(always)]
fn packet_client(ctx: &SkReuseportContext) -> Option<Client> {
    match ctx.eth_protocol() {
        ETH_P_IP => load(ctx, IPV4_SOURCE).map(Client::v4),
        ETH_P_IPV6 => load(ctx, IPV6_SOURCE).map(Client::v6),
        _ => None,
    }
}

/// `N` bytes of the packet, from `offset` into its network header.
#[inline(always)]
fn load<const N: usize>(ctx: &SkReuseportContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the helper writes the N bytes of `bytes` or none of them.
    let error = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            offset,
            bytes.as_mut_ptr().cast(),
            N as u32,
            BPF_HDR_START_NET,
        )
    };
    (error == 0).then_some(bytes)
}

#[inline(always)]
fn count(counters: *mut Counters, outcome: Outcome) {
    // SAFETY: this CPU's own element, and an outcome is below the array's length.
    unsafe { (*counters).outcomes[outcome as usize] += 1 }
}

#[inline(always)]
fn count_slot(counters: *mut Counters, slot: Slot) {
    // SAFETY: this CPU's own element; the mask, a no-op on what a table holds, is for the verifier.
    unsafe { (*counters).slots[usize::from(slot) & (MAX_SLOTS - 1)] += 1 }
}
