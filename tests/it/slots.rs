//! `sticky drain`, `maintenance`, `ready`, `weight` and `pin`, under load, however clients come: by themselves, through the
//! gate, and through the redirect.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::faults::{more, to};
use crate::harness::client::loopback;
use crate::harness::load::{Asker, Visit, load, under_load};
use crate::harness::process::{Process, outcome, pids, pool, run_sticky, start_sticky, sticky_ok};
use crate::harness::scene::PROXY;
use crate::harness::{app, eventually, net};

/// Clients that are known before anything changes; as many more come afterwards.
const KNOWN: usize = 64;
/// How old what the redirect has read of a pool may be, and some more.
const FRESH: Duration = Duration::from_millis(10);

type Way = fn(IpAddr) -> Asker;

fn by_itself(client: IpAddr) -> Asker {
    Asker::each(client)
}

fn through_the_gate(client: IpAddr) -> Asker {
    Asker::each_behind(PROXY.into(), client)
}

fn through_the_redirect(client: IpAddr) -> Asker {
    Asker::behind(PROXY.into(), client)
}

fn run(options: &[&str]) -> Process {
    let command = ["--", "node", &app("echo.js"), "3000"];
    let sticky = start_sticky(&[&["run", "-w", "4"], options, &command].concat());
    sticky.wait_for("is complete: 4 workers");
    if options.contains(&"--trust") {
        eventually("the gate is open", || (pool("3000")["gate"]["open"] == true).then_some(()));
    }
    sticky
}

fn askers(way: Way, clients: std::ops::RangeInclusive<usize>) -> Vec<Asker> {
    clients.map(|n| way(loopback(n))).collect()
}

/// The slot that served each client: of all its visits the same.
#[track_caller]
fn slots(visits: &[Visit]) -> HashMap<IpAddr, usize> {
    let pids = pids(&pool("3000"));
    let mut slots = HashMap::new();
    for visit in visits {
        let pid = visit.pid().unwrap_or_else(|error| panic!("{}: {error}", visit.client));
        let slot = pids.iter().position(|there| *there == Some(pid)).expect("a worker's PID");
        assert_eq!(*slots.entry(visit.client).or_insert(slot), slot, "{}", visit.client);
    }
    slots
}

/// The slots of new clients.
#[track_caller]
fn newcomers(way: Way, number: usize) -> HashSet<usize> {
    let clients = KNOWN * number + 1..=KNOWN * (number + 1);
    slots(&load(to(), askers(way, clients), |round| round < 2)).into_values().collect()
}

/// When `change` began, and was done, with visits before and afterwards; and what it printed.
fn after(visits: &Mutex<Vec<Visit>>, change: &[&str]) -> ([Instant; 2], String) {
    more(visits, 200);
    let begun = Instant::now();
    let text = sticky_ok(change);
    let from = Instant::now() + FRESH;
    eventually("that what was read is old", || (Instant::now() > from).then_some(()));
    more(visits, 400);
    ([begun, from], text)
}

/// What clients meet while slots are drained, put into maintenance, made ready and pinned to.
fn changes(way: Way, options: &[&str]) {
    let _net = net::isolate();
    let _sticky = run(options);
    let homes = slots(&load(to(), askers(way, 1..=KNOWN), |round| round < 2));
    let of = |slot: usize| homes.values().filter(|home| **home == slot).count();
    // One whom nothing moves but a pin.
    let first = *homes.iter().find(|(_, slot)| [0, 3].contains(*slot)).expect("a client").0;
    let other = (homes[&first] + 1) % 4;
    let start = Instant::now();
    let (times, visits) = under_load(to(), askers(way, 1..=KNOWN), |visits| {
        let (drained, text) = after(visits, &["drain", "1", "--idle", "0"]);
        assert!(text.contains(&format!("its {} known ones stay for good", of(1))), "{text}");
        assert_eq!(newcomers(way, 1), HashSet::from([0, 2, 3]), "a draining slot got new clients");
        let (maintained, text) = after(visits, &["maintenance", "2"]);
        assert!(text.contains("known clients move"), "{text}");
        assert_eq!(newcomers(way, 2), HashSet::from([0, 3]));
        let (ready, _) = after(visits, &["ready", "1", "2"]);
        assert_eq!(newcomers(way, 3), HashSet::from([0, 1, 2, 3]));
        let (pinned, text) = after(visits, &["pin", &first.to_string(), &other.to_string()]);
        assert!(text.contains("of its 1 known clients 1 move there"), "{text}");
        let (unpinned, _) = after(visits, &["unpin", &first.to_string()]);
        [drained, maintained, ready, pinned, unpinned]
    });
    let [_, maintained, _, pinned, unpinned] = times;
    let then = slots_between(&visits, maintained[1], None, &first);
    let (mut left, mut stayed) = (0, 0);
    for (client, home) in &homes {
        if *client == first {
            continue;
        }
        // Nobody moves for a drain, everybody for maintenance, and nobody back.
        let before = slots_between(&visits, start, Some(maintained[0]), client);
        assert_eq!(before, HashSet::from([*home]), "{client}");
        let since = slots_between(&visits, maintained[1], None, client);
        assert_eq!(since.len(), 1, "{client} was at {since:?}");
        let moved = !since.contains(home);
        assert_eq!(moved, *home == 2, "{client} of slot {home} is at {since:?}");
        left += usize::from(moved);
        stayed += usize::from(!moved);
    }
    assert!(left > 4 && stayed > 20, "{left} moved, {stayed} stayed");
    assert!(then.contains(&other), "{first} was at {then:?}");
    assert_eq!(slots_between(&visits, pinned[1], Some(unpinned[0]), &first), HashSet::from([other]));
    let moved = &pool("3000")["memory"]["moved"];
    assert_eq!(moved["maintenance"].as_u64().expect("a number"), of(2) as u64, "{moved}");
    assert_eq!((moved["gone"].as_u64(), moved["drained"].as_u64()), (Some(0), Some(0)));
}

