//! `peer4`, `peer6`: what a worker is told about the peer of a connection by `accept` and `getpeername`: of one that the
//! redirect made, the proxy or its client instead of the redirect's address on this host; of one that came through the
//! gate, the client instead of the proxy, if that is wanted.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SockAddrContext;
use sticky_ebpf::abi::Source;
use sticky_ebpf::client::Client;

use crate::maps::{CONFIG, GATED, RELAYED, TRUSTED};

const ALLOW: i32 = 1;

/// Who is shown in the place of `peer` and its `port`, in network byte order, if anybody is.
#[inline(always)]
fn shown(peer: Client, port: u16) -> Option<(Client, u16)> {
    let source = Source::new(peer, port);
    // SAFETY: an entry is not changed while its connection lives.
    if let Some(relay) = unsafe { RELAYED.get(source) } {
        return Some((relay.shown, relay.shown_port));
    }
    if !CONFIG.get(0)?.proxies.real_client_address() {
        return None;
    }
    // SAFETY: as above.
    let client = unsafe { GATED.get(source) }?;
    // One that is trusted no more may connect from the same port again, for itself.
    TRUSTED.get(Key::new(128, peer))?;
    Some((*client, port))
}

#[cgroup_sock_addr(getpeername4)]
fn peer4(ctx: SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the context is the program's own, and the verifier checks each field.
    unsafe {
        // An IPv4 socket has no way to show another.
        if let Some((client, port)) = shown(Client::v4((*addr).user_ip4), (*addr).user_port as u16)
            && client.is_v4()
        {
            let [_, low] = client.words();
            (*addr).user_ip4 = (low >> 32) as u32;
            (*addr).user_port = u32::from(port);
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
        if let Some((client, port)) = shown(Client::v6([b << 32 | a, d << 32 | c]), (*addr).user_port as u16)
        {
            let [high, low] = client.words();
            (*addr).user_ip6[0] = high as u32;
            (*addr).user_ip6[1] = (high >> 32) as u32;
            (*addr).user_ip6[2] = low as u32;
            (*addr).user_ip6[3] = (low >> 32) as u32;
            (*addr).user_port = u32::from(port);
        }
    }
    ALLOW
}
