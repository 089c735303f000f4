//! One worker: a process that is started, watched, and started again when it ends.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use sticky_ebpf::abi::Slot;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::Plan;
use super::output::Output;
use super::place::Place;
use crate::cgroup::Cgroup;
use crate::inherit;
use crate::kernel;
use crate::sys;

/// A worker that lived this long did not fail to start.
const STABLE: Duration = Duration::from_secs(10);
/// Delays before the second and later restarts of a worker that keeps failing; the first restart is at once.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// After so many failures in a row a worker counts as failing.
pub const FAILING: u32 = 5;

/// A worker's number, from 1, and which of its processes is meant: while one takes another's place, there are two.
///
/// Both are in the names of its cgroup and its pipes, by which another sticky knows whom it adopts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The worker's number. Its slot is one less.
    pub number: usize,
    /// From 1.
    pub generation: usize,
}

impl Name {
    /// The slot of its first socket.
    pub fn slot(self) -> Slot {
        (self.number - 1) as Slot
    }

    /// The name of its cgroup.
    pub fn cgroup(self) -> String {
        format!("worker-{self}")
    }

    /// Whose cgroup has this name.
    pub fn of_cgroup(name: &str) -> Option<Self> {
        let name = name.strip_prefix("worker-")?;
        let (number, generation) = name.split_once('-').unwrap_or((name, "1"));
        let name = Self { number: number.parse().ok()?, generation: generation.parse().ok()? };
        (name.number > 0 && name.generation > 0).then_some(name)
    }
}

/// `3`, or `3-2` for another process than the first.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            1 => write!(f, "{}", self.number),
            generation => write!(f, "{}-{generation}", self.number),
        }
    }
}

/// A worker, whether its process is alive or not.
pub struct Worker {
    /// What it is called.
    pub name: Name,
    /// The cgroup of its processes.
    pub cgroup: Cgroup,
    /// What it prints.
    pub output: Output,
    /// How often in a row it ended soon after its start.
    pub failures: u32,
    state: State,
}

enum State {
    Running { process: AsyncFd<OwnedFd>, child: Option<Child>, since: Instant },
    Waiting { until: Instant },
    Stopped,
}

/// What happened to a worker.
pub enum Event {
    /// Its main process ended; how, where the kernel tells us.
    Exited(Option<ExitStatus>),
    /// It is time to start it.
    Due,
}

impl Worker {
    /// A worker that is to be started at once.
    pub fn new(name: Name, place: &Place) -> Result<Self> {
        let cgroup = place.cgroup.child(&name.cgroup())?;
        let output = Output::new(&place.dir, name)?;
        Ok(Self { name, cgroup, output, failures: 0, state: State::Waiting { until: Instant::now() } })
    }

    /// Takes over the process that an earlier sticky left in the worker's cgroup; false when there is none.
    pub fn adopt(&mut self) -> Result<bool> {
        let Some(pid) = self.cgroup.main_process() else { return Ok(false) };
        let Ok(process) = pidfd(pid) else { return Ok(false) };
        self.state = State::Running {
            process: sys::watch(process, Interest::READABLE)?,
            child: None,
            since: Instant::now(),
        };
        Ok(true)
    }

    /// Starts the worker's process.
    pub fn start(&mut self, plan: &Plan) -> Result<()> {
        // What the last process left behind would compete for the port.
        self.cgroup.kill();
        let (stdout, stderr) = self.output.stdio()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("exec-worker").arg("--cgroup").arg(self.cgroup.path());
        if let Some(user) = &plan.user {
            command.args(["--user", user]);
        }
        if let Some(limit) = kernel::original_descriptors() {
            command.arg("--descriptors").arg(limit.to_string());
        }
        for target in &plan.listen {
            command.arg("--listen").arg(target.to_string());
        }
        command.arg("--").args(&plan.command);
        let number = self.name.number.to_string();
        command.env("STICKY_WORKER", &number).env("NODE_WORKER_ID", &number);
        // These are for sticky itself.
        command.env_remove("NOTIFY_SOCKET").env_remove("STICKY_SEED").env_remove(inherit::VARIABLE);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        // A process group of its own: Ctrl-C is for sticky, which tells the workers in its own time.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("worker {number} cannot be started"))?;
        let process = sys::watch(pidfd(child.id())?, Interest::READABLE)?;
        self.state = State::Running { process, child: Some(child), since: Instant::now() };
        Ok(())
    }

