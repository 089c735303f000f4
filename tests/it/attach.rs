//! Pools that run already: workers that join and leave, nginx and its reload, gunicorn, UDP.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;

use rustix::process::Signal;

use crate::harness::client::{get, hear, loopback};
use crate::harness::process::{Process, by_client, outcome, pids, pool, start_sticky, sticky_ok};
use crate::harness::{app, eventually, net};

const PORT: &str = "127.0.0.1:3000";

fn to() -> SocketAddr {
    PORT.parse().expect("an address")
}

fn worker() -> Process {
    let process =
        Process::start(Command::new("python3").args([&app("name.py"), "0.0.0.0", "3000", "reuseport"]));
    process.wait_for("listening");
    process
}

/// Which PID each of `count` clients meets.
fn meet(count: usize) -> HashMap<IpAddr, u32> {
    (1..=count)
        .map(loopback)
        .map(|client| (client, hear(client, to()).expect("an answer").parse().expect("a PID")))
        .collect()
}

/// The slot whose socket this process holds.
fn slot_of(pid: u32) -> usize {
    let pool = pool("3000");
    let slots = pool["slots"].as_array().expect("slots");
    let holds =
        |slot: &serde_json::Value| slot["pids"].as_array().is_some_and(|pids| pids.contains(&pid.into()));
    slots.iter().position(holds).unwrap_or_else(|| panic!("{pid} has no slot in {pool:#?}"))
}

#[test]
fn a_worker_joins_and_one_leaves() {
    let _net = net::isolate();
    let mut workers: Vec<_> = (0..3).map(|_| worker()).collect();
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("0.0.0.0:3000 is steered: 3 workers");
    let three = meet(64);
    assert_eq!(three.values().collect::<HashSet<_>>().len(), 3);

    workers.push(worker());
    sticky.wait_for("slot 3 has `python3`");
    let four = meet(128);
    let newcomer = workers[3].pid();
    let moved = three.iter().filter(|(client, pid)| four[*client] != **pid).count();
    assert_eq!(moved, 0, "known clients moved");
    assert!(four.values().any(|pid| *pid == newcomer), "the new worker got no client");

    let mut left = workers.remove(1);
    let slot = slot_of(left.pid());
    left.signal(Signal::KILL);
    left.wait();
    sticky.wait_for(&format!("slot {slot} is empty"));
    let after = meet(128);
    for (client, pid) in &four {
        assert_eq!(after[client] == *pid, *pid != left.pid(), "{client} met {pid}, then {}", after[client]);
    }
    assert!(outcome(&pool("3000"), "next") > 0);

    workers.push(worker());
    sticky.wait_for(&format!("slot {slot} has"));
    assert_eq!(pids(&pool("3000")).len(), 4, "the empty slot was not used again");
}

#[test]
fn once_needs_no_process() {
    let _net = net::isolate();
    let _workers: Vec<_> = (0..4).map(|_| worker()).collect();
    sticky_ok(&["attach", "3000", "--once"]);
    let first = meet(32);
    assert_eq!(meet(32), first);
    assert_eq!(by_client(&pool("3000")), 64);
    assert_eq!(pool("3000")["followed_by"], serde_json::Value::Null);
}

#[test]
fn a_server_that_restarts_is_steered_again() {
    let _net = net::isolate();
    let mut first = worker();
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("is steered: 1 workers");
    first.terminate();
    sticky.wait_for("0 workers left");
    let second = worker();
    sticky.wait_for("slot 0 has");
    assert_eq!(meet(1)[&loopback(1)], second.pid());
    assert_eq!(by_client(&pool("3000")), 1);
}

#[test]
fn another_program_that_joins_gets_nothing() {
    let _net = net::isolate();
    let _workers: Vec<_> = (0..2).map(|_| worker()).collect();
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("is steered: 2 workers");
    let program = "use IO::Socket::INET; $| = 1;
        $s = IO::Socket::INET->new(LocalAddr => '0.0.0.0:3000', Listen => 9, ReusePort => 1) or die $!;
        print \"listening\\n\"; while ($c = $s->accept) { print $c 'stranger'; close $c }";
    let stranger = Process::start(Command::new("perl").args(["-e", program]));
    stranger.wait_for("listening");
    let line = sticky.wait_for("gets no connections");
    assert!(line.contains("`perl`") && line.contains("another program"), "{line}");
    let met = meet(64);
    assert!(met.values().all(|pid| *pid != stranger.pid()));
}

