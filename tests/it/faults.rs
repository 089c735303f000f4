//! What proxied clients notice when workers or sticky itself go away: as little as can be, and nothing stays behind.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use aya::maps::MapInfo;
use aya::programs::loaded_programs;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::affinity::Homes;
use crate::harness::client::loopback;
use crate::harness::http::Wire;
use crate::harness::load::{Asker, Visit, all_at_home, load, under_load};
use crate::harness::process::{Process, outcome, pids, pool, start_sticky, sticky_ok};
use crate::harness::scene::{POOL, PROXY, Scene};
use crate::harness::{app, eventually, net};

pub(crate) const CLIENTS: usize = 64;

pub(crate) fn to() -> SocketAddr {
    POOL.parse().expect("an address")
}

pub(crate) fn clients() -> Vec<IpAddr> {
    (1..=CLIENTS).map(loopback).collect()
}

/// Each client's worker, from now on.
pub(crate) fn at_home() -> HashMap<IpAddr, u64> {
    let homes = Homes::now();
    clients().into_iter().map(|client| (client, homes.of(client))).collect()
}

/// All clients, whose requests come through the proxy.
fn askers() -> Vec<Asker> {
    clients().into_iter().map(|client| Asker::behind(PROXY.into(), client)).collect()
}

/// Waits until so many more requests have been answered, well or not.
#[track_caller]
pub(crate) fn more(visits: &Mutex<Vec<Visit>>, count: usize) {
    let now = visits.lock().expect("no thread panics").len();
    eventually("more requests", || {
        (visits.lock().expect("no thread panics").len() >= now + count).then_some(())
    });
}

fn kill(pid: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a PID")).expect("a PID");
    kill_process(pid, Signal::KILL).expect("the worker is there");
}

/// A worker that sticky did not start.
pub(crate) fn worker() -> Process {
    let process = Process::start(Command::new("python3").args([&app("peers.py"), "::", "3000", "reuseport"]));
    process.wait_for("listening");
    process
}

fn attach(options: &[&str]) -> Process {
    start_sticky(&[&["attach", "3000", "--trust", "127.0.0.1/32"], options].concat())
}

#[test]
fn killed_workers_cost_no_request_and_move_nobody_else() {
    const KILLS: usize = 6;
    const VICTIMS: [usize; 2] = [0, 2];
    let _net = net::isolate();
    let app = app("echo.js");
    let sticky = start_sticky(&["run", "-w", "4", "--trust", "127.0.0.1/32", "--", "node", &app, "3000"]);
    sticky.wait_for("is complete: 4 workers");
    let (homes, first) = (at_home(), pids(&pool("3000")));
    let (workers, visits) = under_load(to(), askers(), |visits| {
        let mut workers: HashSet<u64> = first.iter().copied().flatten().collect();
        for kills in 0..KILLS {
            more(visits, 500);
            let slot = VICTIMS[kills % VICTIMS.len()];
            let victim = pids(&pool("3000"))[slot].expect("a live worker");
            kill(victim);
            let new = eventually("the slot's new worker", || {
                pids(&pool("3000"))[slot].filter(|pid| *pid != victim)
            });
            workers.insert(new);
        }
        more(visits, 500);
        workers
    });
    let victims = VICTIMS.map(|slot| first[slot].expect("a PID"));
    let mut moved = 0;
    for visit in &visits {
        let home = homes[&visit.client];
        let pid = visit.pid().unwrap_or_else(|error| panic!("{} of {home}: {error}", visit.client));
        if victims.contains(&home) {
            assert!(workers.contains(&pid), "{pid} was never a worker");
            moved += usize::from(pid != home);
        } else {
            assert_eq!(pid, home, "{}, whose worker nobody killed, moved", visit.client);
        }
    }
    assert!(moved > 0, "nobody was served by another worker: were they killed under load?");
    let visits = load(to(), askers(), |round| round < 2);
    all_at_home(&visits, &at_home());
    assert_eq!(pool("3000")["redirect"]["unserved"], 0);
}

