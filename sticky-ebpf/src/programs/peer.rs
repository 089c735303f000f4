//! `peer4`, `peer6`: what a worker is told about the peer of a connection that the redirect made, by `accept` and
//! `getpeername`: the proxy or its client, instead of the redirect's address on this host.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use sticky_ebpf::abi::Source;
use sticky_ebpf::client::Client;

use crate::maps::RELAYED;

const ALLOW: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
fn peer4(ctx: SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the context is the program's own, and the verifier checks each field. An entry is not changed while its
    // connection lives.
    unsafe {
        let source = Source::new(Client::v4((*addr).user_ip4), (*addr).user_port as u16);
        if let Some(relay) = RELAYED.get(source)
            // An IPv4 socket has no way to show another.
            && relay.shown.is_v4()
        {
            let [_, low] = relay.shown.words();
            (*addr).user_ip4 = (low >> 32) as u32;
            (*addr).user_port = u32::from(relay.shown_port);
        }
    }
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
fn peer6(ctx: SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as above.
    unsafe {
        let [a, b, c, d] = [
            u64::from((*addr).user_ip6[0]),
            u64::from((*addr).user_ip6[1]),
            u64::from((*addr).user_ip6[2]),
            u64::from((*addr).user_ip6[3]),
        ];
        let source = Source::new(Client::v6([b << 32 | a, d << 32 | c]), (*addr).user_port as u16);
        if let Some(relay) = RELAYED.get(source) {
            let [high, low] = relay.shown.words();
            (*addr).user_ip6[0] = high as u32;
            (*addr).user_ip6[1] = (high >> 32) as u32;
            (*addr).user_ip6[2] = low as u32;
            (*addr).user_ip6[3] = (low >> 32) as u32;
            (*addr).user_port = u32::from(relay.shown_port);
        }
    }
    ALLOW
}
