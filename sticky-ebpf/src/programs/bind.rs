//! `bind4`, `bind6`: give the TCP sockets of our workers `SO_REUSEPORT` just before they are bound.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_setsockopt;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

const SOL_SOCKET: i32 = 1;
const SO_REUSEPORT: i32 = 15;
const SOCK_STREAM: u32 = 1;
const ALLOW: i32 = 1;

#[cgroup_sock_addr(bind4)]
fn bind4(ctx: SockAddrContext) -> i32 {
    share_port(&ctx)
}

#[cgroup_sock_addr(bind6)]
fn bind6(ctx: SockAddrContext) -> i32 {
    share_port(&ctx)
}

/// Port 0 is left alone: among sockets that share ports the kernel may hand out one that is taken.
#[inline(always)]
fn share_port(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the context is the program's own, and the verifier checks each field.
    let (kind, port) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).user_port) };
    if kind == SOCK_STREAM && port != 0 {
        let mut on = 1i32;
        // SAFETY: the option is an int on the stack. A failure leaves the bind as it would be without us.
        unsafe {
            bpf_setsockopt(
                ctx.as_ptr(),
                SOL_SOCKET,
                SO_REUSEPORT,
                (&raw mut on).cast(),
                size_of::<i32>() as i32,
            );
        }
    }
    ALLOW
}
