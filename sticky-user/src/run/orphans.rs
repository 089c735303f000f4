//! The first process of a PID namespace, as sticky is in a container, becomes the parent of all whose parents have ended,
//! and somebody has to take note of their ends: until then they stay as zombies, and count against the container's limit.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, waitpid};

/// Children that have ended, and since when they are known to.
#[derive(Default)]
pub struct Orphans(HashMap<i32, Instant>);

/// For so long nobody took note of an orphan's end; of its own children's, tokio does at once.
const NOBODYS: Duration = Duration::from_secs(1);

impl Orphans {
    /// Takes note of the ends that nobody else does.
    pub fn reap(&mut self) {
        if std::process::id() != 1 {
            return;
        }
        let children = fs::read_to_string("/proc/1/task/1/children").unwrap_or_default();
        let ended =
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| has_ended(*pid));
        self.0 = ended.map(|pid| (pid, self.0.get(&pid).copied().unwrap_or_else(Instant::now))).collect();
        let orphans = self.0.iter().filter(|(_, since)| since.elapsed() > NOBODYS);
        for pid in orphans.filter_map(|(pid, _)| Pid::from_raw(*pid)) {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// "4711 (a name) Z 1 …", proc_pid_stat(5).
fn has_ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}
