//! The first process of a PID namespace, as sticky is in a container, becomes the parent of all whose parents have ended,
//! and somebody has to take note of their ends: until then they stay as zombies, and count against the container's limit.

use std::collections::HashSet;
use std::fs;

use rustix::process::{Pid, WaitOptions, waitpid};

/// Children that had ended when last looked at.
#[derive(Default)]
pub struct Orphans(HashSet<i32>);

impl Orphans {
    /// Takes note of the ends of children that nobody else did since the last look: of its own, tokio does at once.
    pub fn reap(&mut self) {
        if std::process::id() != 1 {
            return;
        }
        let ended: HashSet<_> = children().filter(|pid| has_ended(*pid)).collect();
        for pid in self.0.intersection(&ended).filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        self.0 = ended;
    }
}

fn children() -> impl Iterator<Item = i32> {
    let list = fs::read_to_string("/proc/1/task/1/children").unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>().into_iter()
}

/// "4711 (a name) Z 1 …", proc_pid_stat(5).
fn has_ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}
