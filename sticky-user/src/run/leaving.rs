//! A worker on its way out: nobody new is sent to it, its connections may end, then it is told to.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::worker::Worker;

/// How long at least until it is told to end: a connection that was just being made may be on its way to it.
const SETTLE: Duration = Duration::from_millis(100);

/// A worker that leaves.
pub struct Leaver {
    /// Its process.
    pub worker: Worker,
    /// Who it is, in words.
    pub who: String,
    /// Its connections, when they were last counted.
    pub open: usize,
    since: Instant,
    drain: Duration,
    grace: Duration,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its connections may end.
    Draining,
    /// It was told to end, then.
    Told(Instant),
    /// It was killed.
    Killed,
}

impl Leaver {
    /// Lets it have this long for its connections, and then the grace period.
    pub fn new(worker: Worker, who: String, drain: Duration, grace: Duration) -> Self {
        Self { worker, who, open: 0, since: Instant::now(), drain, grace, stage: Stage::Draining }
    }

    /// The next step, given the numbers of connections by cgroup, if they are known. True when it is gone.
    pub fn step(&mut self, connections: Option<&HashMap<u64, usize>>) -> bool {
        let ended = self.worker.exit().is_some();
        if ended && self.worker.cgroup.processes().is_empty() {
            return true;
        }
        match self.stage {
            // What it left behind is nobody's worker.
            Stage::Draining if ended => self.kill(),
            Stage::Draining => {
                let idle = connections.zip(self.worker.cgroup.id()).is_some_and(|(connections, cgroup)| {
                    self.open = connections.get(&cgroup).copied().unwrap_or(0);
                    self.open == 0
                });
                let waited = self.since.elapsed();
                if waited >= self.drain || (idle && waited >= SETTLE) {
                    self.worker.terminate();
                    self.stage = Stage::Told(Instant::now());
                }
            }
            Stage::Told(at) if at.elapsed() >= self.grace => self.kill(),
            Stage::Told(_) | Stage::Killed => {}
        }
        false
    }

    /// Whether it may still have connections.
    pub fn is_draining(&self) -> bool {
        self.stage == Stage::Draining
    }

    /// Whether it had to be killed.
    pub fn was_killed(&self) -> bool {
        self.stage == Stage::Killed
    }

    fn kill(&mut self) {
        self.worker.cgroup.kill();
        self.stage = Stage::Killed;
    }
}
