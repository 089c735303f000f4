//! A run beside others who listen on its ports, or steer them.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::port;
use crate::harness::client::{hear, loopback};
use crate::harness::process::{Process, pids, pool, start_sticky};
use crate::harness::{app, eventually, net};

#[test]
fn a_stranger_on_the_port_gets_nothing() {
    let _net = net::isolate();
    let stranger =
        Process::start(Command::new("python3").args([&app("name.py"), "0.0.0.0", "3000", "reuseport"]));
    stranger.wait_for("listening");
    let sticky = start_sticky(&["run", "-w", "2", "--", "python3", &app("name.py"), "0.0.0.0", "3000"]);
    sticky.wait_for("is complete: 2 workers");
    let line = sticky.wait_for("which gets no connections");
    let who = format!("0.0.0.0:3000 is also listened on by `python3` (process {}, user 0)", stranger.pid());
    assert!(line.contains(&who) && line.contains("no worker of this run"), "{line}");
    for n in 1..=32 {
        assert_ne!(hear(loopback(n), port(3000)).expect("an answer"), stranger.pid().to_string());
    }
}

#[test]
fn a_new_run_takes_the_slots_of_another_ones_orphans() {
    let _net = net::isolate();
    let app = app("name.py");
    let mut first =
        start_sticky(&["run", "-w", "2", "--name", "old", "--", "python3", &app, "0.0.0.0", "3000"]);
    first.wait_for("is complete");
    let orphans = pids(&pool("3000"));
    first.signal(Signal::KILL);
    first.wait();
    let second = start_sticky(&["run", "-w", "2", "--name", "new", "--", "python3", &app, "0.0.0.0", "3000"]);
    second.wait_for("is complete: 2 workers");
    second.wait_for("which gets no connections");
    let workers = pids(&pool("3000"));
    assert!(workers.iter().all(|pid| !orphans.contains(pid)), "{workers:?} and {orphans:?}");
    for n in 1..=32 {
        let pid = hear(loopback(n), port(3000)).expect("an answer").parse().expect("a PID");
        assert!(workers.contains(&Some(pid)));
    }
}

#[test]
fn a_port_of_somebody_elses_keeps_workers_from_no_other() {
    let _net = net::isolate();
    let other =
        Process::start(Command::new("python3").args([&app("name.py"), "0.0.0.0", "4000", "reuseport"]));
    other.wait_for("listening");
    let follower = start_sticky(&["attach", "4000", "--mixed"]);
    follower.wait_for("is steered: 1 workers");
    let program = "import signal, socket, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
first = socket.create_server(('0.0.0.0', 3000), reuse_port=True)
signal.sigwait([signal.SIGUSR1])
second = socket.create_server(('0.0.0.0', 4000), reuse_port=True)
time.sleep(600)";
    let sticky = start_sticky(&["run", "-w", "2", "--name", "ports", "--", "python3", "-c", program]);
    sticky.wait_for("0.0.0.0:3000 is complete: 2 workers");
    for pid in pids(&pool("3000")).into_iter().flatten() {
        let pid = Pid::from_raw(i32::try_from(pid).expect("a PID")).expect("a PID");
        kill_process(pid, Signal::USR1).expect("the worker is there");
    }
    sticky.wait_for("the pool 0.0.0.0:4000 is in use by sticky");
    let old = pids(&pool("3000"))[0].expect("a PID");
    crate::crash::kill(old);
    eventually("another process has its slot", || pids(&pool("3000"))[0].filter(|pid| *pid != old));
    let told = sticky.lines().into_iter().filter(|line| line.contains("is in use by sticky")).count();
    assert_eq!(told, 1, "it was tried more than once, and told once");
}

/// Somebody else follows the pool meanwhile: what was found goes on.
#[test]
fn a_run_that_cannot_have_its_pool_leaves_the_workers_it_found() {
    let _net = net::isolate();
    let app = app("name.py");
    let command = ["run", "-w", "2", "--name", "found", "--", "python3", &app, "0.0.0.0", "3000"];
    let mut first = start_sticky(&command);
    first.wait_for("is complete");
    let workers = pids(&pool("3000"));
    first.signal(Signal::KILL);
    first.wait();
    let mut follower = start_sticky(&["attach", "3000"]);
    follower.wait_for("is adopted: 2 workers");
    let mut second = start_sticky(&command);
    second.wait_for("is in use by sticky");
    assert_eq!(second.wait().code(), Some(2));
    assert_eq!(pids(&pool("3000")), workers);
    hear(loopback(1), port(3000)).expect("an answer");
    assert_eq!(follower.terminate(), Some(0));
    let mut third = start_sticky(&command);
    third.wait_for("adopted 2 of 2 workers");
    third.wait_for("is complete");
    assert_eq!(third.terminate(), Some(0));
}
