//! `--place least`: open connections are counted as they come and go, and new clients placed by that.

mod balance;
mod refused;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use rustix::net::sockopt;
use rustix::process::Signal;

use crate::harness::client::{dial, loopback};
use crate::harness::process::{Process, pids, pool, start_sticky, sticky_ok};
use crate::harness::{app, eventually, net};

fn to() -> SocketAddr {
    ([127, 0, 0, 1], 3000).into()
}

/// Workers that hold their connections.
fn workers(count: usize) -> Vec<Process> {
    let start = |_| Process::start(Command::new("python3").args([&app("hold.py"), "3000"]));
    let workers: Vec<_> = (0..count).map(start).collect();
    workers.iter().for_each(|worker| _ = worker.wait_for("listening"));
    workers
}

/// A connection, and who has it.
struct Held {
    stream: TcpStream,
    pid: u64,
}

impl Held {
    #[track_caller]
    fn open(from: IpAddr) -> Self {
        let mut held = Self { stream: dial(from, to()).expect("a connection"), pid: 0 };
        held.pid = held.line().expect("an answer").trim().parse().expect("a PID");
        held
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        BufReader::new(&self.stream).read_line(&mut line).map(|_| line)
    }

    /// Has it end with a FIN instead of a RST.
    fn fin(self) {
        sockopt::set_socket_linger(&self.stream, None).expect("a socket");
    }

    /// Has the worker end it, whose side then is in TIME_WAIT.
    fn end_there(mut self) {
        self.stream.write_all(b"x").expect("the worker is there");
        assert_eq!(self.stream.read(&mut [0; 8]).ok(), Some(0), "the worker said something");
        sockopt::set_socket_linger(&self.stream, None).expect("a socket");
    }
}

/// So many connections, of five clients in turn.
fn hold(count: usize) -> Vec<Held> {
    (0..count).map(|n| Held::open(loopback(1 + n % 5))).collect()
}

/// How many connections each slot has open, as `sticky status` says.
#[track_caller]
fn open() -> Vec<u64> {
    let pool = pool("3000");
    let slots = pool["slots"].as_array().expect("slots");
    slots.iter().map(|slot| slot["open"].as_u64().unwrap_or_else(|| panic!("no count: {pool:#?}"))).collect()
}

