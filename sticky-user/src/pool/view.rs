//! A pool as steering sees it from user space: the maps that the program reads, through the library's [`Maps`].

use std::cell::RefCell;

use anyhow::Result;
use sticky_ebpf::abi::{Config, Known, Moment, Pin, Slot, Standing, Table};
use sticky_ebpf::client::Client;
use sticky_ebpf::steer::{Choice, Maps, Whom, steer};

use super::pins::Pins;
use crate::clock;

/// What changes seldom, read at one time.
pub struct Snapshot {
    /// How the pool is steered.
    pub config: Config,
    /// Its lookup table.
    pub table: Box<Table>,
    /// The cookie of the socket in each slot in use.
    pub cookies: Vec<Option<u64>>,
    /// How each slot in use stands.
    pub standings: Vec<Standing>,
}

impl Snapshot {
    /// Reads it, and the table only if `old` has another one.
    pub fn read(pins: &Pins, old: Option<Self>) -> Result<Self> {
        let config = pins.config()?;
        let table = match old {
            // Equal configurations have equal tables: they are built from nothing else.
            Some(old) if old.config == config => old.table,
            Some(_) | None => Box::new(pins.table(&config)?),
        };
        Ok(Self { config, table, cookies: pins.cookies()?, standings: pins.standings()? })
    }

    /// The cookie of the socket in a slot; `None` where there is none.
    pub fn cookie(&self, slot: Slot) -> Option<u64> {
        self.cookies.get(usize::from(slot)).copied().flatten()
    }
}

/// A pool, for one decision.
pub struct View<'a> {
    /// What was read of it.
    pub snapshot: &'a Snapshot,
    /// The rest.
    pub pins: &'a RefCell<Pins>,
    /// Slots that are not to be taken.
    pub without: &'a [Slot],
    /// Told of a known client that moves, from which slot and for which cause. `None`: nothing is to be changed.
    pub moves: Option<&'a dyn Fn(Slot, u32)>,
}

impl View<'_> {
    /// The slot for a client; `None` when no worker is left.
    pub fn steer(&self, client: Client) -> Option<Choice> {
        let Snapshot { config, table, .. } = self.snapshot;
        steer(config, table, Whom::client(config, client), self)
    }
}

/// What cannot be read counts as not there: a connection is steered by what is left.
impl Maps for View<'_> {
    fn now(&self) -> Moment {
        clock::now()
    }

    fn pin(&self, client: Client) -> Option<Pin> {
        self.pins.borrow().pin_of(client).unwrap_or_default()
    }

    fn known(&self, client: Client) -> Known {
        self.pins.borrow().known(client).unwrap_or(Known::NOBODY)
    }

    fn renew(&self, client: Client, old: Known, new: Known) -> Known {
        if self.moves.is_none() {
            return new;
        }
        self.pins.borrow_mut().renew(client, old, new).unwrap_or(new)
    }

    fn standing(&self, slot: Slot) -> Option<&Standing> {
        self.snapshot.standings.get(usize::from(slot))
    }

    fn open(&self, slot: Slot) -> u64 {
        self.pins.borrow().open_connections(slot).unwrap_or(0)
    }

    fn select(&self, slot: Slot) -> bool {
        !self.without.contains(&slot) && self.snapshot.cookie(slot).is_some()
    }

    fn moved(&self, from: Slot, cause: u64) {
        if let Some(moves) = self.moves {
            moves(from, cause as u32);
        }
    }

    fn forget(&self, number: u64) -> u64 {
        number
    }
}
