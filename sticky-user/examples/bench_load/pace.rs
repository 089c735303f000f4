//! When to send requests.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

use crate::Args;

/// As soon as possible, or at even intervals, until the time is over.
pub struct Pace {
    begin: Instant,
    end: Instant,
    interval: Option<Duration>,
    sent: u32,
}

impl Pace {
    /// Begins.
    pub fn begin(args: &Args) -> Self {
        let begin = Instant::now();
        let interval = args.rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
        Self { begin, end: begin + args.duration(), interval, sent: 0 }
    }

    /// Counts one request if it is time for one, and says since when: the answer to one that could not be sent in time
    /// is late all the same.
    pub fn due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let due = self.next().unwrap_or(now);
        (due <= now && due < self.end).then(|| {
            self.sent += 1;
            due
        })
    }

    /// How long it is until the next one, if the pace says so and there is one.
    pub fn rest(&self) -> Option<Timespec> {
        let next = self.next().filter(|&next| next < self.end)?;
        Timespec::try_from(next.saturating_duration_since(Instant::now())).ok()
    }

    fn next(&self) -> Option<Instant> {
        self.interval.map(|interval| self.begin + interval * self.sent)
    }
}
