//! A network namespace for each test: it goes with the test's thread and processes, however they end.

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;

use super::process::run_sticky;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

/// The test's network namespace. Dropped, which is last when it was made first, it takes away its pools, and the
/// processes that a test left there which did not reach its end.
#[must_use]
pub struct Net;

impl Drop for Net {
    fn drop(&mut self) {
        // Refused when there is no pool, which is as well.
        let _ = run_sticky(&["detach", "--all"]);
        let own = namespace("thread-self");
        for pid in sticky::listeners::processes().filter(|pid| *pid != std::process::id()) {
            if own.is_some() && namespace(&pid.to_string()) == own {
                let _ = kill_process(Pid::from_raw(pid as i32).expect("a PID"), Signal::KILL);
            }
        }
    }
}

fn namespace(process: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{process}/ns/net")).ok()
}

/// Moves the calling thread, and what it starts from now on, into a new network namespace with loopback up.
pub fn isolate() -> Net {
    // SAFETY: no file descriptor table or other state shared with the process's threads is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .expect("a network namespace of the test's own (needs root)");
    ip("link set lo up");
    Net
}

/// Gives loopback the addresses `fd00::1` to `fd00::COUNT`, and as many in `fd00:0:0:N::/64`.
pub fn ipv6_addresses(count: usize) {
    for n in 1..=count {
        ip(&format!("-6 addr add fd00::{n:x}/128 dev lo nodad"));
        ip(&format!("-6 addr add fd00:0:0:{n:x}::1/128 dev lo nodad"));
    }
}

/// A second network namespace, joined to the test's by a veth pair: here `10.9.0.1/16`, there `10.9.1.1` to
/// `10.9.1.COUNT`. `there` runs in it.
pub fn across_veth<T: Send>(count: usize, there: impl FnOnce() -> T + Send) -> T {
    let (tell, told) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            let _net = isolate();
            tell.send(gettid().as_raw_nonzero().get()).expect("the test is there");
            wait.recv().expect("the test goes on");
            for n in 1..=count {
                ip(&format!("addr add 10.9.1.{n}/16 dev far"));
            }
            ip("link set far up");
            there()
        });
        let thread = told.recv().expect("the other namespace");
        ip("link add near type veth peer name far");
        ip(&format!("link set far netns {thread}"));
        ip("addr add 10.9.0.1/16 dev near");
        ip("link set near up");
        go.send(()).expect("the other namespace waits");
        match other.join() {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[track_caller]
pub fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    let status = status.expect("`ip` is missing; `cargo xtask setup` installs it (package iproute2)");
    assert!(status.success(), "`ip {arguments}` failed: {status}");
}
