//! Whose request it is, and which slot that client has: the library's answers, on the maps that the program reads.

use std::cell::RefCell;

use anyhow::Result;
use hyper::HeaderMap;
use sticky_ebpf::abi::{Config, Slot, Table};
use sticky_ebpf::client::Client;
use sticky_ebpf::forwarded::Walk;
use sticky_ebpf::steer::{affine, steer};

use crate::pool::pins::Pins;

/// The pool as the redirect reads it.
pub struct Choice {
    pins: Pins,
    /// The lookup table and the configuration that it goes with.
    table: RefCell<Option<(Config, Box<Table>)>>,
}

impl Choice {
    /// Decides by these maps.
    pub fn new(pins: Pins) -> Self {
        Self { pins, table: RefCell::new(None) }
    }

    /// How the pool is steered at this moment.
    pub fn config(&self) -> Result<Config> {
        self.pins.config()
    }

    /// Whether a header from `peer` is believed. Anybody may get here when the program was detached from the group.
    pub fn is_trusted(&self, peer: Client) -> Result<bool> {
        self.pins.is_trusted(peer)
    }

    /// The client of a request with these `headers` from `peer`, which is a trusted proxy.
    pub fn client(&self, config: &Config, peer: Client, headers: &HeaderMap) -> Result<Client> {
        let name = &config.proxies.header;
        let mut walk = Walk::new(name.kind());
        let mut failed = None;
        let mut trusted = |client| {
            self.pins.is_trusted(client).unwrap_or_else(|error| {
                failed = Some(error);
                false
            })
        };
        for line in headers.get_all(name.as_str()) {
            line.as_bytes().iter().for_each(|&byte| walk.byte(byte, &mut trusted));
            walk.line_end(&mut trusted);
        }
        failed.map_or_else(|| Ok(walk.client(peer)), Err)
    }

    /// The slot for `client`, passing over those in `tried`, and the cookie of the socket in it; `None` when no
    /// worker is left.
    pub fn slot(&self, config: &Config, client: Client, tried: &[Slot]) -> Result<Option<(Slot, u64)>> {
        let mut cached = self.table.borrow_mut();
        let table = match &*cached {
            // Equal configurations have equal tables: they are built from nothing else.
            Some((known, table)) if known == config => table,
            _ => &cached.insert((*config, Box::new(self.pins.table(config)?))).1,
        };
        let mut found = Ok(None);
        let choice = steer(config, table, affine(config, client), |slot| {
            if tried.contains(&slot) {
                return false;
            }
            found = self.pins.cookie(slot);
            !matches!(found, Ok(None))
        });
        Ok(match choice {
            Some(choice) => found?.map(|cookie| (choice.slot, cookie)),
            None => None,
        })
    }
}
