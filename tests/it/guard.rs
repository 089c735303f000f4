//! Those who meddle with a pool: its program, its files, its group. It is noticed, told and put right within a second.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::client::{hear, loopback};
use crate::harness::process::{Process, by_client, pids, pool, run_sticky, start_sticky, sticky, sticky_ok};
use crate::harness::{app, eventually, net};

/// How long a repair may take.
const SOON: Duration = Duration::from_secs(1);

fn meet() -> HashMap<IpAddr, String> {
    let to = SocketAddr::from(([127, 0, 0, 1], 3000));
    (1..=48).map(loopback).map(|client| (client, hear(client, to).expect("an answer"))).collect()
}

/// A worker that meddles when it is told to.
fn meddler(options: &[&str]) -> Process {
    let command = [&app("meddler.py"), "0.0.0.0", "3000", "reuseport"];
    Process::start(Command::new("python3").args(command).args(options))
}

fn meddlers(count: usize) -> Vec<Process> {
    let start = |_| {
        let process = meddler(&[]);
        process.wait_for("listening");
        process
    };
    (0..count).map(start).collect()
}

/// `run`, with four meddlers.
fn run_meddlers() -> Process {
    let sticky = start_sticky(&["run", "-w", "4", "--", "python3", &app("meddler.py"), "0.0.0.0", "3000"]);
    sticky.wait_for("is complete");
    sticky
}

fn repaired(what: &str) -> u64 {
    let pool: Value = pool("3000");
    pool["repaired"][what].as_u64().unwrap_or_else(|| panic!("no such count in {pool:#?}"))
}

/// The directory of the test's pool.
fn pins() -> PathBuf {
    let namespace = sticky::kernel::network_namespace().expect("a network namespace");
    sticky::kernel::pools_dir().join(format!("tcp-0_0_0_0-3000-net{namespace}"))
}

