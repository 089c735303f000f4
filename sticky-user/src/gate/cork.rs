//! Corks: connections to the gate that never say anything. Each is a request in its queue, and fills it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use netlink_packet_sock_diag::inet::StateFlags;
use rustix::io::{DupFlags, dup3};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, socket_with, sockopt};
use sticky_ebpf::abi::{GATE, Relay, Source};

use crate::pool::id::{PoolId, Protocol};
use crate::pool::pins::Pins;
use crate::pool::socket;
use crate::say::say;
use crate::sock_diag::{self, Family};

/// How long one may take to fit, on the way from this host to itself.
const LIMIT: Duration = Duration::from_secs(2);

/// The corks of a gate. Dropped, they are pulled.
pub struct Corks {
    to: SocketAddr,
    pins: Pins,
    corks: Vec<Cork>,
}

struct Cork {
    from: SocketAddr,
    /// Closed, it resets the connection, so that the request goes without a trace.
    socket: OwnedFd,
}

impl Corks {
    /// Fits `count` corks to the gate of the pool `id`, which is in its place.
    pub fn fit(id: &PoolId, pins: Pins, count: usize) -> Result<Self> {
        let to = SocketAddr::new(socket::local(id), id.address.port());
        let mut corks = Self { to, pins, corks: Vec::new() };
        for _ in 0..count {
            corks.add().context("the gate cannot be corked")?;
        }
        Ok(corks)
    }

    /// Puts new ones in the place of those that the kernel has lost: it keeps a request for some hours at most, and
    /// anybody with the right may end one.
    pub fn renew(&mut self) -> Result<()> {
        let mut there = Vec::new();
        for family in [Family::V4, Family::V6] {
            sock_diag::dump(Protocol::Tcp, family, StateFlags::SYN_RECV, self.to.port(), |request| {
                let id = &request.header.socket_id;
                there.push(SocketAddr::new(id.destination_address.to_canonical(), id.destination_port));
            })?;
        }
        let (stay, lost): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.corks).into_iter().partition(|cork| there.contains(&cork.from));
        self.corks = stay;
        if lost.is_empty() {
            return Ok(());
        }
        say(format_args!("the gate of {} lost {} of its corks, which are renewed", self.to, lost.len()));
        for mut cork in lost {
            let _ = self.pins.unrelay(&source(cork.from));
            self.add()?;
            // The new one takes the descriptor of the old one, so as not to close before the sink.
            if let Some(new) = self.corks.last_mut() {
                dup3(&new.socket, &mut cork.socket, DupFlags::CLOEXEC)?;
                std::mem::swap(&mut new.socket, &mut cork.socket);
            }
        }
        Ok(())
    }

    /// The highest of their descriptors.
    pub fn last(&self) -> RawFd {
        self.corks.iter().map(|cork| cork.socket.as_raw_fd()).max().unwrap_or(0)
    }

    fn add(&mut self) -> Result<()> {
        let family = if self.to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(LIMIT))?;
        bind(&socket, &SocketAddr::new(self.to.ip(), 0))?;
        let from = SocketAddr::try_from(getsockname(&socket)?)?;
        let shown = from.ip().into();
        self.pins.relay(source(from), Relay::new(GATE, shown, from.port().to_be()))?;
        let cork = Cork { from: SocketAddr::new(IpAddr::to_canonical(&from.ip()), from.port()), socket };
        self.corks.push(cork);
        let socket = &self.corks[self.corks.len() - 1].socket;
        Ok(connect(socket, &self.to)?)
    }
}

fn source(from: SocketAddr) -> Source {
    Source::new(from.ip().into(), from.port().to_be())
}

impl Drop for Corks {
    fn drop(&mut self) {
        // The connections go first: while one is there, the program must know it.
        for cork in self.corks.drain(..) {
            let from = cork.from;
            drop(cork);
            let _ = self.pins.unrelay(&source(from));
        }
    }
}