/// The slots that served a client in visits from then to then; the workers did not change.
#[track_caller]
fn slots_between(visits: &[Visit], from: Instant, to: Option<Instant>, client: &IpAddr) -> HashSet<usize> {
    let pids = pids(&pool("3000"));
    let wanted = visits.iter().filter(|visit| {
        visit.client == *client && visit.began >= from && to.is_none_or(|to| visit.ended < to)
    });
    wanted
        .map(|visit| {
            let pid = visit.pid().unwrap_or_else(|error| panic!("{client}: {error}"));
            pids.iter().position(|there| *there == Some(pid)).expect("a worker's PID")
        })
        .collect()
}

#[test]
fn change_under_load_of_clients_themselves() {
    changes(by_itself, &[]);
}

#[test]
fn change_under_load_through_the_gate() {
    changes(through_the_gate, &["--trust", "127.0.0.1/32"]);
}

#[test]
fn change_under_load_through_the_redirect() {
    changes(through_the_redirect, &["--trust", "127.0.0.1/32"]);
}

#[test]
fn a_drain_waits_for_clients_to_be_gone() {
    let _net = net::isolate();
    let _sticky = run(&[]);
    let homes = slots(&load(to(), askers(by_itself, 1..=KNOWN), |round| round < 1));
    let dry = sticky_ok(&["drain", "1", "--idle", "3s", "--dry-run"]);
    assert!(dry.contains("until they have had no connection for 3s (not done: --dry-run)"), "{dry}");
    let dry = sticky_ok(&["drain", "1", "--idle", "1s", "--dry-run"]);
    assert!(dry.contains("until they have had no connection for 3s (not done"), "{dry}");
    assert_eq!(pool("3000")["slots"][1]["mode"], "ready");
    let mut waiting = start_sticky(&["drain", "1", "--idle", "2s", "--deadline", "8s", "--wait"]);
    let begin = Instant::now();
    waiting.wait_for("clients stay, for ");
    let left = pool("3000")["slots"][1]["left"].as_u64().expect("a countdown");
    assert!(left <= 9, "{left}");
    let loyal: Vec<_> = homes.iter().filter(|(_, slot)| **slot == 1).map(|(client, _)| *client).collect();
    // One of them comes all the time: only the deadline moves it.
    let comes = || slots(&load(to(), vec![by_itself(loyal[0])], |round| round < 1))[&loyal[0]];
    eventually("the deadline's end", || (comes() != 1).then_some(()));
    assert!(begin.elapsed() >= Duration::from_secs(7), "it moved after {:?}", begin.elapsed());
    assert_eq!(waiting.wait().code(), Some(0));
    waiting.wait_for("no client stays any more");
    let visits = load(to(), loyal.iter().map(|client| by_itself(*client)).collect(), |round| round < 2);
    assert!(slots(&visits).values().all(|slot| *slot != 1));
    assert_eq!(pool("3000")["memory"]["moved"]["drained"].as_u64(), Some(loyal.len() as u64));
    let status = sticky_ok(&["status", "3000"]);
    assert!(status.contains("1     2       draining"), "{status}");
}

#[test]
fn another_process_ends_a_drain_but_no_maintenance() {
    let _net = net::isolate();
    let _sticky = run(&[]);
    sticky_ok(&["drain", "1"]);
    sticky_ok(&["maintenance", "2"]);
    let old = pids(&pool("3000"));
    for slot in [1, 2] {
        crate::crash::kill(old[slot].expect("a PID"));
    }
    eventually("new workers", || {
        let new = pids(&pool("3000"));
        [1, 2].iter().all(|slot| new[*slot].is_some() && new[*slot] != old[*slot]).then_some(())
    });
    let mode = |slot: usize| pool("3000")["slots"][slot]["mode"].clone();
    eventually("the drain's end", || (mode(1) == "ready").then_some(()));
    assert_eq!(mode(2), "maintenance");
    assert!(!newcomers(by_itself, 1).contains(&2));
}

