//! The sockets that can be steered: what the kernel lists (`sock_diag(7)`), and which processes hold them (`/proc`).

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{InetResponse, StateFlags};

use crate::pool::id::{PoolId, Protocol};
use crate::sock_diag::{self, Family};

/// A listening TCP socket, or a UDP socket that is bound and not connected.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The pool it belongs, or would belong, to.
    pub pool: PoolId,
    /// The kernel's name for the socket, unique until the next boot.
    pub cookie: u64,
    /// Its inode, as `/proc/PID/fd` shows it.
    pub inode: u64,
    /// The user whose socket it is, its creator's effective UID: part of what forms a group.
    pub uid: u32,
    /// Connections (UDP: bytes) waiting in its queue.
    pub waiting: u32,
}

/// All listeners of this network namespace.
pub fn list(protocol: Protocol, namespace: u64) -> Result<Vec<Listener>> {
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        let states = match protocol {
            Protocol::Tcp => StateFlags::LISTEN,
            Protocol::Udp => StateFlags::CLOSE,
        };
        sock_diag::dump(protocol, family, states, 0, |response| {
            if response.header.socket_id.destination_port == 0 {
                found.push(listener(protocol, namespace, response));
            }
        })
        .with_context(|| format!("the kernel's list of {protocol} sockets (`sock_diag`) cannot be read"))?;
    }
    Ok(found)
}

fn listener(protocol: Protocol, namespace: u64, response: &InetResponse) -> Listener {
    let header = &response.header;
    let id = &header.socket_id;
    let v6only = response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true)));
    Listener {
        pool: PoolId {
            protocol,
            address: SocketAddr::new(id.source_address, id.source_port),
            v6only,
            interface: id.interface_id,
            namespace,
        },
        cookie: u64::from_ne_bytes(id.cookie),
        inode: u64::from(header.inode),
        uid: header.uid,
        waiting: header.recv_queue,
    }
}

/// A process that has a socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process, as this PID namespace numbers it.
    pub pid: u32,
    /// Its descriptor of the socket.
    pub fd: i32,
}

/// Which of `pids` hold which sockets, by inode; processes that may not be looked into are passed over.
pub fn holders(pids: impl IntoIterator<Item = u32>) -> HashMap<u64, Vec<Holder>> {
    let mut found: HashMap<u64, Vec<Holder>> = HashMap::new();
    for pid in pids {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in entries.flatten() {
            let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let inode = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                let holders = found.entry(inode).or_default();
                // A second descriptor of the same process makes it no second holder.
                if holders.last().is_none_or(|last| last.pid != pid) {
                    holders.push(Holder { pid, fd });
                }
            }
        }
    }
    found
}

/// All processes there are, but for this one, which is nobody's worker.
pub fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
}

/// The cookies of the listeners that `wanted` takes.
pub fn cookies(protocol: Protocol, namespace: u64, wanted: impl Fn(&PoolId) -> bool) -> Result<Vec<u64>> {
    let listeners = list(protocol, namespace)?;
    let wanted = listeners.iter().filter(|listener| wanted(&listener.pool));
    let mut cookies: Vec<_> = wanted.map(|listener| listener.cookie).collect();
    cookies.sort_unstable();
    Ok(cookies)
}

/// Which listeners there were at the last thorough look, so that the next one can be spared.
///
/// Whose sockets they are takes far longer to find out than which there are, the longer the more connections their
/// processes have; and the kernel's word about listeners is about those of other network namespaces too.
#[derive(Default)]
pub struct LastLook(Option<(Instant, Vec<u64>)>);

/// How long the last look may be ago: a process may have ended in the middle of it.
const THOROUGH: Duration = Duration::from_secs(4);

impl LastLook {
    /// Whether a look would find nothing new, as the same `cookies` are there.
    pub fn suffices(&self, cookies: &[u64]) -> bool {
        self.0.as_ref().is_some_and(|(at, seen)| at.elapsed() < THOROUGH && seen == cookies)
    }

    /// A look that found `cookies` went well.
    pub fn done(&mut self, cookies: Vec<u64>) {
        self.0 = Some((Instant::now(), cookies));
    }
}
