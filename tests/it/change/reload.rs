//! `sticky reload`, and SIGHUP.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Version, all_answered, askers, cgroups, command, done, fails, gone, live, name, to};
use crate::faults::more;
use crate::gate::amount;
use crate::harness::client::{hear, loopback};
use crate::harness::http::Wire;
use crate::harness::load::{Asker, load, under_load};
use crate::harness::process::{Process, outcome, pool, start_sticky, sticky};
use crate::harness::scene::{POOL, PROXY};
use crate::harness::{eventually, net};

const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn costs_no_request_and_moves_nobody() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("reload"));
    let sticky = version.run(&[
        "-w",
        "3",
        "--name",
        &name,
        "--drain",
        "1s",
        "--ready-http",
        "/ready",
        "--trust",
        "10.0.0.0/8",
    ]);
    let before = live();
    let (_, visits) = under_load(to(), askers(), |visits| {
        more(visits, 200);
        version.set("2");
        let told = done(&["reload"]);
        for worker in 1..=3 {
            assert!(told.contains(&format!("worker {worker} has a new process")), "{told}");
            assert!(told.contains(&format!("the old process of worker {worker} has ended")), "{told}");
        }
        assert!(told.ends_with("the run was reloaded\n"), "{told}");
        more(visits, 200);
    });
    for (client, met) in all_answered(&visits) {
        assert_eq!(met.len(), 1, "{client} met several workers: {met:?}");
    }
    gone(&before);
    for visit in load(to(), askers(), |round| round < 2) {
        let told = visit.answer.expect("an answer").told();
        assert_eq!(told["version"], "2");
    }
    assert_eq!(cgroups(&name), ["worker-1-2", "worker-2-2", "worker-3-2"]);
    // Reloaded once more they have their first names again, and are workers like any.
    // Who drained takes clients again.
    done(&["drain", "1"]);
    done(&["reload", "--parallel", "3"]);
    assert_eq!(cgroups(&name), ["worker-1", "worker-2", "worker-3"]);
    assert_eq!(pool("3000")["slots"][1]["mode"], "ready");
    let victim = live()[1];
    Command::new("kill").args(["-9", &victim.to_string()]).status().expect("kill");
    sticky.wait_for("worker 2 was killed by signal 9; starting it again now");
}

/// Clients of the redirect and of the gate, and such as come themselves; each over many connections but for the first.
fn of_all_ways() -> Vec<Asker> {
    let ways: [fn(IpAddr) -> Asker; 3] = [
        |client| Asker::behind(PROXY.into(), client),
        |client| Asker::each_behind(PROXY.into(), client),
        Asker::each,
    ];
    (1..=48).map(|n| ways[n % 3](loopback(n))).collect()
}

#[test]
fn reload_and_scale_cost_proxied_clients_nothing() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("proxied"));
    let options = ["-w", "3", "--name", &name, "--drain", "1s", "--trust", "127.0.0.1/32"];
    let _sticky = version.run(&options);
    eventually("the gate is open", || (pool("3000")["gate"]["open"] == true).then_some(()));
    let (_, visits) = under_load(to(), of_all_ways(), |visits| {
        more(visits, 300);
        done(&["reload"]);
        more(visits, 300);
        done(&["scale", "5"]);
        more(visits, 300);
        done(&["scale", "3"]);
        more(visits, 300);
    });
    for (client, met) in all_answered(&visits) {
        assert_eq!(met.len(), 1, "{client} met several workers: {met:?}");
    }
    let pool = pool("3000");
    for way in ["gated", "relayed", "known"] {
        assert!(outcome(&pool, way) > 0, "nobody was {way}: {pool:#?}");
    }
}

/// `STICKY_TEST_REQUESTS` connections, at more than 2,000 a second where the machine lets it.
#[test]
fn eight_workers_are_reloaded_again_and_again() {
    let connections = amount(2000);
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("eight"));
    let _sticky = version.run(&["-w", "8", "--name", &name, "--drain", "1s"]);
    let clients = (1..=64).map(|n| Asker::each(loopback(n))).collect();
    let begin = Instant::now();
    let (reloads, visits) = under_load(to(), clients, |visits| {
        let mut reloads = 0;
        while visits.lock().expect("no thread panics").len() < connections {
            done(&["reload", "--parallel", "4"]);
            reloads += 1;
        }
        reloads
    });
    let rate = visits.len() as f64 / begin.elapsed().as_secs_f64();
    for (client, met) in all_answered(&visits) {
        assert_eq!(met.len(), 1, "{client} met several workers: {met:?}");
    }
    tell(format_args!(
        "{} connections, {rate:.0} a second, {reloads} reloads of 8 workers: none failed",
        visits.len()
    ));
}

