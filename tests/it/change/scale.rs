//! `sticky scale`, and a run that adopts more workers than it is to have.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;

use rustix::process::Signal;

use super::{Version, all_answered, askers, cgroups, done, fails, gone, live, name, to};
use crate::faults::more;
use crate::harness::client::loopback;
use crate::harness::load::{Asker, Visit, load, under_load};
use crate::harness::process::{pids, pool};
use crate::harness::{eventually, net};

#[test]
fn up_and_down_under_load() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("scale"));
    let sticky = version.run(&["-w", "2", "--name", &name, "--drain", "1s"]);
    let two = live();
    let (four, visits) = under_load(to(), askers(), |visits| {
        more(visits, 200);
        let told = done(&["scale", "4"]);
        assert!(told.contains("worker 3 serves\nworker 4 serves\nthe run was scaled from 2 to 4"), "{told}");
        let four = live();
        let news = load(to(), newcomers(), |round| round < 2);
        let met: HashSet<_> = all_answered(&news).into_values().flatten().collect();
        assert_eq!(met, ["1", "2", "3", "4"].map(String::from).into(), "who had clients?");
        more(visits, 400);
        let told = done(&["scale", "2", "--name", &name]);
        assert!(told.contains("worker 3 gets no new clients\nworker 4 gets no new clients\n"), "{told}");
        assert!(told.contains("worker 4 has ended\n"), "{told}");
        more(visits, 200);
        four
    });
    let met: HashSet<_> = all_answered(&visits).into_values().flatten().collect();
    assert_eq!(met, ["1", "2"].map(String::from).into(), "known clients moved");
    assert_eq!((four.len(), &four[..2]), (4, &two[..]));
    assert_eq!(live(), two, "workers that stayed were not left alone");
    gone(&four[2..]);
    assert_eq!(cgroups(&name), ["worker-1", "worker-2"]);
    let pipe = PathBuf::from("/run/sticky").join(&name).join("3.out");
    eventually("the pipes are gone", || (!pipe.exists()).then_some(()));
    let now = load(to(), askers(), |round| round < 2);
    let now: HashSet<_> = all_answered(&now).into_values().flatten().collect();
    assert_eq!(now, ["1", "2"].map(String::from).into());
    assert_eq!(sticky.lines().iter().filter(|line| line.contains("starting it again")).count(), 0);
}

/// Clients that nobody knows.
fn newcomers() -> Vec<Asker> {
    (101..=164).map(|n| Asker::each(loopback(n))).collect()
}

/// The slot of each client, which is asked for once more.
#[track_caller]
fn slots_of(clients: Vec<IpAddr>) -> HashMap<IpAddr, usize> {
    let visits = load(to(), clients.into_iter().map(Asker::each).collect(), |round| round < 1);
    let pids = pids(&pool("3000"));
    let slot = |visit: &Visit| {
        let pid = visit.pid().unwrap_or_else(|error| panic!("{}: {error}", visit.client));
        pids.iter().position(|there| *there == Some(pid)).expect("a worker's PID")
    };
    visits.iter().map(|visit| (visit.client, slot(visit))).collect()
}

#[test]
fn ten_thousand_known_clients_stay() {
    const KNOWN: usize = 10_000;
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("scale-known"));
    let sticky = version.run(&["-w", "4", "--name", &name, "--drain", "1s"]);
    let known = || (1..=KNOWN).map(loopback).collect();
    let homes = slots_of(known());
    let ((there, after), visits) = under_load(to(), askers(), |visits| {
        let scaled = done(&["scale", "8", "--name", &name]);
        assert!(scaled.contains("the run was scaled from 4 to 8"), "{scaled}");
        assert_eq!(slots_of(known()), homes, "known clients moved on the way up");
        let there = slots_of((KNOWN + 1..=KNOWN + 2000).map(loopback).collect());
        let dry = done(&["scale", "4", "--name", &name, "--dry-run"]);
        let leaving = there.values().filter(|slot| **slot > 3).count();
        assert!(leaving > 500, "the new workers have {leaving} of 2000 new clients");
        assert!(dry.contains(&format!("{leaving} known clients would move, and no others")), "{dry}");
        more(visits, 100);
        done(&["scale", "4", "--name", &name]);
        more(visits, 100);
        (there, slots_of((1..=KNOWN + 2000).map(loopback).collect()))
    });
    all_answered(&visits);
    for (client, slot) in homes.iter().chain(&there).filter(|(_, slot)| **slot < 4) {
        assert_eq!(after[client], *slot, "{client} moved on the way down");
    }
    let moved = there.values().filter(|slot| **slot > 3).count() as u64;
    assert_eq!(pool("3000")["memory"]["moved"]["gone"], moved);
    eventually("the log tells of all", || {
        let told = sticky.lines().into_iter().filter(|line| line.contains("moved away from slot"));
        let count = |line: String| line.split(' ').find_map(|word| word.parse::<u64>().ok());
        (told.filter_map(count).sum::<u64>() == moved).then_some(())
    });
    assert!(after.values().all(|slot| *slot < 4) && moved > 0);
}

#[test]
fn workers_that_do_not_come_up_leave_all_as_it_was() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("scale-fails"));
    let _sticky = version.run(&["-w", "2", "--name", &name]);
    let two = live();
    version.set("exit");
    let error = fails(1, &["scale", "3"]);
    assert!(error.contains("could not be scaled from 2 to 3 workers"), "{error}");
    assert!(error.contains("of worker 3 exited with code 7; its last output:\n  no database"), "{error}");
    assert_eq!(live(), two);
    eventually("only the old ones are there", || (cgroups(&name) == ["worker-1", "worker-2"]).then_some(()));
}

#[test]
fn what_would_be_done_is_not_done() {
    let _net = net::isolate();
    let version = Version::new("1");
    let _sticky = version.run(&["-w", "3"]);
    let before = live();
    let told = done(&["scale", "5", "--dry-run"]);
    assert_eq!(told, "would start worker 4 to 5\n[::]:3000: 5 slots instead of 3\n");
    let told = done(&["scale", "2", "--dry-run"]);
    assert!(told.starts_with("would end worker 3, once its connections have, or after 30s\n"), "{told}");
    let told = done(&["reload", "--dry-run", "--parallel", "2"]);
    assert!(told.starts_with("would start a new process for each of 3 workers, 2 at a time\n"), "{told}");
    assert_eq!(live(), before);
    assert_eq!(done(&["scale", "3"]), "there are 3 workers already\n");
}

#[test]
fn surplus_workers_of_an_earlier_run_leave() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("surplus"));
    let mut first = version.run(&["-w", "4", "--name", &name]);
    let four = live();
    first.signal(Signal::KILL);
    first.wait();
    let (_second, visits) = under_load(to(), askers(), |visits| {
        more(visits, 100);
        let second = version.run(&["-w", "2", "--name", &name, "--drain", "1s"]);
        second.wait_for("adopted 2 of 2 workers");
        second.wait_for("2 more processes were running");
        gone(&four[2..]);
        more(visits, 100);
        second
    });
    all_answered(&visits);
    assert_eq!(live(), four[..2]);
    assert_eq!(pool("3000")["slots"].as_array().map(Vec::len), Some(2));
}
