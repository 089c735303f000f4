//! Whose request it is, and which slot that client has: the library's answers, on the maps that the program reads.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::Result;
use hyper::HeaderMap;
use sticky_ebpf::abi::{Config, Slot, Table};
use sticky_ebpf::client::Client;
use sticky_ebpf::forwarded::Walk;
use sticky_ebpf::steer::{affine, steer};

use crate::pool::pins::Pins;

/// How old may be what was read from the maps: long enough for a hundred requests, too short to notice.
const FRESH: Duration = Duration::from_millis(2);

/// The pool as the redirect reads it.
pub struct Choice {
    pins: Pins,
    read: RefCell<Option<Read>>,
}

/// What was read from the maps.
struct Read {
    at: Instant,
    config: Config,
    table: Box<Table>,
    /// The cookie of the socket in each slot.
    cookies: Vec<Option<u64>>,
}

impl Choice {
    /// Decides by these maps.
    pub fn new(pins: Pins) -> Self {
        Self { pins, read: RefCell::new(None) }
    }

    /// How the pool is steered.
    pub fn config(&self) -> Result<Config> {
        self.with(|read| read.config)
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
    pub fn slot(&self, client: Client, tried: &[Slot]) -> Result<Option<(Slot, u64)>> {
        self.with(|Read { config, table, cookies, .. }| {
            let cookie = |slot: Slot| cookies.get(usize::from(slot)).copied().flatten();
            let alive = |slot| !tried.contains(&slot) && cookie(slot).is_some();
            let choice = steer(config, table, affine(config, client), alive)?;
            cookie(choice.slot).map(|cookie| (choice.slot, cookie))
        })
    }

    /// Answers from what is in the maps.
    fn with<T>(&self, answer: impl FnOnce(&Read) -> T) -> Result<T> {
        let mut read = self.read.borrow_mut();
        let now = Instant::now();
        if let Some(read) = &*read
            && now.duration_since(read.at) < FRESH
        {
            return Ok(answer(read));
        }
        let config = self.pins.config()?;
        let cookies = self.pins.cookies()?;
        let table = match read.take() {
            // Equal configurations have equal tables: they are built from nothing else.
            Some(old) if old.config == config => old.table,
            Some(_) | None => Box::new(self.pins.table(&config)?),
        };
        Ok(answer(read.insert(Read { at: now, config, table, cookies })))
    }
}
