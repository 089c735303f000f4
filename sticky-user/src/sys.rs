//! What no crate of ours wraps safely; the only unsafe code in user space.
#![expect(unsafe_code, reason = "system calls and their like")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes the kernel hold new connections of the listener `socket` back until their first data is there, or until
/// `seconds` have passed, so that `accept` returns with the request (`TCP_DEFER_ACCEPT`, tcp(7)).
pub fn set_tcp_defer_accept(socket: impl AsFd, seconds: i32) -> io::Result<()> {
    // SAFETY: the option is an int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the kernel drop what arrives at the TCP listener `socket`, or at connections it does not have yet, as an ACK
/// without data: everything that opens, resets or ends a connection or brings data passes (`SO_ATTACH_FILTER`, socket(7)).
pub fn drop_bare_acks(socket: impl AsFd) -> io::Result<()> {
    const fn statement(code: u32, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
    }
    const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    use libc::{
        BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LEN, BPF_MISC,
        BPF_RET, BPF_RSH, BPF_TAX, BPF_W, BPF_X,
    };
    const FIN_SYN_RST: u32 = 7;
    // From the TCP header on: its 13th byte has its length, in words, in the upper half; the next one has the flags.
    let mut filter = [
        statement(BPF_LD | BPF_B | BPF_ABS, 13),
        jump(BPF_JMP | BPF_JSET | BPF_K, FIN_SYN_RST, 6, 0),
        statement(BPF_LD | BPF_B | BPF_ABS, 12),
        statement(BPF_ALU | BPF_RSH | BPF_K, 2),
        statement(BPF_ALU | BPF_AND | BPF_K, 0x3c),
        statement(BPF_MISC | BPF_TAX, 0),
        statement(BPF_LD | BPF_W | BPF_LEN, 0),
        jump(BPF_JMP | BPF_JGT | BPF_X, 0, 0, 1),
        statement(BPF_RET | BPF_K, u32::MAX),
        statement(BPF_RET | BPF_K, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the program, whose length is given, and checks it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The cookie of the network namespace that `socket` is in (`SO_NETNS_COOKIE`, Linux 5.14).
pub fn network_namespace(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut size = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the option is a u64 that outlives the call, as is its size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Watches a descriptor for readiness.
pub fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one and the same open descriptor for as long as it lives.
    unsafe { AsyncFd::register_with_interest(descriptor, interest) }.map_err(io::Error::from)
}
