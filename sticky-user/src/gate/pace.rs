//! When to look for connections in TIME_WAIT: as connections come, since it is by them that ports come round.
//!
//! To look costs some milliseconds, as the kernel walks all its connections. Of the 14,000 ports that `connect` takes
//! first, Linux skips most at random, and they come round after some 2,000 connections; sooner where others connect
//! from and to the same addresses in other network namespaces, which share the row.

use std::time::{Duration, Instant};

/// How long to wait between looks at the counters while no connections come.
pub const IDLE: Duration = Duration::from_millis(200);
/// The same while they come, and the least time between two sweeps.
const BUSY: Duration = Duration::from_millis(25);
/// After so many connections is swept.
const MANY: u64 = 128;
/// After fewer, at the latest this long after the last sweep.
const LATEST: Duration = Duration::from_secs(4);
/// How long after the last connection. They stay for 60 s: `TCP_TIMEWAIT_LEN`.
const OVER: Duration = Duration::from_secs(70);

/// Keeps count of the gate's connections.
pub struct Pace {
    /// Connections so far, and when the last one came.
    seen: u64,
    moved: Option<Instant>,
    /// Those that there were at the last sweep, and when that was.
    swept: u64,
    at: Option<Instant>,
    /// Connections that the last sweep was too late for.
    recurred: u64,
    busy: bool,
}

impl Pace {
    /// Before the first connection.
    pub const fn new() -> Self {
        Self { seen: 0, moved: None, swept: 0, at: None, recurred: 0, busy: false }
    }

    /// Whether to sweep: there were so many connections so far, of which so many `recurred`.
    pub fn due(&mut self, seen: u64, recurred: u64, now: Instant) -> bool {
        self.busy = seen != self.seen;
        if self.busy {
            self.moved = Some(now);
        }
        self.seen = seen;
        let Some(moved) = self.moved else { return false };
        let late = std::mem::replace(&mut self.recurred, recurred) != recurred;
        let since = |at: Option<Instant>| at.map_or(Duration::MAX, |at| now.duration_since(at));
        let many = seen.wrapping_sub(self.swept) >= MANY;
        let old = since(self.at) >= LATEST && now.duration_since(moved) < OVER;
        let due = late || many || old;
        if due {
            (self.swept, self.at) = (seen, Some(now));
        }
        due
    }

    /// How long to wait before the next question.
    pub const fn wait(&self) -> Duration {
        if self.busy { BUSY } else { IDLE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often is swept in a minute of so many connections a second, looking as often as it says.
    fn sweeps(rate: u64) -> u32 {
        let (mut pace, begin, mut at) = (Pace::new(), Instant::now(), Duration::ZERO);
        let mut sweeps = 0;
        while at < Duration::from_secs(60) {
            let seen = (at.as_secs_f64() * rate as f64) as u64;
            sweeps += u32::from(pace.due(seen, 0, begin + at));
            at += pace.wait();
        }
        sweeps
    }

    #[test]
    fn as_many_sweeps_as_connections_need() {
        assert_eq!(sweeps(0), 0);
        assert!((14..=16).contains(&sweeps(1)), "{}", sweeps(1));
        // At each 128 connections, or somewhat later.
        assert!((395..=470).contains(&sweeps(1_000)), "{}", sweeps(1_000));
        // No more than this, however many there are.
        for rate in [10_000, 100_000] {
            assert!((2_380..=2_400).contains(&sweeps(rate)), "{}", sweeps(rate));
        }
    }

    #[test]
    fn who_recurs_is_swept_for_at_once() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        assert!(pace.due(1, 0, now));
        assert!(!pace.due(2, 0, now));
        assert!(pace.due(3, 1, now));
        assert!(!pace.due(4, 1, now));
    }

    #[test]
    fn once_all_are_over_nothing_is_looked_for() {
        let (mut pace, begin) = (Pace::new(), Instant::now());
        pace.due(1, 0, begin);
        assert!(pace.due(1, 0, begin + LATEST));
        assert!(!pace.due(1, 0, begin + OVER));
        assert!(pace.due(2, 0, begin + OVER * 2));
    }
}
