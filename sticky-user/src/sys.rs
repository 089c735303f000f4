//! What no crate of ours wraps safely; the only unsafe code in user space.
#![expect(unsafe_code, reason = "system calls and their like")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use aya::Pod;
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

/// Has the BPF program `filter` decide what `socket` receives (`SO_ATTACH_BPF`, socket(7)).
pub fn attach_filter(socket: impl AsFd, filter: impl AsFd) -> io::Result<()> {
    let filter = filter.as_fd().as_raw_fd();
    // SAFETY: the option is an int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_BPF,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
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

/// Reads the next entries of a hash map, as many as there is room for, a whole bucket at a time: an entry that goes
/// meanwhile does not have it all begin anew, as reading one after the other would (`BPF_MAP_LOOKUP_BATCH`, bpf(2)).
///
/// Begins behind the place `from`; returns how many there were, and the place for the next call unless that was all.
pub fn read_entries<K: Pod, V: Pod>(
    map: impl AsFd,
    from: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, Option<u32>)> {
    /// That part of `union bpf_attr`.
    #[repr(C)]
    struct Batch {
        from: u64,
        to: u64,
        keys: u64,
        values: u64,
        count: u32,
        map: u32,
        element_flags: u64,
        flags: u64,
    }
    const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
    let mut to = 0u32;
    let mut batch = Batch {
        from: from.as_ref().map_or(0, |from| (&raw const *from).addr() as u64),
        to: (&raw mut to).addr() as u64,
        keys: keys.as_mut_ptr().expose_provenance() as u64,
        values: values.as_mut_ptr().expose_provenance() as u64,
        count: u32::try_from(keys.len().min(values.len())).unwrap_or(u32::MAX),
        map: map.as_fd().as_raw_fd().cast_unsigned(),
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: all that is pointed to outlives the call. Of keys and values the kernel writes `count` at most, of the sizes
    // that the map was created with; any bytes are a `Pod`.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut batch, size_of_val(&batch)) };
    let count = batch.count as usize;
    match (result, io::Error::last_os_error()) {
        (0, _) => Ok((count, Some(to))),
        (_, error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((count, None)),
        (_, error) => Err(error),
    }
}

/// A descriptor that the process which started this one left open for it. To be taken once.
pub fn inherited(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call has no memory operands; what is no descriptor is an error.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else here knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Watches a descriptor for readiness.
pub fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one and the same open descriptor for as long as it lives.
    unsafe { AsyncFd::register_with_interest(descriptor, interest) }.map_err(io::Error::from)
}
