//! What the redirect counts, for `sticky status`.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use sticky_ebpf::abi::Event;

use crate::pool::pins::Pins;

/// Counters that all threads add to.
pub struct Events {
    counted: [AtomicU64; Event::ALL.len()],
    published: [AtomicU64; Event::ALL.len()],
}

impl Events {
    /// Goes on from what is pinned. What was open when the last redirect was killed, is so no more.
    pub fn adopt(pins: &Pins) -> Result<Self> {
        let events = Self { counted: Default::default(), published: Default::default() };
        for event in Event::ALL {
            events.counter(event).store(pins.redirected(event)?, Ordering::Relaxed);
        }
        events.counter(Event::Closed).store(pins.redirected(Event::Connection)?, Ordering::Relaxed);
        Ok(events)
    }

    /// How often this was counted.
    pub fn counted(&self, event: Event) -> u64 {
        self.counter(event).load(Ordering::Relaxed)
    }

    /// Counts one.
    pub fn count(&self, event: Event) {
        self.add(event, 1);
    }

    /// Counts several.
    pub fn add(&self, event: Event, count: u64) {
        self.counter(event).fetch_add(count, Ordering::Relaxed);
    }

    /// Writes what has changed to where `status` looks.
    pub fn publish(&self, pins: &mut Pins) -> Result<()> {
        for event in Event::ALL {
            let now = self.counted(event);
            if self.published[event as usize].swap(now, Ordering::Relaxed) != now {
                pins.set_redirected(event, now)?;
            }
        }
        Ok(())
    }

    fn counter(&self, event: Event) -> &AtomicU64 {
        &self.counted[event as usize]
    }
}
