//! What clients whose connections the kernel decides notice when workers or sticky itself come and go.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Stage, ask, failed_cookies, netstat};
use crate::faults::{CLIENTS, at_home, clients, more, to, worker};
use crate::harness::client::loopback;
use crate::harness::http::Wire;
use crate::harness::load::{Asker, Stop, all_at_home, load, under_load};
use crate::harness::process::{Process, outcome, pids, pool, start_sticky};
use crate::harness::scene::{POOL, PROXY};
use crate::harness::{app, eventually, net};

fn askers() -> Vec<Asker> {
    clients().into_iter().map(|client| Asker::each_behind(PROXY.into(), client)).collect()
}

fn send(pid: u64, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a PID")).expect("a PID");
    kill_process(pid, signal).expect("the worker is there");
}

fn attach(how: &str, options: &[&str]) -> Process {
    let sticky = start_sticky(&[&["attach", "3000", "--trust", "127.0.0.1/32"], options].concat());
    sticky.wait_for(how);
    gate_is_open();
    sticky
}

#[track_caller]
fn gate_is_open() {
    eventually("the gate is open", || (pool("3000")["gate"]["open"] == true).then_some(()));
}

#[test]
fn killed_workers_cost_only_what_they_had_accepted() {
    const KILLS: usize = 6;
    const VICTIMS: [usize; 2] = [0, 2];
    let _net = net::isolate();
    let app = app("echo.js");
    let sticky = start_sticky(&["run", "-w", "4", "--trust", "127.0.0.1/32", "--", "node", &app, "3000"]);
    sticky.wait_for("is complete: 4 workers");
    let (homes, first) = (at_home(), pids(&pool("3000")));
    let ((), visits) = under_load(to(), askers(), |visits| {
        for kills in 0..KILLS {
            more(visits, 500);
            let slot = VICTIMS[kills % VICTIMS.len()];
            let victim = pids(&pool("3000"))[slot].expect("a live worker");
            send(victim, Signal::KILL);
            eventually("the slot's new worker", || pids(&pool("3000"))[slot].filter(|pid| *pid != victim));
        }
        more(visits, 500);
    });
    let victims: HashSet<_> = VICTIMS.map(|slot| first[slot].expect("a PID")).into();
    let (mut lost, mut moved) = (0, 0);
    for visit in &visits {
        let home = homes[&visit.client];
        match visit.pid() {
            Ok(pid) if victims.contains(&home) => moved += usize::from(pid != home),
            Ok(pid) => assert_eq!(pid, home, "{}, whose worker nobody killed, moved", visit.client),
            Err(error) => {
                assert!(victims.contains(&home), "{}, whose worker nobody killed: {error}", visit.client);
                lost += 1;
            }
        }
    }
    // A client has one request at a time, and may lose that to each kill.
    assert!(lost <= KILLS * CLIENTS / 2, "{lost} of {} requests were lost", visits.len());
    assert!(moved > 0, "nobody was served by another worker: were they killed under load?");
    all_at_home(&load(to(), askers(), |round| round < 2), &at_home());
    assert!(outcome(&pool("3000"), "gated") * 100 >= visits.len() as u64 * 95, "{:#?}", pool("3000"));
}

#[test]
fn workers_that_come_and_go_in_order_cost_nothing() {
    let _net = net::isolate();
    let mut workers: Vec<_> = (0..4).map(|_| worker()).collect();
    let sticky = attach("is steered: 4 workers", &[]);
    let homes = at_home();
    let ((), visits) = under_load(to(), askers(), |visits| {
        more(visits, 500);
        workers.extend([worker(), worker()]);
        sticky.wait_for("slot 5 has");
        more(visits, 1000);
    });
    all_at_home(&visits, &homes);
    let new = (CLIENTS + 1..=3 * CLIENTS).map(|n| Asker::each_behind(PROXY.into(), loopback(n))).collect();
    let visits = load(to(), new, |round| round < 2);
    let pids: HashSet<_> = visits.iter().map(|visit| visit.pid().expect("no request fails")).collect();
    assert_eq!(pids.len(), 6, "the new workers were not used");
}

#[test]
fn sticky_stopped_killed_and_started_costs_nothing() {
    let _net = net::isolate();
    let _workers: Vec<_> = (0..4).map(|_| worker()).collect();
    let mut sticky = attach("is steered: 4 workers", &[]);
    let homes = at_home();
    let ((), visits) = under_load(to(), askers(), |visits| {
        for signal in [Signal::TERM, Signal::KILL, Signal::TERM, Signal::KILL] {
            more(visits, 500);
            sticky.signal(signal);
            sticky.wait();
            more(visits, 500);
            sticky = attach("is adopted: 4 workers", &[]);
        }
        more(visits, 500);
    });
    for visit in &visits {
        let pid = visit.pid().unwrap_or_else(|error| panic!("{}: {error}", visit.client));
        assert!(homes.values().any(|home| *home == pid));
    }
    let pool = pool("3000");
    assert!(outcome(&pool, "gated") > 0 && outcome(&pool, "unredirected") > 0, "{pool:#?}");
    all_at_home(&load(to(), askers(), |round| round < 2), &homes);
}

