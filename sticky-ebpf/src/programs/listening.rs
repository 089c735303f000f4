//! `listening`: a word to user space when a socket begins or ceases to listen.
//!
//! A raw tracepoint: it needs no tracefs, and costs the other state changes of every connection next to nothing.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

use crate::maps::CHANGES;

const TCP_SYN_RECV: u32 = 3;
const TCP_LISTEN: u32 = 10;

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`.
///
/// The event says no more than that something changed: user space asks the kernel what is there, in the terms of its
/// own network and PID namespaces.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn listening(ctx: RawTracePointContext) -> i32 {
    let (old, new): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    // A new connection is a copy of its listener, and leaves that state in the copy:
    // `inet_csk_clone_lock`, <https://elixir.bootlin.com/linux/v6.18/source/net/ipv4/inet_connection_sock.c>
    let accepts = old == TCP_LISTEN && new == TCP_SYN_RECV;
    if (old == TCP_LISTEN || new == TCP_LISTEN) && !accepts {
        // A full buffer loses the event, not the change: user space also looks by itself from time to time.
        let _ = CHANGES.output::<u32>(new, 0);
    }
    0
}