#[test]
fn nginx_and_its_reload() {
    let _net = net::isolate();
    let dir = std::env::temp_dir().join(format!("sticky-nginx-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder");
    let config = dir.join("nginx.conf");
    let text = format!(
        "worker_processes 4; daemon off; pid {0}/pid; error_log stderr notice;
         events {{ worker_connections 64; }}
         http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;
                 uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
                 server {{ listen 3000 reuseport; location / {{ return 200 $pid; }} }} }}",
        dir.display()
    );
    fs::write(&config, text).expect("a file");
    let nginx = Process::start(Command::new("nginx").arg("-c").arg(&config));
    nginx.wait_for_nth("start worker process ", 3);
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("0.0.0.0:3000 is steered: 4 workers");

    let clients: Vec<_> = (1..=32).map(loopback).collect();
    let meet = || -> Vec<String> {
        clients.iter().map(|client| get(*client, to(), "/").expect("an answer")).collect()
    };
    let before = meet();
    assert_eq!(before, meet());
    assert_eq!(before.iter().collect::<HashSet<_>>().len(), 4);

    nginx.signal(Signal::HUP);
    nginx.wait_for_nth("start worker process ", 7);
    let old: HashSet<_> = before.iter().cloned().collect();
    let after = eventually("only new workers answer", || {
        Some(meet()).filter(|now| now.iter().all(|pid| !old.contains(pid)))
    });
    // The same sockets, so the same clients together, at new processes.
    for (a, b) in (0..clients.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
        assert_eq!(before[a] == before[b], after[a] == after[b], "{} and {}", clients[a], clients[b]);
    }
    assert_eq!(after, meet());
    assert_eq!(outcome(&pool("3000"), "refused"), 0);
    drop(nginx);
    let _ = fs::remove_dir_all(dir);
}

#[test]
fn gunicorn() {
    let _net = net::isolate();
    let start = || {
        let process = Process::start(
            Command::new("gunicorn")
                .args(["--bind", "0.0.0.0:3000", "--reuse-port", "--workers", "1", "--pythonpath"])
                .arg(app(""))
                .arg("wsgi:app"),
        );
        process.wait_for("Booting worker");
        process
    };
    let mut instances: Vec<_> = (0..4).map(|_| start()).collect();
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("is steered: 4 workers");
    let clients: Vec<_> = (1..=32).map(loopback).collect();
    let meet = || -> Vec<String> {
        clients.iter().map(|client| get(*client, to(), "/").expect("an answer")).collect()
    };
    let met = meet();
    assert_eq!(met, meet());
    assert_eq!(met.iter().collect::<HashSet<_>>().len(), 4);
    assert_eq!(by_client(&pool("3000")), 64);

    let slot = slot_of(instances[0].pid());
    instances[0].terminate();
    sticky.wait_for(&format!("slot {slot} is empty"));
    let without = meet();
    assert_eq!(without.iter().collect::<HashSet<_>>().len(), 3);
}

#[test]
fn udp_datagrams_are_steered_by_their_source() {
    let _net = net::isolate();
    let start = || {
        let process = Process::start(Command::new("python3").args([&app("udp.py"), "3000"]));
        process.wait_for("listening");
        process
    };
    let _workers: Vec<_> = (0..4).map(|_| start()).collect();
    let sticky = start_sticky(&["attach", "udp:3000"]);
    sticky.wait_for("udp:0.0.0.0:3000 is steered: 4 workers");
    let mut met = HashSet::new();
    for client in (1..=32).map(loopback) {
        let mut answers = HashSet::new();
        for _ in 0..4 {
            // Each from a port of its own, which plain SO_REUSEPORT would spread.
            let socket = UdpSocket::bind((client, 0)).expect("a socket");
            socket.set_read_timeout(Some(crate::harness::DEADLINE)).expect("a deadline");
            socket.send_to(b"who", to()).expect("sent");
            let mut answer = [0; 16];
            let length = socket.recv(&mut answer).expect("an answer");
            answers.insert(String::from_utf8_lossy(&answer[..length]).into_owned());
        }
        assert_eq!(answers.len(), 1, "{client} met {answers:?}");
        met.extend(answers);
    }
    assert_eq!(met.len(), 4);
    assert_eq!(by_client(&pool("udp:3000")), 128);
}
