//! Cgroups. Those of `sticky run`'s workers: one for the run, which carries the bind hooks, and below it one for each worker, which tells
//! its processes from the others' and ends them together.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::Interest;

use crate::refusal::Refusal;
use crate::sys;

/// A cgroup of version 2.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup this process is in: below it, where systemd or a container wants them, ours are made.
    pub fn own() -> Result<Self> {
        let (mounted, own) = find("self")?;
        // A container may see its own part of the tree as the whole.
        Ok(Self { path: if own.is_dir() { own } else { mounted } })
    }

    /// The one that all others are in, as far as can be seen from here.
    pub fn root() -> Result<Self> {
        let (path, _) = find("self")?;
        Ok(Self { path })
    }

    /// The cgroup that the process `pid` is in.
    pub fn of(pid: u32) -> Result<Self> {
        let (_, path) = find(pid)?;
        let visible = path.is_dir() && !path.components().any(|part| part == Component::ParentDir);
        ensure!(visible, "the cgroup of process {pid} cannot be seen from here");
        Ok(Self { path })
    }

    /// An existing cgroup.
    pub fn existing(path: PathBuf) -> Option<Self> {
        path.join("cgroup.procs").exists().then_some(Self { path })
    }

    /// The cgroup of this name below this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(not_writable(&self.path, &error).into())
            }
            _ => Ok(Self { path }),
        }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's number for it, while it is there.
    pub fn id(&self) -> Option<u64> {
        fs::metadata(&self.path).ok().map(|dir| dir.ino())
    }

    /// The names of those right below it.
    pub fn children(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// The processes in it.
    pub fn processes(&self) -> Vec<u32> {
        let list = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()
    }

    /// The process that the others descend from: one whose parent is not in the cgroup.
    pub fn main_process(&self) -> Option<u32> {
        let processes = self.processes();
        processes.iter().copied().find(|pid| parent(*pid).is_none_or(|parent| !processes.contains(&parent)))
    }

    /// Asks all processes in it to end.
    pub fn terminate(&self) {
        for pid in self.processes() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }

    /// Ends all processes in it, also such as are being forked.
    pub fn kill(&self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Returns when no process is in it, nor below it.
    pub async fn emptied(&self) {
        // A change of `cgroup.events` is an exceptional condition to poll(2): cgroups(7).
        let Ok(events) = fs::File::open(self.path.join("cgroup.events")) else { return };
        let Ok(events) = sys::watch(events.into(), Interest::PRIORITY) else { return };
        loop {
            let now = fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
            if !now.contains("populated 1") {
                return;
            }
            match events.ready(Interest::PRIORITY).await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            }
        }
    }

    /// Removes it, with those below; fails while processes are in it.
    pub fn remove(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                fs::remove_dir(entry.path())?;
            }
        }
        fs::remove_dir(&self.path)
    }
}

/// Where cgroup2 is mounted, and where below it the cgroup of a process would be.
fn find(process: impl fmt::Display) -> Result<(PathBuf, PathBuf)> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").context("`/proc/self/mountinfo` cannot be read")?;
    // "36 25 0:32 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw", proc_pid_mountinfo(5).
    let mounted = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4))?
    });
    let Some(mounted) = mounted else {
        return Err(Refusal::new(
            "cgroup2 is not mounted; `sticky run` keeps its workers in a cgroup",
            format!("mount it (`mount -t cgroup2 none /sys/fs/cgroup/unified`), or {OTHER_WAYS}"),
        )
        .into());
    };
    let file = format!("/proc/{process}/cgroup");
    let lines = fs::read_to_string(&file).with_context(|| format!("`{file}` cannot be read"))?;
    let path = lines.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Ok((mounted.into(), Path::new(mounted).join(path)))
}

const OTHER_WAYS: &str = "start the workers yourself, each with SO_REUSEPORT, and use `sticky attach`";

fn not_writable(path: &Path, error: &io::Error) -> Refusal {
    Refusal::new(
        format!(
            "no cgroup can be made in `{}`: {error}; `sticky run` keeps its workers in one",
            path.display()
        ),
        format!(
            "run sticky as root; in a container mount cgroup2 read-write (Kubernetes: `privileged`; podman: \
             `--security-opt unmask=/sys/fs/cgroup`); under systemd set `Delegate=yes`; or {OTHER_WAYS}"
        ),
    )
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}