/// Waits until it is what `held` says, and no more.
#[track_caller]
fn counted(held: &[Held]) {
    let pids = pids(&pool("3000"));
    let mut expected = HashMap::<_, u64>::new();
    held.iter().for_each(|held| *expected.entry(held.pid).or_default() += 1);
    let expected: Vec<_> =
        pids.iter().map(|pid| pid.and_then(|pid| expected.get(&pid)).copied().unwrap_or(0)).collect();
    let last = RefCell::new(Vec::new());
    let what = fmt::from_fn(|f| write!(f, "{expected:?} open; there are {:?}", last.borrow()));
    for _ in 0..2 {
        eventually(&what, || {
            last.replace(open());
            (*last.borrow() == expected).then_some(())
        });
        // And it stays like this.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn connections_are_counted_as_they_come_and_go() {
    let _net = net::isolate();
    let mut workers = workers(4);
    let sticky = start_sticky(&["attach", "3000", "--place", "least"]);
    sticky.wait_for("is steered: 4 workers");
    counted(&[]);
    let mut held = hold(50);
    counted(&held);
    held.drain(..10).for_each(Held::fin);
    counted(&held);
    held.drain(..10).for_each(drop);
    counted(&held);
    held.drain(..10).for_each(Held::end_there);
    counted(&held);

    let victim = held[0].pid;
    let worker = workers.iter_mut().find(|worker| u64::from(worker.pid()) == victim).expect("a worker");
    worker.signal(Signal::KILL);
    worker.wait();
    sticky.wait_for("is empty");
    held.retain(|held| held.pid != victim);
    counted(&held);
    held.clear();
    counted(&[]);
}

#[test]
fn who_ends_before_it_is_accepted_is_counted_out() {
    let _net = net::isolate();
    let workers = workers(2);
    sticky_ok(&["attach", "3000", "--place", "least", "--once"]);
    let first = Held::open(loopback(1));
    let slot = pids(&pool("3000")).iter().position(|pid| *pid == Some(first.pid)).expect("a slot");
    let worker = workers.iter().find(|worker| u64::from(worker.pid()) == first.pid).expect("a worker");
    worker.signal(Signal::STOP);
    let waiting: Vec<_> = (0..30).map(|_| dial(loopback(1), to()).expect("a connection")).collect();
    eventually("all are counted", || (open()[slot] == 31).then_some(()));
    drop(waiting);
    counted(std::slice::from_ref(&first));
    // What is left of them in the queue is no connection any more.
    worker.signal(Signal::CONT);
    counted(&[first]);
}

#[test]
fn counting_outlives_sticky_and_is_taken_up() {
    let _net = net::isolate();
    let _workers = workers(4);
    let mut first = start_sticky(&["attach", "3000", "--place", "least"]);
    first.wait_for("is steered: 4 workers");
    let mut held = hold(30);
    first.signal(Signal::KILL);
    first.wait();
    held.drain(..5).for_each(drop);
    held.extend(hold(20));
    counted(&held);

    let mut second = start_sticky(&["attach", "3000"]);
    second.wait_for("is adopted: 4 workers");
    counted(&held);
    held.extend(hold(20));
    held.drain(..25).for_each(Held::fin);
    counted(&held);
    assert_eq!(second.terminate(), Some(0));
    held.drain(..25).for_each(drop);
    held.extend(hold(10));
    counted(&held);
    held.clear();
    counted(&[]);
}

#[test]
fn counting_outlives_its_files() {
    let _net = net::isolate();
    let _workers = workers(2);
    let sticky = start_sticky(&["attach", "3000", "--place", "least"]);
    sticky.wait_for("is steered: 2 workers");
    let mut held = hold(10);
    let namespace = sticky::kernel::network_namespace().expect("a network namespace");
    let pins = sticky::kernel::pools_dir().join(format!("tcp-0_0_0_0-3000-net{namespace}"));
    std::fs::remove_dir_all(&pins).expect("the directory");
    sticky.wait_for("; made again");
    eventually("it is all there", || pins.join("count").exists().then_some(()));
    held.extend(hold(10));
    held.drain(..5).for_each(drop);
    counted(&held);
}

#[test]
fn counting_that_was_given_up_begins_anew() {
    let _net = net::isolate();
    let _workers = workers(2);
    sticky_ok(&["attach", "3000", "--place", "least", "--once"]);
    let mut old = hold(20);
    sticky_ok(&["attach", "3000", "--place", "hash", "--once"]);
    assert!(pool("3000")["slots"][0]["open"].is_null());
    old.drain(..5).for_each(drop);
    sticky_ok(&["attach", "3000", "--place", "least", "--once"]);
    counted(&[]);
    let held = hold(10);
    counted(&held);
    // Those of the first counting are in no number of the second.
    drop(old);
    counted(&held);
    drop(held);
    counted(&[]);
}

/// Twenty connections of each client at once: had one been placed without a look at the others, they would be at two
/// workers, since each one that comes makes the other worker the less loaded.
#[test]
fn all_connections_of_a_client_meet_one_worker() {
    let _net = net::isolate();
    let sticky =
        start_sticky(&["run", "-w", "4", "--place", "least", "--", "python3", &app("hold.py"), "3000"]);
    sticky.wait_for("is complete: 4 workers");
    let mut held = Vec::new();
    for client in (1..=50).map(loopback) {
        let start = std::sync::Barrier::new(4);
        let open = || {
            start.wait();
            (0..5).map(|_| Held::open(client)).collect::<Vec<_>>()
        };
        let met: Vec<Held> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("all connect")).collect()
        });
        assert!(met.iter().all(|one| one.pid == met[0].pid), "{client} met several workers");
        held.extend(met);
    }
    counted(&held);
}
