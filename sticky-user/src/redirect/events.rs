//! What the redirect counts, for `sticky status`.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use sticky_ebpf::abi::Event;

use crate::pool::pins::Pins;

/// Counters that all threads add to. They begin at zero, and are added to what is pinned: another process may do so too.
#[derive(Default)]
pub struct Events {
    counted: [AtomicU64; Event::ALL.len()],
    published: [AtomicU64; Event::ALL.len()],
}

impl Events {
    /// What was open when the last redirect was killed, is so no more.
    pub fn settle(pins: &mut Pins) -> Result<()> {
        pins.set_redirected(Event::Closed, pins.redirected(Event::Connection)?)
    }

    /// Counts one.
    pub fn count(&self, event: Event) {
        self.add(event, 1);
    }

    /// Counts several.
    pub fn add(&self, event: Event, count: u64) {
        self.counter(event).fetch_add(count, Ordering::Relaxed);
    }

    /// Adds what is new to where `status` looks.
    pub fn publish(&self, pins: &mut Pins) -> Result<()> {
        for event in Event::ALL {
            let now = self.counter(event).load(Ordering::Relaxed);
            let before = self.published[event as usize].swap(now, Ordering::Relaxed);
            if before != now {
                pins.set_redirected(event, pins.redirected(event)? + (now - before))?;
            }
        }
        Ok(())
    }

    fn counter(&self, event: Event) -> &AtomicU64 {
        &self.counted[event as usize]
    }
}
