//! Ending connections of proxies that are in TIME_WAIT, so that the next ones of their addresses and ports get cookies.
//!
//! A worker that closes first, as with HTTP/1.0, leaves its connections in TIME_WAIT for a minute, and a proxy's address
//! has some 28,000 ports. What TIME_WAIT is for, keeping late segments from the next connection, timestamps do too:
//! RFC 7323 section 5, and RFC 6191, by which the proxy's own kernel uses such ports again.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use netlink_packet_sock_diag::inet::StateFlags;
use sticky_ebpf::abi::Event;

use crate::kernel::Need;
use crate::pool::id::{PoolId, Protocol};
use crate::pool::pins::Pins;
use crate::redirect::events::Events;
use crate::say::say;
use crate::sock_diag::{self, Family};

/// Ends connections in TIME_WAIT.
pub struct Reaper {
    port: u16,
    address: Option<IpAddr>,
    /// That of the pool's sockets, whose connections are of it even where their addresses are v4-mapped.
    family: Family,
    events: Arc<Events>,
}

impl Reaper {
    /// For the pool `id`; `None`, with a word, where it is not safe or not allowed. Counts with the redirect's `events`.
    pub fn new(id: &PoolId, events: Arc<Events>) -> Option<Self> {
        let timestamps = fs::read_to_string("/proc/sys/net/ipv4/tcp_timestamps");
        let why = if !Need::EndSockets.met() {
            "CAP_NET_ADMIN is missing"
        } else if timestamps.is_ok_and(|value| value.trim() == "0") {
            "`net.ipv4.tcp_timestamps` is 0"
        } else {
            let ip = id.address.ip();
            let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
            let address = (!ip.is_unspecified()).then_some(ip);
            return Some(Self { port: id.address.port(), address, family, events });
        };
        say(format_args!(
            "connections in TIME_WAIT are left alone, as {why}: those that a proxy soon opens anew from the same port are redirected"
        ));
        None
    }

    /// How many connections were redirected, as an earlier one was still there.
    pub fn recurred(&self) -> u64 {
        self.events.counted(Event::Recurred)
    }

    /// Ends what is there.
    pub fn reap(&mut self, pins: &Pins) -> Result<()> {
        let (mut known, mut found) = (HashMap::new(), Vec::new());
        sock_diag::dump(Protocol::Tcp, self.family, StateFlags::TIME_WAIT, self.port, |socket| {
            found.push(socket.header.socket_id.clone());
        })?;
        found.retain(|id| {
            let peer = id.destination_address.to_canonical();
            let ours = self.address.is_none_or(|ip| ip == id.source_address);
            ours && *known.entry(peer).or_insert_with(|| pins.is_trusted(peer.into()).unwrap_or(false))
        });
        sock_diag::destroy(self.family, &found)?;
        self.events.add(Event::Reaped, found.len() as u64);
        Ok(())
    }
}