/// Nothing is under way through a process that is killed: no listener of its own completes a connection while it closes,
/// or leaves one behind in its queue. Of the latter the kernel moves most, and resets some. Each proxy has an address of its
/// own: of ports that recur while they are in TIME_WAIT, connections do wait at the gate.
#[test]
fn a_killed_sticky_takes_no_connection_along() {
    const KILLS: usize = 6;
    let _net = net::isolate();
    let mut stage = Stage::new(&["--trust", "127.0.0.0/8"]);
    let (over, answers, proxies) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let stop = Stop(&over);
        for n in 0..4 {
            let (over, answers, proxies) = (&over, &answers, &proxies);
            scope.spawn(move || {
                let request = format!("GET / HTTP/1.0\r\nX-Forwarded-For: 203.0.113.{n}\r\n\r\n");
                while !over.load(Ordering::Relaxed) {
                    let proxy = proxies.fetch_add(1, Ordering::Relaxed) as u32;
                    let proxy = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 2, 0, 1)) + proxy);
                    let (status, _) = ask(proxy.into(), to(), &[request.as_bytes()]).expect("an answer");
                    assert_eq!(status, 200);
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let more = || {
            let now = answers.load(Ordering::Relaxed);
            eventually("more", || (answers.load(Ordering::Relaxed) >= now + 500).then_some(()));
        };
        for _ in 0..KILLS {
            more();
            let before = stage.outcomes()["redirected"];
            stage.sticky.signal(Signal::KILL);
            stage.sticky.wait();
            assert_eq!(stage.outcomes()["redirected"], before, "the redirect got some while it closed");
            more();
            stage.sticky = attach("is adopted: 4 workers", &["--trust", "127.0.0.0/8"]);
        }
        drop(stop);
    });
    assert_eq!((netstat("TCPMigrateReqSuccess"), netstat("TCPMigrateReqFailure")), (0, 0));
    assert_eq!(failed_cookies(), 0);
}

/// Connections that wait in the queue of a worker that is killed go to the worker that their client has then: the
/// redirect reads their requests once more.
#[test]
fn waiting_connections_of_a_killed_worker_move_with_their_client() {
    let pool = killed_with_waiting_connections(&[]);
    assert!(outcome(&pool, "migrated") == 0 && outcome(&pool, "redirected") > 0, "{pool:#?}");
}

/// Where the kernel remembers clients, it moves the connections itself.
#[test]
fn waiting_connections_of_clients_that_are_remembered_move_at_once() {
    let pool = killed_with_waiting_connections(&["--real-client-address"]);
    assert!(outcome(&pool, "migrated") > 0 && outcome(&pool, "redirected") == 0, "{pool:#?}");
}

#[track_caller]
fn killed_with_waiting_connections(options: &[&str]) -> Value {
    let _net = net::isolate();
    let mut workers: HashMap<u64, Process> =
        (0..4).map(|_| worker()).map(|worker| (u64::from(worker.pid()), worker)).collect();
    let sticky = attach("is steered: 4 workers", options);
    let homes = at_home();
    let victim = homes[&loopback(1)];
    send(victim, Signal::STOP);
    // Stopped inside accept, it may still take the first connection; that one is its own.
    let mut accepted = Wire::dial(PROXY, POOL);
    accepted.say(format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {}\r\nConnection: close\r\n\r\n",
        loopback(1)
    ));
    let stopped: Vec<IpAddr> = clients().into_iter().filter(|client| homes[client] == victim).collect();
    let askers = stopped.iter().map(|client| Asker::each_behind(PROXY.into(), *client)).collect();
    let visits = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| load(to(), askers, |round| round < 1));
        eventually("all wait in its queue", || {
            let slots = pool("3000")["slots"].as_array().expect("slots").clone();
            let slot = slots.into_iter().find(|slot| slot["pids"][0] == victim)?;
            (slot["waiting"].as_u64() >= Some(stopped.len() as u64)).then_some(())
        });
        let mut process = workers.remove(&victim).expect("the worker");
        process.signal(Signal::KILL);
        process.wait();
        waiting.join().expect("all are answered")
    });
    sticky.wait_for("3 workers left");
    all_at_home(&visits, &at_home());
    let pool = pool("3000");
    assert!(outcome(&pool, "migrated") + outcome(&pool, "redirected") >= stopped.len() as u64, "{pool:#?}");
    pool
}
