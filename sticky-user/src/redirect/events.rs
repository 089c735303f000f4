//! What the redirect counts, for `sticky status`.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use sticky_ebpf::abi::{Event, REDIRECTED, Slot, redirect_moved_counter};

use crate::pool::pins::Pins;

/// Counters that all threads add to. They begin at zero, and are added to what is pinned: another process may do so too.
pub struct Events {
    counted: [AtomicU64; REDIRECTED],
    published: [AtomicU64; REDIRECTED],
}

impl Events {
    /// Nothing counted.
    pub fn new() -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Self { counted: zeros(), published: zeros() }
    }

    /// What was open when the last redirect was killed, is so no more.
    pub fn settle(pins: &mut Pins) -> Result<()> {
        pins.set_redirect_count(Event::Closed as u32, pins.redirected(Event::Connection)?)
    }

    /// How often this was counted.
    pub fn counted(&self, event: Event) -> u64 {
        self.counted[event as usize].load(Ordering::Relaxed)
    }

    /// Counts one.
    pub fn count(&self, event: Event) {
        self.add(event, 1);
    }

    /// Counts several.
    pub fn add(&self, event: Event, count: u64) {
        self.counted[event as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Counts a known client that moved away from a slot.
    pub fn moved(&self, from: Slot, cause: u32) {
        if let Some(counter) = self.counted.get(redirect_moved_counter(from, cause) as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds what is new to where `status` looks.
    pub fn publish(&self, pins: &mut Pins) -> Result<()> {
        for (counter, (counted, published)) in (0..).zip(self.counted.iter().zip(&self.published)) {
            let now = counted.load(Ordering::Relaxed);
            let before = published.swap(now, Ordering::Relaxed);
            if before != now {
                pins.set_redirect_count(counter, pins.redirect_count(counter)? + (now - before))?;
            }
        }
        Ok(())
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}
