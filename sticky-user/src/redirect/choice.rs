//! Whose request it is, and which slot that client has: the library's answers, on the maps that the program reads.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use hyper::HeaderMap;
use sticky_ebpf::abi::{Config, Slot};
use sticky_ebpf::client::Client;
use sticky_ebpf::forwarded::Walk;

use super::events::Events;
use super::present::Present;
use crate::pool::pins::Pins;
use crate::pool::presence::{self, Pace};
use crate::pool::view::{Snapshot, View};

/// How old may be what was read from the maps: long enough for a hundred requests, too short to notice.
const FRESH: Duration = Duration::from_millis(2);

/// The pool as the redirect reads it.
pub struct Choice {
    pins: RefCell<Pins>,
    events: Arc<Events>,
    read: RefCell<Option<(Instant, Snapshot)>>,
}

impl Choice {
    /// Decides by these maps, and counts moves of clients with the `events`.
    pub fn new(pins: Pins, events: Arc<Events>) -> Self {
        Self { pins: RefCell::new(pins), events, read: RefCell::new(None) }
    }

    /// How the pool is steered.
    pub fn config(&self) -> Result<Config> {
        self.with(|snapshot| snapshot.config)
    }

    /// Whether a header from `peer` is believed. Anybody may get here when the program was detached from the group.
    pub fn is_trusted(&self, peer: Client) -> Result<bool> {
        self.pins.borrow().is_trusted(peer)
    }

    /// The client of a request with these `headers` from `peer`, which is a trusted proxy.
    pub fn client(&self, config: &Config, peer: Client, headers: &HeaderMap) -> Result<Client> {
        let name = &config.proxies.header;
        let mut walk = Walk::new(name.kind());
        let mut failed = None;
        let mut trusted = |client| {
            self.is_trusted(client).unwrap_or_else(|error| {
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
    /// worker is left. Where a worker that was tried lives, its clients stay its own: it may have had enough of a request.
    pub fn slot(&self, client: Client, tried: &[Slot]) -> Result<Option<(Slot, u64)>> {
        self.with(|snapshot| {
            let moves = |from, cause| self.events.moved(from, cause);
            let lives = tried.iter().any(|slot| snapshot.cookie(*slot).is_some());
            let moves: Option<&dyn Fn(Slot, u32)> = if lives { None } else { Some(&moves) };
            let view = View { snapshot, pins: &self.pins, without: tried, moves };
            let choice = view.steer(client)?;
            snapshot.cookie(choice.slot).map(|cookie| (choice.slot, cookie))
        })
    }

    /// Has the affinity table say that who is `present` came this moment, when it is time to.
    pub fn see(&self, present: &Present, pace: &mut Pace) -> Result<()> {
        let clients = present.clients();
        if clients.is_empty() || !self.with(|snapshot| pace.due(&snapshot.config, &snapshot.standings))? {
            return Ok(());
        }
        presence::see(&mut self.pins.borrow_mut(), clients)
    }

    /// Answers from what is in the maps.
    fn with<T>(&self, answer: impl FnOnce(&Snapshot) -> T) -> Result<T> {
        let mut read = self.read.borrow_mut();
        let now = Instant::now();
        let old = match read.take() {
            Some((at, snapshot)) if now.duration_since(at) < FRESH => {
                return Ok(answer(&read.insert((at, snapshot)).1));
            }
            old => old.map(|(_, snapshot)| snapshot),
        };
        let snapshot = Snapshot::read(&self.pins.borrow(), old)?;
        Ok(answer(&read.insert((now, snapshot)).1))
    }
}
