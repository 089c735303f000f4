//! Who is known, counted: how many clients each slot has, and how many of them would move.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use sticky_ebpf::abi::{Known, MAX_SLOTS, Slot, Standing};
use sticky_ebpf::client::Client;

use crate::clock;
use crate::pool::pins::Pins;

/// The known clients of a pool at one moment.
pub struct Clients {
    clients: Vec<(Client, Known)>,
    standings: Vec<Standing>,
}

impl Clients {
    /// Those whose time is not over.
    pub fn now(pins: &Pins) -> Result<Self> {
        let (config, now) = (pins.config()?, clock::now());
        let standings = (0..MAX_SLOTS as Slot).map(|slot| pins.standing(slot)).collect::<Result<Vec<_>>>()?;
        let mut clients = if config.memory.remember == 0 { Vec::new() } else { pins.clients()? };
        clients.retain(|(_, known)| now.since(known.seen) < config.memory.remember);
        Ok(Self { clients, standings })
    }

    /// All of them.
    pub fn all(&self) -> &[(Client, Known)] {
        &self.clients
    }

    /// How many each slot has.
    pub fn by_slot(&self) -> Vec<usize> {
        self.count(|_| true)
    }

    /// How many each slot keeps: those of a slot that is drained, or in maintenance, are as good as gone.
    pub fn kept_by_slot(&self) -> Vec<usize> {
        let now = clock::now();
        self.count(|known| self.standings[usize::from(known.slot)].keeps(known.seen, now).is_ok())
    }

    fn count(&self, counts: impl Fn(&Known) -> bool) -> Vec<usize> {
        let mut slots = vec![0; MAX_SLOTS];
        for (_, known) in self.clients.iter().filter(|(_, known)| usize::from(known.slot) < MAX_SLOTS) {
            slots[usize::from(known.slot)] += usize::from(counts(known));
        }
        slots
    }

    /// How many there are in a prefix, and how many of these are not at `slot`.
    pub fn in_prefix(&self, prefix: &IpNet, slot: Slot) -> (usize, usize) {
        let inside = self.clients.iter().filter(|(client, _)| prefix.contains(&IpAddr::from(*client)));
        let (mut all, mut elsewhere) = (0, 0);
        for (_, known) in inside {
            all += 1;
            elsewhere += usize::from(known.slot != slot);
        }
        (all, elsewhere)
    }
}
