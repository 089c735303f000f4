//! `sticky upgrade`: another sticky takes a run over while it serves.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use aya::programs::{ProgramInfo, loaded_programs};
use rustix::process::{Pid, Signal, kill_process};

use super::{Version, all_answered, askers, done, fails, live, to};
use crate::faults::more;
use crate::harness::client::loopback;
use crate::harness::http::Wire;
use crate::harness::load::{Asker, load, under_load};
use crate::harness::process::{Process, pool, sticky};
use crate::harness::scene::{POOL, PROXY};
use crate::harness::{eventually, net};

/// A program beside sticky's own, removed with this.
struct Program(PathBuf);

impl Program {
    fn copy_of_sticky(name: &str) -> Self {
        let path = Self::path(name);
        fs::copy(sticky().get_program(), &path).expect("a copy");
        Self(path)
    }

    fn script(name: &str, text: &str) -> Self {
        let path = Self::path(name);
        fs::write(&path, format!("#!/bin/bash\n{text}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be run");
        Self(path)
    }

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("sticky-{name}-{}", std::process::id()))
    }

    fn name(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The process that follows the pool, ended with this: it is no child of the test.
struct Follower(u64);

impl Follower {
    #[track_caller]
    fn now() -> Self {
        Self(pool("3000")["followed_by"].as_u64().expect("a process that follows the pool"))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0).expect("a PID")).expect("a PID");
        let _ = kill_process(pid, Signal::TERM);
        eventually("it ends", || (!super::is_alive(self.0)).then_some(()));
    }
}

fn run(version: &Version, options: &[&str], run: &str) -> Process {
    version.run(&[&["-w", "2", "--trust", "127.0.0.1/32", "--name", &super::name(run)], options].concat())
}

/// Clients that connect, and those that proxies bring, over connections that they keep or not.
fn all_kinds() -> Vec<Asker> {
    let kept = (33..=40).map(|n| Asker::behind(PROXY.into(), loopback(n)));
    let each = (41..=48).map(|n| Asker::each_behind(PROXY.into(), loopback(n)));
    askers().into_iter().chain(kept).chain(each).collect()
}

#[test]
fn costs_no_request_and_no_worker() {
    let _net = net::isolate();
    let (version, program) = (Version::new("1"), Program::copy_of_sticky("upgrade"));
    let mut old = run(&version, &[], "upgrade");
    done(&["scale", "3"]);
    let workers = live();
    let ((), visits) = under_load(to(), all_kinds(), |visits| {
        more(visits, 200);
        let told = done(&["upgrade", "--binary", program.name()]);
        assert!(told.contains("the run goes on with process "), "{told}");
        more(visits, 400);
    });
    let new = Follower::now();
    for (client, met) in all_answered(&visits) {
        assert_eq!(met.len(), 1, "{client} met several workers: {met:?}");
    }
    assert_eq!(old.wait().code(), Some(0));
    assert_ne!(new.0, u64::from(old.pid()));
    let exe = fs::read_link(format!("/proc/{}/exe", new.0)).expect("the new sticky");
    assert_eq!(exe, program.0);
    assert_eq!(live(), workers);
    let state = pool("3000");
    assert_eq!(
        (&state["gate"]["open"], &state["redirect"]["listening"]),
        (&true.into(), &true.into()),
        "{state:#?}"
    );
    let strange: Vec<_> = old.lines().into_iter().filter(|line| line.contains("also listened on")).collect();
    assert!(strange.is_empty(), "{strange:?}");
    // It is a full supervisor.
    let victim = Pid::from_raw(workers[1] as i32).expect("a PID");
    kill_process(victim, Signal::KILL).expect("the worker is there");
    old.wait_for("worker 2 ended; starting it again now");
    eventually("worker 2 again", || {
        crate::harness::process::pids(&pool("3000"))[1].filter(|pid| *pid != workers[1])
    });
    version.set("2");
    done(&["reload", "--parallel", "3"]);
    all_answered(&load(to(), all_kinds(), |round| round < 2));
}

