//! What is remembered of clients and said of slots: the affinity table, pins, and how slots stand.

use std::os::fd::{AsFd, AsRawFd as _};

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{IterableMap as _, MapData, MapError};
use ipnet::IpNet;
use sticky_ebpf::abi::{
    Cause, Counted, Known, MAX_PINS, MAX_SLOTS, Pin, Place, Slot, Standing, moved_counter,
    redirect_moved_counter,
};
use sticky_ebpf::client::Client;

use super::{Pins, found, key, prefix};
use crate::refusal::Refusal;
use crate::sys;

/// Entries that are read with one call.
const BATCH: usize = 4096;

impl Pins {
    /// What the affinity table says of a client, under the pool's masks.
    pub fn known(&self, client: Client) -> Result<Known> {
        Ok(found(self.known.get(&client, 0))?.map_or(Known::NOBODY, Known::from_word))
    }

    /// Has the affinity table say `new` of a client if it still says `old`; what it says then.
    ///
    /// Unlike the program, which changes a word in its place, this may lose against it, once.
    pub fn renew(&mut self, client: Client, old: Known, new: Known) -> Result<Known> {
        const BPF_NOEXIST: u64 = 1;
        const BPF_EXIST: u64 = 2;
        let says = self.known(client)?;
        if says != old {
            return Ok(says);
        }
        let flag = if old == Known::NOBODY { BPF_NOEXIST } else { BPF_EXIST };
        match self.known.insert(client, new.to_word(), flag) {
            Ok(()) => Ok(new),
            // Somebody else was faster.
            Err(_) => self.known(client).map(|says| if says == Known::NOBODY { new } else { says }),
        }
    }

    /// Remembers a client, whatever was known of it.
    pub fn remember(&mut self, client: Client, known: Known) -> Result<()> {
        Ok(self.known.insert(client, known.to_word(), 0)?)
    }

    /// Forgets a client.
    pub fn forget(&mut self, client: &Client) -> Result<()> {
        match self.known.remove(client) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(_) if self.known(*client)? == Known::NOBODY => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// All clients in the affinity table, those whose time is over too.
    pub fn clients(&self) -> Result<Vec<(Client, Known)>> {
        read_all(self.known.map())
    }

    /// How many clients there is room for.
    pub fn room(&self) -> Result<u32> {
        Ok(self.known.map().info()?.max_entries())
    }

    /// The pin that covers a client.
    pub fn pin_of(&self, client: Client) -> Result<Option<Pin>> {
        found(self.pins.get(&Key::new(128, client), 0))
    }

    /// All pins, those whose time is over too.
    pub fn pins(&self) -> Result<Vec<(IpNet, Pin)>> {
        let found = self.pins.iter().map(|entry| {
            let (key, pin) = entry?;
            Ok((prefix(&key)?, pin))
        });
        let mut found = found.collect::<Result<Vec<_>>>()?;
        found.sort_by_key(|(prefix, _)| *prefix);
        Ok(found)
    }

    /// Pins a prefix.
    pub fn pin(&mut self, prefix: &IpNet, pin: Pin) -> Result<()> {
        self.pins.insert(&key(prefix), pin, 0).map_err(|error| {
            let error = anyhow::Error::new(error);
            match self.pins() {
                Ok(pins) if pins.len() >= MAX_PINS => error.context(Refusal::new(
                    format!("{MAX_PINS} prefixes are pinned already, which is the most there can be"),
                    "unpin some (`sticky pins` lists them), or pin fewer, larger ones",
                )),
                Ok(_) | Err(_) => error.context(format!("{prefix} cannot be pinned")),
            }
        })?;
        self.amend(|config| sticky_ebpf::abi::Config { memory: config.memory.with_pins(), ..config })?;
        Ok(())
    }

    /// Pins a prefix no more; false when it was not pinned.
    pub fn unpin(&mut self, prefix: &IpNet) -> Result<bool> {
        match self.pins.remove(&key(prefix)) {
            Ok(()) => Ok(true),
            Err(_) if !self.pins()?.iter().any(|(pinned, _)| *pinned == prefix.trunc()) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// How a slot stands.
    pub fn standing(&self, slot: Slot) -> Result<Standing> {
        Ok(self.standings.get(&u32::from(slot), 0)?)
    }

    /// How each slot in use stands.
    pub fn standings(&self) -> Result<Vec<Standing>> {
        let slots = self.config()?.slots.min(MAX_SLOTS as u32) as Slot;
        (0..slots).map(|slot| self.standing(slot)).collect()
    }

    /// Changes how slots stand.
    pub fn set_standings(
        &mut self,
        mut slots: impl Iterator<Item = Slot>,
        change: impl Fn(Standing) -> Standing,
    ) -> Result<()> {
        slots.try_for_each(|slot| {
            let standing = change(self.standing(slot)?);
            Ok(self.standings.set(u32::from(slot), standing, 0)?)
        })
    }

    /// Connections that a slot has open, of those that came since they are counted.
    pub fn open_connections(&self, slot: Slot) -> Result<u64> {
        Ok(self.open.get(&u32::from(slot), 0)?)
    }

    /// Whether connections are counted.
    pub fn counts(&self) -> Result<bool> {
        Ok(self.config()?.memory.place() == Place::Least)
    }

    /// Has the connections that come to a listening socket counted as those of a slot.
    pub fn count_at(&mut self, slot: Slot, socket: impl AsFd) -> Result<()> {
        let counted = self.counted.insert(&socket.as_fd().as_raw_fd(), Counted::listener(slot), 0);
        counted.context("connections of a worker's socket cannot be counted")
    }

    /// Known clients that moved away from a slot since the pool was created.
    pub fn moved(&self, from: Slot, cause: Cause) -> Result<u64> {
        let cause = cause as u32;
        Ok(self.count(moved_counter(from, cause))?
            + self.redirect_count(redirect_moved_counter(from, cause))?)
    }
}

/// Reads all of the affinity table.
pub fn read_all(map: &MapData) -> Result<Vec<(Client, Known)>> {
    let mut found = Vec::new();
    let (mut keys, mut values) = (vec![Client::default(); BATCH], vec![0u64; BATCH]);
    let mut place = None;
    loop {
        let read = sys::read_entries(map.fd(), place, &mut keys, &mut values);
        let (count, next) = read.context("the affinity table cannot be read")?;
        let entries = keys.iter().zip(&values).take(count);
        found.extend(entries.map(|(client, word)| (*client, Known::from_word(*word))));
        match next {
            Some(_) => place = next,
            None => return Ok(found),
        }
    }
}
