//! Listening sockets of our own, the redirect's and the gate's: more members of the pool's reuseport group.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use nix::unistd::{Uid, setfsuid};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::pool::id::PoolId;
use crate::refusal::Refusal;

/// A socket that belongs to the group of `pool`, whose sockets are user `uid`'s, once it listens.
///
/// The kernel lets in only what is bound to the very same address, with the same `IPV6_V6ONLY`, and was created by
/// the same user: `inet_reuseport_add_sock`. A socket's user is that of its file, and so the creator's for files.
pub fn open(pool: &PoolId, uid: u32) -> Result<OwnedFd> {
    reachable(pool)?;
    let family = if pool.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = as_user(uid, || socket_with(family, SocketType::STREAM, flags, None))??;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&socket, pool.v6only)?;
    }
    bind(&socket, &pool.address)
        .with_context(|| format!("the redirect cannot be bound to {pool} beside the workers"))?;
    Ok(socket)
}

/// Refuses where a redirect cannot reach the workers.
pub fn reachable(pool: &PoolId) -> Result<()> {
    if pool.interface == 0 {
        return Ok(());
    }
    Err(Refusal::new(
        format!("{pool} is bound to an interface; its workers cannot be reached from the redirect"),
        "trust nobody at this pool (`--at` names others), or have the workers listen on an address instead",
    )
    .into())
}

/// Does `work` with the file-system identity of `uid`, which is this thread's alone.
fn as_user<T>(uid: u32, work: impl FnOnce() -> T) -> Result<T> {
    let user = Uid::from_raw(uid);
    let own = setfsuid(user);
    // It tells no error; asked again, it tells who one is.
    let taken = setfsuid(user) == user;
    let done = taken.then(work);
    setfsuid(own);
    done.ok_or_else(|| {
        Refusal::new(
            format!(
                "CAP_SETUID is missing: sticky needs it to open the redirect as user {uid}, like the workers"
            ),
            "run sticky as root or as the workers' user, or add CAP_SETUID to what it is given",
        )
        .into()
    })
}

/// The address at which the redirect reaches the pool's workers, from the same one.
pub fn local(pool: &PoolId) -> IpAddr {
    let ip = pool.address.ip().to_canonical();
    if !ip.is_unspecified() {
        ip
    } else if ip.is_ipv6() && pool.v6only {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}