/// The hooks that show it are in each new process's cgroup, whose name may be an earlier one's.
#[test]
fn new_processes_see_the_proxy_as_their_peer() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("peer"));
    let _sticky = version.run(&["-w", "2", "--name", &name, "--drain", "1s", "--trust", "127.0.0.2"]);
    let proxy = std::net::Ipv4Addr::new(127, 0, 0, 2).into();
    let peers = || {
        let visits =
            load(to(), (1..=8).map(|n| Asker::behind(proxy, loopback(n))).collect(), |round| round < 1);
        let told = visits.into_iter().map(|visit| visit.answer.expect("an answer").told()["peer"].clone());
        told.collect::<std::collections::HashSet<_>>()
    };
    let seen = std::collections::HashSet::from(["::ffff:127.0.0.2".into()]);
    assert_eq!(peers(), seen);
    for _ in 0..3 {
        done(&["reload"]);
        assert_eq!(peers(), seen);
    }
    for workers in ["1", "2"] {
        done(&["scale", workers]);
        assert_eq!(peers(), seen);
    }
}

#[expect(clippy::print_stderr, reason = "a figure, for whoever asks for more than every day's load")]
fn tell(what: std::fmt::Arguments<'_>) {
    eprintln!("{what}");
}

#[test]
fn a_new_process_that_is_not_ready_leaves_the_old_ones() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("reload-fails"));
    let options = ["-w", "2", "--name", &name, "--ready-http", "3000/ready", "--ready-timeout", "6s"];
    let mut sticky = version.run(&options);
    let before = live();
    for (what, why) in [
        ("exit", "the new process of worker 1 exited with code 7; its last output:\n  no database"),
        ("deaf", "of worker 1 was not ready after 6s: it does not listen on [::]:3000"),
        ("unready", "of worker 1 was not ready after 6s: it answers GET /ready with 503"),
    ] {
        version.set(what);
        let error = fails(1, &["reload"]);
        assert!(error.contains("the run could not be reloaded: ") && error.contains(why), "{what}: {error}");
        assert_eq!(live(), before, "{what}");
        all_answered(&load(to(), askers(), |round| round < 2));
        eventually("the new one is gone", || (cgroups(&name) == ["worker-1", "worker-2"]).then_some(()));
    }
    assert_eq!(sticky.terminate(), Some(0));
}

/// A reload whose new processes do not come, `parallel` of them.
fn stuck(version: &Version, run: &str, parallel: usize) -> Process {
    let before = cgroups(run).len();
    version.set("deaf");
    let reload =
        Process::start(sticky().args(["reload", "--name", run, "--parallel", &parallel.to_string()]));
    reload.wait_for("the run is being reloaded");
    eventually("new processes", || (cgroups(run).len() == before + parallel).then_some(()));
    reload
}

#[test]
fn several_at_a_time_and_nothing_else_meanwhile() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("parallel"));
    let mut sticky = version.run(&["-w", "3", "--name", &name, "--drain", "1s"]);
    let before = live();
    let mut reload = stuck(&version, &name, 2);
    for other in [&["scale", "2"][..], &["reload"], &["upgrade"]] {
        let error = fails(2, other);
        assert!(
            error.contains("sticky: the run is being reloaded\n\nhint: wait until"),
            "{other:?}: {error}"
        );
    }
    // An old process that ends meanwhile is not started again.
    Command::new("kill").args(["-9", &before[0].to_string()]).status().expect("kill");
    sticky.wait_for("the old process of worker 1 was killed by signal 9");
    // Nobody needs the command that asked.
    reload.signal(Signal::INT);
    reload.wait();
    version.set("2");
    sticky.wait_for("the run was reloaded");
    assert!(live().iter().all(|pid| !before.contains(pid)));
    assert_eq!(sticky.lines().iter().filter(|line| line.contains("starting it again")).count(), 0);
    assert_eq!(sticky.terminate(), Some(0));
}

