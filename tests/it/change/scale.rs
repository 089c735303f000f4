//! `sticky scale`, and a run that adopts more workers than it is to have.

use std::collections::HashSet;
use std::path::PathBuf;

use rustix::process::Signal;

use super::{Version, all_answered, askers, cgroups, done, fails, gone, live, name, to};
use crate::faults::more;
use crate::harness::load::{load, under_load};
use crate::harness::process::pool;
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
        more(visits, 400);
        let told = done(&["scale", "2", "--name", &name]);
        assert!(told.contains("worker 3 gets no new clients\nworker 4 gets no new clients\n"), "{told}");
        assert!(told.contains("worker 4 has ended\n"), "{told}");
        more(visits, 200);
        four
    });
    let met: HashSet<_> = all_answered(&visits).into_values().flatten().collect();
    assert_eq!(met, ["1", "2", "3", "4"].map(String::from).into(), "who had clients?");
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