#[test]
fn clients_are_told_that_there_is_no_worker() {
    let _net = net::isolate();
    let mut workers = [worker(), worker()];
    let sticky = attach(&[]);
    sticky.wait_for("is steered: 2 workers");
    all_at_home(&load(to(), askers(), |round| round < 2), &at_home());
    let mut waiting = Wire::dial(PROXY, POOL);
    for worker in &mut workers {
        worker.signal(Signal::KILL);
        worker.wait();
    }
    // New connections and old ones, requests that may be repeated and those that may not.
    for wire in [&mut waiting, &mut Wire::dial(PROXY, POOL)] {
        for request in
            ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"]
        {
            wire.say(request);
            let (head, _) = wire.response();
            assert_eq!((head.status(), head.get("retry-after"), head.closes()), (503, Some("1"), false));
        }
    }
    eventually("the redirect counts them", || {
        (pool("3000")["redirect"]["unserved"].as_u64() >= Some(4)).then_some(())
    });
    let _new = worker();
    eventually("a new worker is used", || {
        waiting.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        (waiting.response().0.status() == 200).then_some(())
    });
    sticky.wait_for("slot 0 has");
}

#[test]
fn a_stopped_sticky_costs_no_request() {
    let _net = net::isolate();
    let _workers: Vec<_> = (0..4).map(|_| worker()).collect();
    let mut sticky = attach(&[]);
    sticky.wait_for("is steered: 4 workers");
    let homes = at_home();
    let (stopped, visits) = under_load(to(), askers(), |visits| {
        more(visits, 1000);
        let stopped = std::time::Instant::now();
        assert_eq!(sticky.terminate(), Some(0));
        sticky.wait_for("steering goes on without this process");
        more(visits, 1000);
        stopped
    });
    let (before, after): (Vec<_>, Vec<_>) = visits.into_iter().partition(|visit| visit.began < stopped);
    all_at_home(&before, &homes);
    let pids: HashSet<_> = after.iter().map(|visit| visit.pid().expect("no request fails")).collect();
    assert_eq!(pids.len(), 4, "not spread over all workers");
    let pool = pool("3000");
    assert!(outcome(&pool, "unredirected") > 0, "{pool:#?}");
    assert_eq!(pool["redirect"]["listening"], false);
}

#[test]
fn a_killed_sticky_leaves_no_hole_and_the_next_one_closes_it() {
    let _net = net::isolate();
    let _workers: Vec<_> = (0..4).map(|_| worker()).collect();
    let mut first = attach(&[]);
    first.wait_for("is steered: 4 workers");
    let homes = at_home();
    let (killed, visits) = under_load(to(), askers(), |visits| {
        more(visits, 1000);
        let killed = std::time::Instant::now();
        first.signal(Signal::KILL);
        first.wait();
        more(visits, 1000);
        killed
    });
    // What a connection through the redirect carried is lost; whoever connects anew is served.
    let mut lost = HashSet::new();
    for visit in &visits {
        match visit.pid() {
            Ok(pid) if visit.began < killed => assert_eq!(pid, homes[&visit.client]),
            Ok(pid) => assert!(homes.values().any(|home| *home == pid)),
            Err(error) => assert!(lost.insert(visit.client), "{} fails again: {error}", visit.client),
        }
    }
    let unredirected = outcome(&pool("3000"), "unredirected");
    assert!(unredirected > 0);

    let mut second = attach(&[]);
    second.wait_for("is adopted: 4 workers");
    eventually("the redirect listens", || {
        (pool("3000")["redirect"]["listening"] == Value::Bool(true)).then_some(())
    });
    assert_eq!(at_home(), homes);
    let redirected = outcome(&pool("3000"), "redirected");
    all_at_home(&load(to(), askers(), |round| round < 2), &homes);
    let pool_now = pool("3000");
    assert_eq!(outcome(&pool_now, "redirected"), redirected + CLIENTS as u64);
    assert_eq!(outcome(&pool_now, "unredirected"), unredirected);

    let left = Left::here();
    assert!(left.programs() > 0);
    assert_eq!(second.terminate(), Some(0));
    sticky_ok(&["detach", "3000"]);
    left.check();
}