/// Does `work` while connections are made, none of which may fail.
fn under_load(work: impl FnOnce()) {
    let to = SocketAddr::from(([127, 0, 0, 1], 3000));
    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            for client in (1..=48).map(loopback).cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                hear(client, to).expect("an answer");
                made.fetch_add(1, Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        load.join().expect("every connection is answered");
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(made.into_inner() > 0, "there was no load");
}

#[test]
fn a_worker_takes_the_program_off() {
    let _net = net::isolate();
    let workers = meddlers(4);
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("is steered: 4 workers");
    let before = meet();
    let who = workers[1].pid();
    under_load(|| {
        for nth in 0..3 {
            workers[1].signal(Signal::USR1);
            workers[1].wait_for_nth("detached", nth);
            let begin = Instant::now();
            eventually("it is counted", || (repaired("attached") == nth as u64 + 1).then_some(()));
            eventually("clients are at home again", || (meet() == before).then_some(()));
            assert!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
        }
    });
    let said =
        format!("0.0.0.0:3000: `python3` (process {who}) took the program off the group; attached again");
    sticky.wait_for(&said);
    assert!(sticky_ok(&["status", "3000"]).contains("3  times the program was attached again"));
    assert_eq!(repaired("pinned"), 0);
}

#[test]
fn a_worker_of_a_run_replaces_the_program() {
    let _net = net::isolate();
    let sticky = run_meddlers();
    let before = meet();
    let who = pids(&pool("3000"))[2].expect("a PID");
    under_load(|| {
        kill_process(Pid::from_raw(who as i32).expect("a PID"), Signal::USR2).expect("the worker is there");
        let begin = Instant::now();
        sticky.wait_for(&format!(
            "0.0.0.0:3000: `python3` (process {who}) replaced the program; attached again"
        ));
        eventually("clients are at home again", || (meet() == before).then_some(()));
        assert!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
    });
    assert_eq!(repaired("attached"), 1);
}

#[test]
fn one_who_joined_and_left_at_once_is_told_of() {
    let _net = net::isolate();
    let _workers = meddlers(2);
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("is steered: 2 workers");
    let mut stranger = meddler(&["late"]);
    stranger.wait();
    // It may have left before its name was asked for.
    let said = sticky.wait_for(" replaced the program; attached again");
    assert!(said.contains(&format!("process {}", stranger.pid())), "{said}");
    assert_eq!(repaired("attached"), 1);
}

#[test]
fn what_is_done_to_other_groups_is_let_be() {
    let _net = net::isolate();
    let workers = meddlers(2);
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("is steered: 2 workers");
    std::thread::spawn(|| {
        // The same port in another network namespace.
        let _net = net::isolate();
        let mut stranger = meddler(&["late"]);
        stranger.wait_for("replaced");
        stranger.wait();
    })
    .join()
    .expect("the other namespace's thread");
    // Before it listens, a socket is in no group but its own.
    let mut newcomer = meddler(&["early"]);
    newcomer.wait_for("replaced");
    newcomer.wait();
    workers[0].signal(Signal::USR1);
    sticky.wait_for(&format!("(process {}) took the program off", workers[0].pid()));
    assert_eq!(repaired("attached"), 1, "{:#?}", sticky.lines());
}

/// `attach`, without these capabilities.
fn attach_without(capabilities: &str) -> Process {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", capabilities]).arg(sticky().get_program()).args(["attach", "3000"]);
    let sticky = Process::start(&mut command);
    sticky.wait_for("is steered: 4 workers");
    sticky
}

#[test]
fn who_it_was_needs_no_cap_perfmon() {
    let _net = net::isolate();
    let workers = meddlers(4);
    let sticky = attach_without("-perfmon,-sys_admin");
    sticky.wait_for("looking for new workers twice a second");
    workers[0].signal(Signal::USR1);
    sticky
        .wait_for(&format!("(process {}) took the program off the group; attached again", workers[0].pid()));
    assert_eq!(repaired("attached"), 1);
}

#[test]
fn the_program_comes_back_unasked_where_the_kernel_does_not_tell() {
    let _net = net::isolate();
    let workers = meddlers(4);
    let sticky = attach_without("-perfmon,-sys_admin,-net_admin");
    sticky.wait_for("who takes the program off cannot be known (CAP_NET_ADMIN is missing");
    let before = meet();
    for nth in 0..3 {
        workers[0].signal(Signal::USR1);
        workers[0].wait_for_nth("detached", nth);
        let begin = Instant::now();
        eventually("clients are at home again", || (meet() == before).then_some(()));
        assert!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
    }
    assert_eq!(repaired("attached"), 0, "nobody knows when it was needed");
}

#[test]
fn removed_files_come_back() {
    let _net = net::isolate();
    let _workers = meddlers(4);
    let mut first = start_sticky(&["attach", "3000"]);
    first.wait_for("is steered: 4 workers");
    let before = meet();
    fs::remove_file(pins().join("SOCKETS")).expect("a pin");
    fs::remove_file(pins().join("steer")).expect("a pin");
    let begin = Instant::now();
    eventually("they are back", || {
        (pins().join("SOCKETS").exists() && pins().join("steer").exists()).then_some(())
    });
    assert!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
    first.wait_for("0.0.0.0:3000: somebody removed ");
    eventually("it is counted", || (repaired("pinned") > 0).then_some(()));
    assert!(sticky_ok(&["status", "3000"]).contains("times files of the pool were made again"));
    // They are the same maps: the next sticky finds sockets and counters in them.
    first.terminate();
    let second = start_sticky(&["attach", "3000"]);
    second.wait_for("is adopted: 4 workers");
    assert_eq!(meet(), before);
    assert_eq!(by_client(&pool("3000")), 96);
}

#[test]
fn a_removed_directory_comes_back() {
    let _net = net::isolate();
    let mut sticky = run_meddlers();
    let before = meet();
    fs::remove_dir_all(pins()).expect("the directory");
    let begin = Instant::now();
    sticky.wait_for(&format!("0.0.0.0:3000: somebody removed `{}`; made again", pins().display()));
    assert!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
    assert_eq!(repaired("pinned"), 1);
    assert_eq!(meet(), before);
    let pool = pool("3000");
    assert_eq!(by_client(&pool), 96);
    assert_eq!(pool["followed_by"], sticky.pid(), "it is not locked again");
    let refused = run_sticky(&["detach", "3000"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(sticky.terminate(), Some(0));
    assert!(!pins().exists(), "pins are left");
}

/// Another sticky began there while nobody had it; it gets no sockets, and what it left is replaced.
#[test]
fn a_directory_that_another_made_is_taken_back() {
    let _net = net::isolate();
    let _workers = meddlers(2);
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("is steered: 2 workers");
    let before = meet();
    sticky.signal(Signal::STOP);
    fs::remove_dir_all(pins()).expect("the directory");
    let output = run_sticky(&["attach", "3000", "--once"]);
    sticky.signal(Signal::CONT);
    assert!(String::from_utf8_lossy(&output.stderr).contains("in another program's socket array already"));
    sticky.wait_for("; made again");
    eventually("clients are at home again", || (meet() == before).then_some(()));
    // It took the program off on its way out.
    eventually("it is counted", || (repaired("attached") > 0).then_some(()));
}

#[test]
fn a_strangers_socket_is_told_of_within_a_second() {
    let _net = net::isolate();
    let program = "use IO::Socket::INET; $| = 1;
        $s = IO::Socket::INET->new(LocalAddr => '0.0.0.0:3000', Listen => 9, ReusePort => 1) or die $!;
        print \"listening\\n\"; while ($c = $s->accept) { print $c 'stranger'; close $c }";
    let perl = || {
        let stranger = Process::start(Command::new("perl").args(["-e", program]));
        stranger.wait_for("listening");
        stranger
    };
    let told = |sticky: &Process, stranger: &Process, line: &str| {
        let begin = Instant::now();
        let said = sticky.wait_for(line);
        assert!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
        assert!(said.contains(&format!("(process {}, user ", stranger.pid())), "{said}");
    };
    let sticky = run_meddlers();
    let stranger = perl();
    told(&sticky, &stranger, "is also listened on by `perl`");
    let mut sticky = sticky;
    assert_eq!(sticky.terminate(), Some(0));
    assert_eq!(
        hear(loopback(1), SocketAddr::from(([127, 0, 0, 1], 3000))).expect("who is left serves everybody"),
        "stranger"
    );
    drop((sticky, stranger));

    let workers = meddlers(2);
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("is steered: 2 workers");
    let stranger = perl();
    told(&sticky, &stranger, "0.0.0.0:3000: `perl` ");
    let user = Process::start(Command::new("python3").args([
        &app("name.py"),
        "0.0.0.0",
        "3000",
        "reuseport",
        "uid=65534",
    ]));
    user.wait_for("listening");
    told(&sticky, &user, "0.0.0.0:3000: `python3` ");
    drop((user, workers));
    sticky.wait_for("slot 0 has `perl`");
    assert_eq!(
        hear(loopback(1), SocketAddr::from(([127, 0, 0, 1], 3000))).expect("who is left gets the pool"),
        "stranger"
    );
    // Whose program it was is let in again.
    let _back = meddlers(2);
    sticky.wait_for("slot 1 has `python3`");
    sticky.wait_for("slot 2 has `python3`");
}
