//! Changing a run that serves: `sticky scale`, `sticky reload`, `sticky upgrade`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::client::loopback;
use crate::harness::load::{Asker, Visit};
use crate::harness::process::{Process, pids, pool, start_sticky, sticky};
use crate::harness::{app, eventually};

mod refused;
mod reload;
mod scale;
mod upgrade;

fn to() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 3000))
}

/// The file that tells new processes which version they are.
struct Version(PathBuf);

impl Version {
    fn new(version: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = Self(std::env::temp_dir().join(format!("sticky-version-{}-{number}", std::process::id())));
        file.set(version);
        file
    }

    /// Replaces it at once, for nobody to read half of it.
    fn set(&self, version: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, version).expect("a file");
        fs::rename(new, &self.0).expect("a file");
    }

    /// `sticky run` with these options.
    #[track_caller]
    fn run(&self, options: &[&str]) -> Process {
        let app = app("version.js");
        let file = self.0.to_str().expect("UTF-8");
        let sticky = start_sticky(&[&["run"], options, &["--", "node", &app, "3000", file]].concat());
        sticky.wait_for("is complete");
        sticky
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs `sticky` to its end, which may take longer than most things.
fn command(arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("120").arg(sticky().get_program()).args(arguments);
    command.output().expect("sticky starts")
}

/// What it prints, having done what it was to do.
#[track_caller]
fn done(arguments: &[&str]) -> String {
    let output = command(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What it says when it ends with this exit code.
#[track_caller]
fn fails(code: i32, arguments: &[&str]) -> String {
    let output = command(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// Clients, of whom half keep their connections.
fn askers() -> Vec<Asker> {
    let clients = (1..=32).map(loopback);
    clients
        .enumerate()
        .map(
            |(n, client)| if n % 2 == 0 { Asker::client(client) } else { Asker::each_behind(client, client) },
        )
        .collect()
}

/// All were answered; the numbers of the workers that each client met.
#[track_caller]
fn all_answered(visits: &[Visit]) -> HashMap<IpAddr, HashSet<String>> {
    let mut met: HashMap<_, HashSet<_>> = HashMap::new();
    let failed: Vec<_> = visits.iter().filter(|visit| visit.pid().is_err()).collect();
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:#?}",
        failed.len(),
        visits.len(),
        &failed[..failed.len().min(5)]
    );
    for visit in visits {
        let told = visit.answer.as_ref().expect("an answer").told();
        met.entry(visit.client).or_default().insert(told["worker"].as_str().expect("a number").to_owned());
    }
    met
}

#[track_caller]
fn live() -> Vec<u64> {
    pids(&pool("3000")).into_iter().map(|pid| pid.expect("a live worker")).collect()
}

/// Waits until these processes are gone.
#[track_caller]
fn gone(pids: &[u64]) {
    eventually("they are gone", || pids.iter().all(|pid| !is_alive(*pid)).then_some(()));
}

/// A zombie is not: whoever inherited it may be in no hurry.
fn is_alive(pid: u64) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

/// The cgroups of a run's workers that have processes.
fn cgroups(run: &str) -> Vec<String> {
    let run = PathBuf::from("/run/sticky").join(run).join("cgroup");
    let children = fs::read_dir(run).into_iter().flatten().flatten();
    let populated = children.filter(|child| {
        fs::read_to_string(child.path().join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty())
    });
    let mut names: Vec<_> = populated.map(|child| child.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A name for a run that no other test's has.
fn name(what: &str) -> String {
    format!("{what}-{}", std::process::id())
}
