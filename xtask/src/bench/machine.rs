//! The machine the figures are from, and what else it does meanwhile.

use std::process::{self, Command};
use std::thread::available_parallelism;
use std::{fmt, fs};

use anyhow::{Context as _, Result};

use crate::workspace;

/// Kernel and processors, in words.
pub fn describe() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cpus = Processors::all().count();
    format!("Linux {}, {cpus} CPUs ({})", kernel.trim_end(), model.map_or("unknown", |(_, name)| name))
}

/// Some of the processors, one after the other.
#[derive(Clone, Copy)]
pub struct Processors {
    first: usize,
    last: usize,
}

impl Processors {
    /// All of them, before [`Self::keep`] left some out.
    pub fn all() -> Self {
        Self { first: 0, last: available_parallelism().map_or(1, usize::from) - 1 }
    }

    /// The first, and the others; when there is one it is both.
    pub fn split(self) -> (Self, Self) {
        (Self { last: self.first, ..self }, Self { first: self.last.min(self.first + 1), ..self })
    }

    /// How many.
    pub fn count(self) -> usize {
        self.last + 1 - self.first
    }

    /// `command` on no other processors, with nothing but its arguments kept.
    pub fn only(self, command: &Command) -> Command {
        let mut only = Command::new("taskset");
        only.args(["--cpu-list", &self.to_string()]).arg(command.get_program()).args(command.get_args());
        only
    }

    /// Keeps this process to them, and what it starts from now on.
    pub fn keep(self) -> Result<()> {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", "--pid", &self.to_string(), &process::id().to_string()]);
        workspace::output(&mut command).map(|_| ())
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Processor time spent so far, in hundredths of a second (`USER_HZ`).
pub struct Spent {
    /// By everybody, the hypervisor's other guests included.
    all: u64,
    /// By the processes of this PID namespace: the bench's.
    own: u64,
}

impl Spent {
    /// What was spent until now.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let numbers = stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1);
        let times: Vec<u64> = numbers.map_while(|number| number.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal, proc_stat(5); guests' time is in user's.
        let &[user, nice, system, _, _, irq, softirq, steal, ..] = times.as_slice() else {
            anyhow::bail!("`/proc/stat` cannot be understood");
        };
        let entries = fs::read_dir("/proc").context("`/proc` cannot be read")?.flatten();
        // Not `self`, which has a number of its own.
        let processes = entries.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
        let own =
            processes.filter_map(|entry| time(&fs::read_to_string(entry.path().join("stat")).ok()?)).sum();
        Ok(Self { all: user + nice + system + irq + softirq + steal, own })
    }

    /// The share of the time since `before` that others than the bench spent.
    pub fn by_others_since(&self, before: &Self) -> f64 {
        let (all, own) = (self.all.saturating_sub(before.all), self.own.saturating_sub(before.own));
        if all == 0 { 0.0 } else { all.saturating_sub(own) as f64 / all as f64 }
    }
}

/// A process's time and that of its children that ended, from its `stat`: proc_pid_stat(5).
fn time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_ascii_whitespace().skip(11).take(4);
    Some(times.filter_map(|time| time.parse::<u64>().ok()).sum())
}