#[test]
fn a_killed_run_leaves_no_hole_and_the_next_one_closes_it() {
    let _net = net::isolate();
    let app = app("echo.js");
    let run = || {
        let options = ["run", "-w", "4", "--trust", "127.0.0.1/32", "--real-client-address", "--"];
        let sticky = start_sticky(&[&options[..], &["node", &app, "3000"]].concat());
        sticky.wait_for("is complete: 4 workers");
        sticky
    };
    let mut first = run();
    let homes = at_home();
    first.signal(Signal::KILL);
    first.wait();
    for visit in load(to(), askers(), |round| round < 4) {
        visit.pid().expect("no request fails");
    }
    assert_eq!(outcome(&pool("3000"), "unredirected"), CLIENTS as u64);

    let mut second = run();
    second.wait_for("adopted 4 of 4 workers that were running");
    assert_eq!(at_home(), homes);
    let visits = load(to(), askers(), |round| round < 4);
    all_at_home(&visits, &homes);
    for visit in &visits {
        let told = visit.answer.as_ref().expect("an answer").told();
        assert_eq!(
            told["peer"],
            format!("::ffff:{}", visit.client),
            "hooks of the dead run hide the new ones'"
        );
    }
    let left = Left::here();
    assert!(left.programs() > 0);
    assert_eq!(second.terminate(), Some(0));
    left.check();
}

#[test]
fn what_is_under_way_is_finished() {
    let mut scene = Scene::new(&[]);
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut proxy, mut asked) = scene.ask(request);
    scene.sticky.signal(Signal::TERM);
    eventually("the redirect listens no more", || {
        (pool("3000")["redirect"]["listening"] == Value::Bool(false)).then_some(())
    });
    // New connections go to workers already.
    let (_direct, direct) = scene.ask("directly\r\n\r\n");
    assert_eq!(direct.head.first, "directly");
    asked.wire.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let (head, body) = proxy.response();
    assert_eq!((body.as_str(), head.closes()), ("ok", true));
    proxy.closed();
    assert_eq!(scene.sticky.wait().code(), Some(0));
}

#[test]
fn what_takes_longer_than_the_grace_period_is_broken_off() {
    let mut scene = Scene::new(&["--grace", "300ms"]);
    let (mut proxy, mut asked) = scene.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(scene.sticky.terminate(), Some(0));
    proxy.closed();
    asked.wire.closed();
}

/// What a pool is made of, to see whether it is gone.
struct Left {
    pins: PathBuf,
    map: u32,
    /// The cgroups that the pool's workers are in, if sticky made them.
    cgroups: Vec<PathBuf>,
}

impl Left {
    fn here() -> Self {
        let namespace = sticky::kernel::network_namespace().expect("a network namespace");
        let pins = sticky::kernel::pools_dir().join(format!("tcp-::-3000-net{namespace}"));
        let map = MapInfo::from_pin(pins.join("CONFIG")).expect("the pinned configuration").id();
        let cgroups = pids(&pool("3000")).into_iter().flatten().filter_map(cgroup).collect();
        Self { pins, map, cgroups }
    }

    /// The programs that use the pool's maps.
    fn programs(&self) -> usize {
        let uses = |maps: Option<Vec<u32>>| maps.is_some_and(|maps| maps.contains(&self.map));
        loaded_programs().flatten().filter(|program| program.map_ids().is_ok_and(uses)).count()
    }

    #[track_caller]
    fn check(&self) {
        assert!(!self.pins.exists(), "{} is left", self.pins.display());
        eventually("the programs are gone", || (self.programs() == 0).then_some(()));
        for cgroup in &self.cgroups {
            assert!(!cgroup.exists(), "{} is left", cgroup.display());
        }
    }
}

/// The cgroup of a worker that sticky started.
fn cgroup(pid: u64) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup2 path");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let cgroup2 = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup2");
    let root = PathBuf::from(cgroup2.split(' ').nth(4).expect("where it is mounted"));
    path.contains("worker-").then(|| root.join(path))
}