#[test]
fn sighup_reloads() {
    let _net = net::isolate();
    let version = Version::new("1");
    let mut sticky = version.run(&["-w", "2", "--drain", "1s"]);
    let before = live();
    sticky.signal(Signal::HUP);
    sticky.wait_for("the run was reloaded");
    assert!(live().iter().all(|pid| !before.contains(pid)));
    gone(&before);
    assert_eq!(sticky.terminate(), Some(0));
}

#[test]
fn a_connection_may_last_until_the_drain_period_ends() {
    /// Less than the drain period, of which some has passed when it is known to have begun.
    const LASTS: Duration = Duration::from_secs(2);
    let _net = net::isolate();
    let version = Version::new("1");
    let sticky = version.run(&["-w", "1", "--drain", "4s"]);
    let old = live()[0];
    let mut wire = Wire::dial(std::net::Ipv4Addr::LOCALHOST, POOL);
    wire.say(ASK);
    wire.response();
    let reload = Process::start(crate::harness::process::sticky().arg("reload"));
    sticky.wait_for("worker 1 has a new process");
    let began = Instant::now();
    loop {
        wire.say(ASK);
        let (head, body) = wire.response();
        assert!(body.contains(&format!("\"pid\":{old},")), "{body}");
        if head.closes() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() >= LASTS, "told to end after {:?}", began.elapsed());
    assert_ne!(live()[0], old);
    reload.wait_for("the old process of worker 1 has ended");
}

#[test]
fn a_sticky_killed_before_the_swap_is_taken_up() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("killed-before"));
    let options = ["-w", "2", "--name", &name, "--drain", "1s"];
    let mut first = version.run(&options);
    let before = live();
    let mut reload = stuck(&version, &name, 2);
    first.signal(Signal::KILL);
    first.wait();
    assert_eq!(reload.wait().code(), Some(1));
    reload.wait_for("ended before it was done");
    all_answered(&load(to(), askers(), |round| round < 2));
    let second = version.run(&options);
    second.wait_for("adopted 2 of 2 workers");
    second.wait_for("2 more processes were running");
    assert_eq!(live(), before);
    eventually("the new ones are gone", || (cgroups(&name) == ["worker-1", "worker-2"]).then_some(()));
    version.set("2");
    done(&["reload"]);
    assert!(live().iter().all(|pid| !before.contains(pid)));
}

#[test]
fn a_sticky_killed_after_the_swap_is_taken_up() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("killed-after"));
    let options = ["-w", "1", "--name", &name];
    let mut first = version.run(&options);
    let old = live()[0];
    let mut wire = Wire::dial(std::net::Ipv4Addr::LOCALHOST, POOL);
    wire.say(ASK);
    wire.response();
    let _reload = Process::start(sticky().arg("reload"));
    first.wait_for("worker 1 has a new process");
    let new = live();
    first.signal(Signal::KILL);
    first.wait();
    let second = version.run(&options);
    second.wait_for("1 more processes were running");
    assert_eq!(live(), new);
    wire.say(ASK);
    assert!(wire.response().1.contains(&format!("\"pid\":{old},")));
    drop(wire);
    gone(&[old]);
    assert_eq!(live(), new);
}

#[test]
fn stopping_stops_all() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("stopped"));
    let mut sticky = version.run(&["-w", "2", "--name", &name]);
    let mut reload = stuck(&version, &name, 1);
    sticky.signal(Signal::TERM);
    assert_eq!(reload.wait().code(), Some(1));
    reload.wait_for("the run is no longer being reloaded: it is to stop");
    // A process that starts does not hear SIGTERM at once.
    assert!(sticky.wait().code().is_some());
    assert!(cgroups(&name).is_empty());
}

#[test]
fn workers_with_passed_sockets_are_reloaded() {
    let _net = net::isolate();
    let program = "
import os, socket
a = socket.socket(fileno=3)
while True:
    connection, _ = a.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
";
    let options = ["run", "-w", "2", "--listen-fds", "3000", "--drain", "1s", "--", "python3", "-c", program];
    let sticky = start_sticky(&options);
    sticky.wait_for("is complete");
    let before = live();
    let output = command(&["reload", "--parallel", "2"]);
    assert!(output.status.success(), "{output:?}");
    let after = live();
    assert!(after.iter().all(|pid| !before.contains(pid)));
    for n in 1..=16 {
        // They listen before they are ready: their first clients wait.
        let heard = eventually("an answer", || hear(loopback(n), to()).ok());
        assert!(after.contains(&heard.parse().expect("a PID")));
    }
}