#[test]
fn slots_are_meant_by_process_too_and_shares_by_weight() {
    let _net = net::isolate();
    let _sticky = run(&[]);
    let pid = pids(&pool("3000"))[3].expect("a PID");
    sticky_ok(&["weight", "0", &format!("pid:{pid}")]);
    sticky_ok(&["weight", "30", "1"]);
    assert_eq!(newcomers(by_itself, 1), HashSet::from([0, 1, 2]));
    let shares: Vec<u64> = pool("3000")["slots"]
        .as_array()
        .expect("slots")
        .iter()
        .map(|slot| slot["share"].as_u64().expect("a share"))
        .collect();
    assert_eq!(shares, [100, 30, 100, 0]);
    sticky_ok(&["ready", "1", "--slow-start", "1h"]);
    let share = &pool("3000")["slots"][1]["share"];
    assert!(share.as_u64() <= Some(1), "{share}");
}

#[test]
fn pins_end_and_are_listed() {
    let _net = net::isolate();
    let _sticky = run(&[]);
    let homes = slots(&load(to(), askers(by_itself, 1..=1), |round| round < 1));
    let (client, home) = (loopback(1), homes[&loopback(1)]);
    let other = ((home + 1) % 4).to_string();
    let where_it_is = || slots(&load(to(), askers(by_itself, 1..=1), |round| round < 1))[&client];
    let dry = sticky_ok(&["pin", "127.1.0.0/24", &other, "--for", "3s", "--dry-run"]);
    assert!(dry.contains("of its 1 known clients 1 move there (not done: --dry-run)"), "{dry}");
    assert_eq!(where_it_is(), home);
    sticky_ok(&["pin", "127.1.0.0/24", &other, "--for", "3s"]);
    assert_eq!(where_it_is().to_string(), other);
    let pins: Value = serde_json::from_str(&sticky_ok(&["pins", "--json"])).expect("JSON");
    assert_eq!(
        (&pins[0]["prefix"], pins[0]["left"].as_u64() <= Some(4)),
        (&"127.1.0.0/24".into(), true),
        "{pins}"
    );
    let explained: Value =
        serde_json::from_str(&sticky_ok(&["explain", "127.1.0.1", "3000", "--json"])).expect("JSON");
    assert_eq!(explained[0]["outcome"], "pinned", "{explained}");
    assert!(outcome(&pool("3000"), "pinned") > 0);
    eventually("the pin's end", || (where_it_is() == home).then_some(()));
    assert!(sticky_ok(&["pins"]).contains("nothing is pinned"));
}

#[test]
fn a_part_of_a_client_is_pinned_as_a_whole() {
    let _net = net::isolate();
    let _sticky = run(&[]);
    let slot = |address: &str| {
        let told: Value =
            serde_json::from_str(&sticky_ok(&["explain", address, "3000", "--json"])).expect("JSON");
        (told[0]["outcome"].clone(), told[0]["slot"].as_u64().expect("a slot"))
    };
    sticky_ok(&["pin", "::ffff:203.0.113.7", "1"]);
    assert_eq!(slot("203.0.113.7"), ("pinned".into(), 1));
    assert_ne!(slot("203.0.113.8").0, "pinned");
    sticky_ok(&["unpin", "203.0.113.7"]);
    let refused = run_sticky(&["pin", "::1", "1"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("covers all of IPv4 too"), "{refused:?}");
    for (address, neighbour) in [("2001:db8::1", "2001:db8::2"), ("2001:db8:0:1::/96", "2001:db8:0:1:8000::")]
    {
        let other = (slot(neighbour).1 + 1) % 4;
        let text = sticky_ok(&["pin", address, &other.to_string()]);
        assert!(text.contains("/64 is one client, of which"), "{text}");
        assert_eq!(slot(neighbour), ("pinned".into(), other));
        sticky_ok(&["unpin", address]);
        assert_ne!(slot(neighbour).0, "pinned");
    }
}

#[test]
fn what_is_not_there_is_named() {
    let _net = net::isolate();
    let refused = |arguments: &[&str], what: &str| {
        let output = run_sticky(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(what), "{arguments:?}: {error}");
    };
    refused(&["drain", "0"], "there is no pool in this network namespace");
    let _sticky = run(&["--remember", "0"]);
    for command in ["drain", "maintenance", "ready"] {
        refused(&[command, "4"], "has no slot 4; it has 4, from 0 to 3");
        refused(&[command, "256"], "slots are numbered from 0 to 255");
        refused(&[command, "one"], "expected a slot's number, or a process");
        refused(&[command, "pid:1"], "no slot's socket is held by that process");
        refused(&[command, "0", "--at", "4000"], "port 4000 is steered by nobody here");
    }
    refused(&["pin", "10.0.0.0/8", "4"], "has no slot 4");
    refused(&["pin", "::/0", "0"], "covers all of IPv4 too");
    refused(&["pin", "10.0.0.0/33", "0"], "expected a prefix");
    refused(&["unpin", "10.0.0.0/8"], "10.0.0.0/8 is not pinned");
    let text = sticky_ok(&["drain", "0"]);
    assert!(text.contains("as the pool remembers nobody, all are new"), "{text}");
    let text = sticky_ok(&["maintenance", "0", "1", "2", "3"]);
    assert!(text.contains("no live slot takes new clients"), "{text}");
    assert!(!newcomers(by_itself, 1).is_empty(), "nobody is refused while a worker lives");
}
