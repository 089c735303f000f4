//! Proxies that say nothing, or not what they should, or too much at once: workers and other clients do not notice.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::listen;
use sticky::sys::set_tcp_defer_accept;
use sticky_ebpf::abi::Slot;

use super::{Stage, WORKERS, ask, netstat};
use crate::harness::client::{dial, loopback};
use crate::harness::{app, eventually, net};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TRUST: [&str; 2] = ["--trust", "127.0.0.0/29"];

fn to() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 3000))
}

fn request(client: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {client}\r\nConnection: close\r\n\r\n")
}

/// Eight clients are served by their workers, each within a second.
#[track_caller]
fn serves(stage: &Stage) {
    for n in 1..=8 {
        let client: IpAddr = [203, 0, 113, n].into();
        let begin = Instant::now();
        let answer = ask(PROXY, to(), &[request(&client.to_string()).as_bytes()]).expect("an answer");
        assert_eq!(answer, (200, Some(stage.home(client.into()))));
        assert!(begin.elapsed() < Duration::from_secs(1), "after {:?}", begin.elapsed());
    }
}

/// Established connections of the pool's port, as its workers have them.
fn established() -> usize {
    let mut ss = Command::new("ss");
    let output = ss.args(["-tnH", "state", "established", "sport", "=", ":3000"]).output();
    String::from_utf8_lossy(&output.expect("ss (iproute2)").stdout).lines().count()
}

#[test]
fn who_connects_and_closes_meets_a_worker() {
    let _net = net::isolate();
    let stage = Stage::new(&TRUST);
    for _ in 0..100 {
        let mut stream = dial(PROXY, to()).expect("a connection");
        stream.shutdown(Shutdown::Write).expect("it is there");
        assert_eq!(stream.read(&mut [0]).expect("the worker closes too"), 0);
    }
    let outcomes = stage.outcomes();
    assert_eq!((outcomes["silent"], outcomes["gated"], outcomes["redirected"]), (100, 0, 0), "{outcomes:?}");
    serves(&stage);
}

#[test]
fn who_connects_and_resets_troubles_nobody() {
    let _net = net::isolate();
    let stage = Stage::new(&TRUST);
    let before = stage.outcomes();
    // To drop such a connection is to reset it.
    (0..100).for_each(|_| drop(dial(PROXY, to()).expect("a connection")));
    assert_eq!((stage.outcomes(), established()), (before, 0));
    serves(&stage);
}

#[test]
fn a_thousand_that_wait_take_nothing_and_are_served_when_they_speak() {
    let _net = net::isolate();
    let stage = Stage::new(&TRUST);
    let mut waiting: Vec<TcpStream> = (0..1000).map(|_| dial(PROXY, to()).expect("a connection")).collect();
    assert_eq!(established(), 0, "the kernel keeps something of them");
    serves(&stage);
    for (n, stream) in waiting.iter_mut().enumerate() {
        let client: IpAddr = [203, 0, (n >> 8) as u8, n as u8].into();
        stream.write_all(request(&client.to_string()).as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let slot: Slot = answer.split_once("\r\n\r\n").expect("an answer").1.parse().expect("a slot");
        assert_eq!(slot, stage.home(client.into()), "{client}");
    }
    assert_eq!(stage.outcomes()["gated"], 1008);
}

/// With more half-open connections than there is room for, a worker gets each by a SYN cookie, those of the redirect too.
#[test]
fn the_redirect_reaches_workers_whose_queue_is_full() {
    let _net = net::isolate();
    let stage = Stage::new(&TRUST);
    for listener in &stage.listeners {
        listen(listener, 0).expect("it listens");
        set_tcp_defer_accept(listener, 30).expect("a listener");
    }
    // Each worker has one client that says nothing. A second one would only wait for room.
    let at = |slot: Slot| (1..).map(loopback).find(|client| stage.home((*client).into()) == slot);
    let silent = (0..WORKERS as Slot).map(|slot| dial(at(slot).expect("a client"), to()));
    let _silent: Vec<TcpStream> = silent.collect::<Result<_, _>>().expect("connections");
    let cookies = netstat("SyncookiesSent");
    for n in 1..=8 {
        let client: IpAddr = [203, 0, 113, n].into();
        let shared = format!("GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {client}\r\n\r\n");
        let answer = ask(PROXY, to(), &[shared.as_bytes()]).expect("an answer");
        assert_eq!(answer, (200, Some(stage.home(client.into()))));
    }
    // One at the gate, one at the worker.
    assert_eq!(netstat("SyncookiesSent") - cookies, 16);
    let outcomes = stage.outcomes();
    assert_eq!((outcomes["redirected"], outcomes["shared"], outcomes["gated"]), (8, 8, 0), "{outcomes:?}");
}

#[test]
fn heads_that_never_end_are_ended_by_the_redirect() {
    let _net = net::isolate();
    let stage = Stage::new(&[&TRUST[..], &["--header-timeout", "1s"]].concat());
    let mut unfinished: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = dial(PROXY, to()).expect("a connection");
            stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nX-Never: e").expect("sent");
            stream
        })
        .collect();
    serves(&stage);
    for stream in &mut unfinished {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    }
    assert_eq!(stage.outcomes()["unfinished"], 200);
    eventually("the redirect counts them", || (stage.counted("malformed") == 200).then_some(()));
    assert_eq!(established(), 0);
}

#[test]
fn a_flood_of_syns_from_a_trusted_address_leaves_room_for_others() {
    let _net = net::isolate();
    let stage = Stage::new(&TRUST);
    let over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                serves(&stage);
                rounds += 1;
            }
            rounds
        });
        let mut flood = Command::new("python3");
        flood.args([&app("flood.py"), "127.0.0.2", "127.0.0.1", "3000", "20000"]);
        let flood = flood.output().expect("python3");
        over.store(true, Ordering::Relaxed);
        assert!(flood.status.success(), "{flood:?}");
        others.join().expect("all are served")
    });
    assert!(rounds > 1, "{rounds} rounds in the whole flood");
    assert_eq!(established(), 0);
    serves(&stage);
    let outcomes = stage.outcomes();
    assert_eq!(outcomes["redirected"] + outcomes["unredirected"] + outcomes["refused"], 0, "{outcomes:?}");
}
