//! Who has a connection open is not gone.
//!
//! The program sees a client when a connection begins. One that keeps a WebSocket for hours would be forgotten after
//! `--remember`, and a drain would take it for gone after `--idle`. So whoever follows a pool looks through the kernel's
//! list of its connections now and then, and the redirect through its own, and has the affinity table say that their
//! clients came this moment.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use netlink_packet_sock_diag::inet::StateFlags;
use sticky_ebpf::abi::{Config, Known, Mode, Source, Standing};
use sticky_ebpf::client::Client;

use super::Pool;
use super::id::{PoolId, Protocol};
use super::pins::Pins;
use crate::clock;
use crate::sock_diag::{self, Family};

/// When to look.
#[derive(Default)]
pub struct Pace(Option<Instant>);

impl Pace {
    /// Whether to look now: four times in the shortest time after which somebody would move, or be forgotten.
    pub fn due(&mut self, config: &Config, standings: &[Standing]) -> bool {
        let draining = standings.iter().filter(|standing| standing.mode() == Mode::Draining);
        let idle = draining.map(|standing| standing.idle).filter(|idle| *idle != 0).min();
        let shortest = idle.map_or(config.memory.remember, |idle| idle.min(config.memory.remember));
        let early = self.0.is_some_and(|last| last.elapsed() < clock::duration(shortest) / 4);
        if shortest == 0 || early {
            return false;
        }
        self.0 = Some(Instant::now());
        true
    }
}

impl Pool {
    /// Sees who has a connection open, when it is time to.
    pub fn see_present(&mut self) -> Result<()> {
        if self.presence.due(&self.pins.config()?, &self.pins.standings()?) {
            see_open(&self.id, &mut self.pins)?;
        }
        Ok(())
    }
}

/// Has the affinity table say that clients with connections open to the pool came this moment. Of connections of proxies
/// it is known whose they are where [`maps::GATED`](sticky_ebpf::abi::maps::GATED) says so; the redirect's are its own
/// business.
fn see_open(id: &PoolId, pins: &mut Pins) -> Result<()> {
    let config = pins.config()?;
    if id.protocol == Protocol::Udp || config.memory.remember == 0 {
        return Ok(());
    }
    let mut present = HashSet::new();
    for peer in peers(id)? {
        let client = Client::from(peer.ip());
        if !config.proxies.trusting() {
            present.insert(client);
            continue;
        }
        let source = Source::new(client, peer.port().to_be());
        if pins.is_relayed(&source)? {
            continue;
        }
        if pins.is_trusted(client)? {
            present.extend(pins.gated(&source)?);
        } else {
            present.insert(client);
        }
    }
    see(pins, present)
}

/// Has the affinity table say that these clients came this moment, those of them that are known.
pub fn see(pins: &mut Pins, present: impl IntoIterator<Item = Client>) -> Result<()> {
    let (masks, now) = (pins.config()?.masks, clock::now());
    for client in present {
        let client = masks.apply(client);
        let before = pins.known(client)?;
        if before != Known::NOBODY && before.seen < now {
            pins.renew(client, before, Known::new(before.slot, now))?;
        }
    }
    Ok(())
}

/// Where the connections to the pool come from.
fn peers(id: &PoolId) -> Result<Vec<SocketAddr>> {
    let at = id.address.ip().to_canonical();
    let family = if id.address.is_ipv4() { Family::V4 } else { Family::V6 };
    let mut peers = Vec::new();
    sock_diag::dump(Protocol::Tcp, family, StateFlags::ESTABLISHED, id.address.port(), |connection| {
        let ends = &connection.header.socket_id;
        if at.is_unspecified() || ends.source_address.to_canonical() == at {
            peers.push(SocketAddr::new(ends.destination_address, ends.destination_port));
        }
    })
    .context("the kernel's list of connections (`sock_diag`) cannot be read")?;
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use sticky_ebpf::abi::Memory;
    use sticky_ebpf::client::Masks;
    use sticky_ebpf::hash::Seed;

    #[test]
    fn four_looks_in_the_shortest_time() {
        let config = |remember| {
            let memory = Memory::NONE.with_remember(clock::units(Duration::from_secs(remember)));
            Config { memory, ..Config::new(2, Seed([1, 2]), Masks::new(32, 64)) }
        };
        let ready = Standing::default();
        let draining = |idle| ready.draining(clock::now(), 0, clock::units(Duration::from_secs(idle)));
        let ago = |seconds| Pace(Instant::now().checked_sub(Duration::from_secs(seconds)));
        assert!(Pace(None).due(&config(3600), &[ready]));
        assert!(!Pace(None).due(&config(0), &[ready]));
        assert!(!ago(890).due(&config(3600), &[ready]));
        assert!(ago(910).due(&config(3600), &[ready]));
        assert!(ago(80).due(&config(3600), &[ready, draining(300)]));
        assert!(!ago(70).due(&config(3600), &[ready, draining(300)]));
        assert!(!ago(890).due(&config(3600), &[draining(0)]), "nobody moves for being idle");
        let mut pace = ago(910);
        assert!(pace.due(&config(3600), &[ready]) && !pace.due(&config(3600), &[ready]));
    }
}
