//! What outlives sticky, what the next one takes over, and that nothing stays behind.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use aya::maps::{Array, Map, MapData};
use aya::programs::{ProgramInfo, loaded_programs};
use rustix::process::Signal;

use crate::harness::client::{hear, loopback};
use crate::harness::process::{Process, by_client, pids, pool, pools, run_sticky, start_sticky, sticky_ok};
use crate::harness::{app, eventually, net};

fn meet() -> HashMap<IpAddr, String> {
    let to = SocketAddr::from(([127, 0, 0, 1], 3000));
    (1..=48).map(loopback).map(|client| (client, hear(client, to).expect("an answer"))).collect()
}

fn workers(count: usize) -> Vec<Process> {
    let start = |_| {
        let process =
            Process::start(Command::new("python3").args([&app("name.py"), "0.0.0.0", "3000", "reuseport"]));
        process.wait_for("listening");
        process
    };
    (0..count).map(start).collect()
}

/// The directory of the test's pool.
fn pins() -> PathBuf {
    let namespace = sticky::kernel::network_namespace().expect("a network namespace");
    sticky::kernel::pools_dir().join(format!("tcp-0_0_0_0-3000-net{namespace}"))
}

fn program_id() -> u32 {
    ProgramInfo::from_pin(pins().join("steer")).expect("the pinned program").id()
}

fn is_loaded(id: u32) -> bool {
    loaded_programs().flatten().any(|program| program.id() == id)
}

fn run_four() -> Process {
    start_sticky(&["run", "-w", "4", "--", "python3", &app("name.py"), "0.0.0.0", "3000"])
}

#[test]
fn workers_outlive_a_killed_run_and_the_next_adopts_them() {
    let _net = net::isolate();
    let mut first = run_four();
    first.wait_for("is complete");
    let (before, processes) = (meet(), pids(&pool("3000")));
    let cgroup = cgroup_of(processes[0]);
    first.signal(Signal::KILL);
    first.wait();
    assert_eq!(meet(), before, "steering changed with sticky dead");
    assert_eq!(by_client(&pool("3000")), 96);
    assert_eq!(pool("3000")["followed_by"], serde_json::Value::Null);

    let mut second = run_four();
    second.wait_for("adopted 4 of 4 workers that were running");
    second.wait_for("is complete");
    assert_eq!(pids(&pool("3000")), processes);
    assert_eq!(meet(), before, "steering changed with the adoption");
    assert_eq!(by_client(&pool("3000")), 144, "the counters began anew");

    // It is a full supervisor of what it adopted.
    let victim = processes[1].expect("a PID").to_string();
    Command::new("kill").args(["-9", &victim]).status().expect("kill");
    second.wait_for("worker 2 ended; starting it again now");
    eventually("worker 2 again", || pids(&pool("3000"))[1].filter(|pid| pid.to_string() != victim));
    let program = program_id();

    assert_eq!(second.terminate(), Some(0));
    assert!(!pins().exists(), "pins are left");
    assert!(!cgroup.exists(), "the cgroup is left");
    for pid in processes.into_iter().flatten() {
        // A zombie may wait for whoever inherited it.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        assert!(status.is_empty() || status.contains("State:\tZ"), "worker {pid} is left: {status}");
    }
    eventually("the program is gone", || (!is_loaded(program)).then_some(()));
    let runs = fs::read_dir("/run/sticky").into_iter().flatten().flatten();
    let namespace_run = runs
        .filter(|entry| fs::read_link(entry.path().join("cgroup")).is_ok_and(|path| path == cgroup))
        .count();
    assert_eq!(namespace_run, 0, "the run's folder is left");
}

/// The run's cgroup: the parent of the worker's.
fn cgroup_of(pid: Option<u64>) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", pid.expect("a PID"))).expect("a process");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup2 path");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let root = mounts
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4))
        .expect("cgroup2");
    let worker = Path::new(root).join(path);
    assert!(worker.ends_with("worker-1"), "{}", worker.display());
    worker.parent().expect("a parent").to_owned()
}

#[test]
fn output_of_adopted_workers_is_read_on() {
    let _net = net::isolate();
    let program = "const s = require('node:http').createServer((q, r) => { console.log('asked', q.url); r.end('x'); }).listen(3000)";
    let arguments = ["run", "-w", "2", "--", "node", "-e", program];
    let mut first = start_sticky(&arguments);
    first.wait_for("is complete");
    first.signal(Signal::KILL);
    first.wait();
    let to = SocketAddr::from(([127, 0, 0, 1], 3000));
    crate::harness::client::get(loopback(1), to, "/orphan").expect("an answer");
    let second = start_sticky(&arguments);
    second.wait_for("asked /orphan");
}