    /// Asks its processes to end.
    pub fn terminate(&self) {
        if let State::Running { child: Some(child), .. } = &self.state
            && !self.cgroup.processes().contains(&child.id())
        {
            // It was just started, and has not joined its cgroup.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        self.cgroup.terminate();
    }

    /// Waits for the next thing to happen to it; for ever once it is stopped.
    pub async fn event(&mut self) -> Event {
        match &mut self.state {
            State::Running { process, child, .. } => {
                // A pidfd is readable when the process has ended: pidfd_open(2).
                let _ = process.readable().await;
                Event::Exited(child.as_mut().and_then(|child| child.wait().ok()))
            }
            State::Waiting { until } => {
                tokio::time::sleep_until(*until).await;
                Event::Due
            }
            State::Stopped => std::future::pending().await,
        }
    }

    /// Notes that it ended and when it is to be started again; returns that delay.
    pub fn ended(&mut self) -> Duration {
        let lived = match &self.state {
            State::Running { since, .. } => since.elapsed(),
            State::Waiting { .. } | State::Stopped => Duration::ZERO,
        };
        self.failures = if lived < STABLE { self.failures + 1 } else { 1 };
        let delay = match self.failures {
            0 | 1 => Duration::ZERO,
            n => FIRST_DELAY.saturating_mul(1 << (n - 2).min(16)).min(LONGEST_DELAY),
        };
        self.state = State::Waiting { until: Instant::now() + delay };
        delay
    }

    /// Lets it rest, once its process ended.
    pub fn stop(&mut self) {
        self.state = State::Stopped;
    }

    /// Has it started again, if it rests.
    pub fn resume(&mut self) {
        if matches!(self.state, State::Stopped) {
            self.state = State::Waiting { until: Instant::now() };
        }
    }

    /// How its main process ended; `None` while it runs. Does not wait.
    pub fn exit(&mut self) -> Option<Option<ExitStatus>> {
        let State::Running { process, child, .. } = &mut self.state else { return Some(None) };
        if let Some(child) = child {
            return child.try_wait().map_or(Some(None), |status| status.map(Some));
        }
        let mut watched = [PollFd::new(process.get_ref(), PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        (poll(&mut watched, Some(&now)).is_ok_and(|ready| ready > 0)).then_some(None)
    }

    /// Removes what was made for it, once its processes are gone.
    pub fn remove(self) {
        let _ = self.cgroup.remove();
        // What somebody else holds open must not hold us up.
        std::thread::spawn(move || self.output.finish());
    }

    /// Whether its process is alive.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

/// How a process ended, in words.
pub fn describe(status: Option<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("exited with code {code}"),
        Some((None, Some(signal))) => format!("was killed by signal {signal}"),
        Some((None, None)) | None => "ended".into(),
    }
}

fn pidfd(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process number")?;
    Ok(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn names_of_cgroups_lead_back_to_workers() {
        for (name, cgroup) in [((1, 1), "worker-1"), ((12, 1), "worker-12"), ((3, 2), "worker-3-2")] {
            let name = Name { number: name.0, generation: name.1 };
            assert_eq!(name.cgroup(), cgroup);
            assert_eq!(Name::of_cgroup(cgroup), Some(name));
        }
        for wrong in ["", "worker-", "worker-0", "worker-1-0", "worker-1-2-3", "worker-x", "other-1"] {
            assert_eq!(Name::of_cgroup(wrong), None, "{wrong}");
        }
    }
}
