//! The sockets that can be steered: what the kernel lists (`sock_diag(7)`), and which processes hold them (`/proc`).

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

use crate::pool::id::{PoolId, Protocol};

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
    for family in [AF_INET, AF_INET6] {
        dump(protocol, family, |response| {
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

/// Asks for all listening sockets of a family and hands each answer to `each`.
fn dump(protocol: Protocol, family: u8, mut each: impl FnMut(&InetResponse)) -> Result<()> {
    let (protocol, states, id) = (
        match protocol {
            Protocol::Tcp => IPPROTO_TCP,
            Protocol::Udp => IPPROTO_UDP,
        },
        match protocol {
            Protocol::Tcp => StateFlags::LISTEN,
            Protocol::Udp => StateFlags::CLOSE,
        },
        if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
    );
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request =
        InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id: id };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.send(&bytes, 0)?;
    let mut answers = Vec::with_capacity(64 * 1024);
    loop {
        answers.clear();
        socket.recv(&mut answers, 0)?;
        let mut rest = answers.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            #[expect(clippy::wildcard_enum_match_arm, reason = "there may be more kinds one day")]
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => each(&response),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                other => bail!("unexpected answer {other:?}"),
            }
        }
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