#[test]
fn a_killed_attach_is_taken_up_again() {
    let _net = net::isolate();
    let _workers = workers(4);
    let mut first = start_sticky(&["attach", "3000"]);
    first.wait_for("is steered: 4 workers");
    let before = meet();
    first.signal(Signal::KILL);
    first.wait();
    assert_eq!(meet(), before);
    let mut second = start_sticky(&["attach", "3000"]);
    second.wait_for("is adopted: 4 workers");
    assert_eq!(meet(), before);
    assert_eq!(by_client(&pool("3000")), 144);
    assert_eq!(second.terminate(), Some(0));
    second.wait_for("steering goes on without this process");
    assert_eq!(meet(), before);
    assert_eq!(by_client(&pool("3000")), 192);
}

#[test]
fn detach_leaves_nothing() {
    let _net = net::isolate();
    let _workers = workers(4);
    sticky_ok(&["attach", "3000", "--once"]);
    let program = program_id();
    assert!(is_loaded(program));
    let output = run_sticky(&["detach", "3000"]);
    assert!(output.status.success(), "{output:?}");
    assert!(pools("3000").is_empty());
    assert!(!pins().exists());
    eventually("the program is gone", || (!is_loaded(program)).then_some(()));
    // The kernel spreads connections by port again: one client meets several workers.
    let to = SocketAddr::from(([127, 0, 0, 1], 3000));
    let met: std::collections::HashSet<_> =
        (0..64).map(|_| hear(loopback(1), to).expect("an answer")).collect();
    assert!(met.len() > 1, "still one worker for one client");
}

#[test]
fn state_of_another_version_is_refused_and_can_be_given_back() {
    let _net = net::isolate();
    let _workers = workers(2);
    sticky_ok(&["attach", "3000", "--once"]);
    let map = Map::Array(MapData::from_pin(pins().join("VERSION")).expect("the version"));
    Array::<_, u32>::try_from(map).expect("an array").set(0, 99, 0).expect("written");
    let output = run_sticky(&["attach", "3000", "--once"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    let versions = format!("has version 99; this sticky reads version {}", sticky_ebpf::abi::VERSION);
    assert!(error.contains(&versions), "{error}");
    assert!(
        error.contains(
            "hint: use a sticky that is as new as that one; or give the pool back with `sticky detach`"
        ),
        "{error}"
    );
    for command in [&["status"][..], &["explain", "127.0.0.1"], &["trust", "list"]] {
        let output = run_sticky(command);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(&versions), "{output:?}");
    }
    sticky_ok(&["detach", "3000"]);
    sticky_ok(&["attach", "3000", "--once"]);
}

#[test]
fn adopting_replaces_the_program() {
    let _net = net::isolate();
    let _workers = workers(2);
    sticky_ok(&["attach", "3000", "--once"]);
    let first = program_id();
    let sticky = start_sticky(&["attach", "3000", "--trace"]);
    sticky.wait_for("is adopted: 2 workers");
    assert_ne!(program_id(), first);
    meet();
    // Only the new program traces.
    sticky.wait_for("trace: ::ffff:127.1.0.1 gets slot");
    eventually("the old program is gone", || (!is_loaded(first)).then_some(()));
}

#[test]
fn options_of_an_adopted_pool_can_be_changed() {
    let _net = net::isolate();
    let _workers = workers(2);
    sticky_ok(&["attach", "3000", "--once"]);
    sticky_ok(&["attach", "3000", "--once", "--ipv4-prefix", "16"]);
    assert_eq!(pool("3000")["ipv4_prefix"], 16);
    sticky_ok(&["attach", "3000", "--once"]);
    assert_eq!(pool("3000")["ipv4_prefix"], 16, "adopting changed what nobody asked to change");
}

#[test]
fn a_forgotten_pool_of_a_vanished_namespace_can_be_removed() {
    let pins = std::thread::spawn(|| {
        // No guard: what a container leaves behind that was killed.
        std::mem::forget(net::isolate());
        let _workers = workers(1);
        sticky_ok(&["attach", "3000", "--once"]);
        pins()
    });
    let pins = pins.join().expect("the namespace's thread");
    assert!(pins.exists());
    let _net = net::isolate();
    eventually("it can be forgotten", || {
        run_sticky(&["detach", "--all"]);
        (!pins.exists()).then_some(())
    });
}