#[test]
fn that_fails_leaves_all_as_it_was() {
    let _net = net::isolate();
    let version = Version::new("1");
    let mut sticky = run(&version, &[], "upgrade-fails");
    let workers = live();
    let no_sticky = Program::script("no-sticky", "echo hello");
    let other = Program::script("other-version", "echo 'the state has version 99' >&2; exit 2");
    let half = Program::script(
        "half",
        &format!(
            "exec {} run --name {} --listen-fds 99999 -- true",
            sticky_path(),
            super::name("upgrade-fails")
        ),
    );
    let (_, visits) = under_load(to(), all_kinds(), |visits| {
        more(visits, 100);
        for (program, why) in [
            ("/bin/false", "it exited with code 1"),
            (no_sticky.name(), "it exited with code 0"),
            (other.name(), "it exited with code 2"),
            (half.name(), "it exited with code 2"),
        ] {
            let error = fails(1, &["upgrade", "--binary", program]);
            let whole = format!("the run was not upgraded, and goes on as it was: {why}");
            assert!(error.contains(&whole), "{program}: {error}");
            assert_eq!(pool("3000")["followed_by"], sticky.pid());
            more(visits, 100);
        }
    });
    all_answered(&visits);
    assert_eq!(live(), workers);
    for (binary, what) in [("/", "`/` is no program"), ("/no/sticky", "`/no/sticky` cannot be found")] {
        let error = fails(2, &["upgrade", "--binary", binary]);
        assert!(error.contains(what) && error.contains("hint: give the path"), "{error}");
    }
    done(&["scale", "3"]);
    assert_eq!(sticky.terminate(), Some(0));
}

/// One that takes the pool over and dies before it says so.
#[test]
fn that_breaks_off_is_undone() {
    let _net = net::isolate();
    let version = Version::new("1");
    let sticky = run(&version, &[], "upgrade-breaks");
    let workers = live();
    // Where the successor speaks there is nobody, so that it cannot say that it is there. The pipe stays open elsewhere.
    let fd = "fd=${STICKY_INHERIT##*:}; fd=${fd%\\}}";
    let mute = Program::script(
        "mute",
        &format!("{fd}; exec {{keep}}>&$fd; eval \"exec $fd</dev/null\"; exec {} \"$@\"", sticky_path()),
    );
    let error = fails(1, &["upgrade", "--binary", mute.name()]);
    assert!(error.ends_with("goes on as it was: it exited with code 1\n"), "{error}");
    sticky.wait_for("adopted 2 of 2 workers");
    assert_eq!(pool("3000")["followed_by"], sticky.pid());
    assert_eq!(live(), workers);
    eventually("gate and redirect are back", || {
        let state = pool("3000");
        (state["gate"]["open"] == true && state["redirect"]["listening"] == true).then_some(())
    });
    for (client, met) in all_answered(&load(to(), all_kinds(), |round| round < 4)) {
        assert_eq!(met.len(), 1, "{client} met several workers: {met:?}");
    }
    done(&["scale", "3"]);
}

fn sticky_path() -> String {
    sticky().get_program().to_string_lossy().into_owned()
}

#[test]
fn requests_under_way_end_through_the_old_process() {
    let _net = net::isolate();
    let version = Version::new("1");
    let mut old = run(&version, &[], "upgrade-held");
    let mut proxy = Wire::dial(Ipv4Addr::LOCALHOST, POOL);
    proxy.say("GET /held HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.1.0.1\r\n\r\n");
    eventually("the redirect has it", || (pool("3000")["redirect"]["requests"] == 1).then_some(()));
    done(&["upgrade"]);
    let _new = Follower::now();
    assert!(super::is_alive(old.pid().into()), "the old sticky did not wait for its connection");
    proxy.silent();
    version.set("2");
    let (head, body) = proxy.response();
    assert_eq!((head.status(), head.closes()), (200, true), "{body}");
    proxy.closed();
    assert_eq!(old.wait().code(), Some(0));
    let state = pool("3000");
    assert_eq!(
        (&state["gate"]["open"], &state["redirect"]["listening"]),
        (&true.into(), &true.into()),
        "{state:#?}"
    );
    eventually("what both counted adds up", || {
        let redirect = pool("3000")["redirect"].clone();
        (redirect["requests"] == 1 && redirect["open"] == 0).then_some(())
    });
}

#[test]
fn the_program_is_the_new_ones() {
    let _net = net::isolate();
    let version = Version::new("1");
    let mut old = version.run(&["-w", "2"]);
    let namespace = sticky::kernel::network_namespace().expect("a network namespace");
    let pin = sticky::kernel::pools_dir().join(format!("tcp-::-3000-net{namespace}/steer"));
    let program = || ProgramInfo::from_pin(&pin).expect("the pinned program").id();
    let first = program();
    done(&["upgrade"]);
    let _new = Follower::now();
    assert_eq!(old.wait().code(), Some(0));
    assert_ne!(program(), first);
    eventually("the old program is gone", || {
        (!loaded_programs().flatten().any(|program| program.id() == first)).then_some(())
    });
    all_answered(&load(to(), askers(), |round| round < 2));
}
