//! Workers that are killed: who moves, who fails, and what becomes of connections that wait.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::affinity::Homes;
use crate::harness::client::{dial, hear, loopback};
use crate::harness::process::{outcome, pids, pool, start_sticky};
use crate::harness::{app, eventually, net};

const WORKERS: usize = 4;
const KILLS: usize = 10;
/// Connections a second, over all threads.
const RATE: u32 = 500;
const THREADS: usize = 4;
const CLIENTS: usize = 64;

fn to() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 3000))
}

pub(crate) fn kill(pid: u64) {
    send(pid, Signal::KILL);
}

fn send(pid: u64, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a PID")).expect("a PID");
    kill_process(pid, signal).expect("the worker is there");
}

/// What became of one connection.
struct Visit {
    client: IpAddr,
    /// The PID that answered, or what went wrong.
    answer: Result<u64, String>,
}

/// Ends the load when it goes, also when the test fails: the load's threads are waited for.
struct Loading<'a>(&'a AtomicBool);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connects at `RATE` from all clients in turn until told to stop.
fn load(stop: &AtomicBool, visits: &Mutex<Vec<Visit>>) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let pace = Duration::from_secs(1) * THREADS as u32 / RATE;
                let mut next = Instant::now();
                let mut clients = (1..=CLIENTS)
                    .filter(|n| n % THREADS == thread)
                    .map(loopback)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .cycle();
                while !stop.load(Ordering::Relaxed) {
                    let client = clients.next().expect("an endless row");
                    let answer = hear(client, to()).map_err(|error| error.to_string());
                    let answer =
                        answer.and_then(|text| text.parse().map_err(|_| format!("cut short: {text:?}")));
                    visits.lock().expect("no thread panics").push(Visit { client, answer });
                    next += pace;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            });
        }
    });
}

#[test]
fn only_clients_of_a_killed_worker_move() {
    let _net = net::isolate();
    let sticky = start_sticky(&["run", "-w", "4", "--", "python3", &app("name.py"), "0.0.0.0", "3000"]);
    sticky.wait_for("is complete");
    let slot_of: HashMap<u64, usize> =
        pids(&pool("3000")).into_iter().enumerate().map(|(slot, pid)| (pid.expect("live"), slot)).collect();
    let home: HashMap<IpAddr, usize> = (1..=CLIENTS)
        .map(loopback)
        .map(|client| {
            (client, slot_of[&hear(client, to()).expect("an answer").parse::<u64>().expect("a PID")])
        })
        .collect();

    let (stop, visits) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    // Every process that ever had the slot.
    let mut ever: Vec<HashSet<u64>> = vec![HashSet::new(); WORKERS];
    let mut killed = [0; WORKERS];
    let began = Instant::now();
    std::thread::scope(|scope| {
        let loading = Loading(&stop);
        scope.spawn(|| load(&stop, &visits));
        for kills in 0..KILLS {
            let now = pids(&pool("3000"));
            for (slot, pid) in now.iter().enumerate() {
                ever[slot].extend(pid);
            }
            let slot = kills % WORKERS;
            let victim = now[slot].expect("a live worker");
            let so_far = visits.lock().expect("no thread panics").len();
            eventually("load between the kills", || {
                (visits.lock().expect("no thread panics").len() > so_far + 100).then_some(())
            });
            kill(victim);
            killed[slot] += 1;
            eventually("the slot's new worker", || pids(&pool("3000"))[slot].filter(|pid| *pid != victim));
        }
        for (slot, pid) in pids(&pool("3000")).into_iter().enumerate() {
            ever[slot].extend(pid);
        }
        drop(loading);
    });
    let visits = visits.into_inner().expect("no thread panics");
    let rate = visits.len() as f64 / began.elapsed().as_secs_f64();
    assert!(rate > f64::from(RATE) * 0.5, "only {rate:.0} connections a second");

    let mut failed = vec![Vec::new(); WORKERS];
    let mut moved = 0;
    for Visit { client, answer } in &visits {
        let slot = home[client];
        match answer {
            Ok(pid) if ever[slot].contains(pid) => {}
            Ok(pid) if killed[slot] > 0 => {
                assert!(ever.iter().any(|pids| pids.contains(pid)), "{pid} was never a worker");
                moved += 1;
            }
            Ok(pid) => panic!("{client} of slot {slot}, which nobody killed, met {pid}"),
            Err(error) => failed[slot].push(error.clone()),
        }
    }
    // Each worker serves one connection at a time, so one is all that a kill can cut off.
    for slot in 0..WORKERS {
        assert!(
            failed[slot].len() <= killed[slot],
            "slot {slot}, {} kills: {:?}",
            killed[slot],
            failed[slot]
        );
    }
    assert!(moved > 0, "the others served no client of the killed workers: were they killed under load?");
    // Who moved stays where it is.
    let homes = Homes::now();
    for (client, slot) in home {
        let pid = hear(client, to()).expect("an answer").parse().expect("a PID");
        assert_eq!(homes.of(client), pid, "{client}");
        assert!(killed[slot] > 0 || Some(pid) == pids(&pool("3000"))[slot], "{client}");
    }
}

#[test]
fn clients_of_others_never_move() {
    let _net = net::isolate();
    let sticky = start_sticky(&["run", "-w", "4", "--", "python3", &app("name.py"), "0.0.0.0", "3000"]);
    sticky.wait_for("is complete");
    let before = pids(&pool("3000"));
    let victim = before[2].expect("a PID");
    let (stop, visits) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let others: HashMap<IpAddr, u64> = (1..=CLIENTS)
        .map(loopback)
        .map(|client| (client, hear(client, to()).expect("an answer").parse().expect("a PID")))
        .filter(|(_, pid)| *pid != victim)
        .collect();
    std::thread::scope(|scope| {
        let loading = Loading(&stop);
        scope.spawn(|| load(&stop, &visits));
        for _ in 0..3 {
            let victim = pids(&pool("3000"))[2].expect("a PID");
            kill(victim);
            eventually("slot 2's new worker", || pids(&pool("3000"))[2].filter(|pid| *pid != victim));
        }
        drop(loading);
    });
    let mut seen = 0;
    for Visit { client, answer } in visits.into_inner().expect("no thread panics") {
        if let Some(home) = others.get(&client) {
            assert_eq!(answer, Ok(*home), "{client}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} connections are no load");
}

#[test]
fn waiting_connections_of_a_killed_worker_are_answered_by_another() {
    let _net = net::isolate();
    let sticky = start_sticky(&["run", "-w", "4", "--", "python3", &app("name.py"), "0.0.0.0", "3000"]);
    sticky.wait_for("is complete");
    let home = |client| hear(client, to()).expect("an answer").parse::<u64>().expect("a PID");
    let victim = home(loopback(1));
    let clients: Vec<_> = (1..=CLIENTS).map(loopback).filter(|client| home(*client) == victim).collect();
    send(victim, Signal::STOP);
    // Stopped inside accept, it may still take the first connection; that one is its own.
    let accepted = dial(clients[0], to()).expect("a connection");
    let waiting: Vec<_> =
        (0..40).map(|n| dial(clients[n % clients.len()], to()).expect("a connection")).collect();
    let slot = pids(&pool("3000")).iter().position(|pid| *pid == Some(victim)).expect("a slot");
    assert_eq!(outcome(&pool("3000"), "migrated"), 0);
    assert!(pool("3000")["slots"][slot]["waiting"].as_u64() >= Some(40));

    kill(victim);
    for mut connection in waiting {
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("an answer from another worker");
        assert_ne!(answer, victim.to_string());
        assert!(!answer.is_empty());
    }
    assert!(outcome(&pool("3000"), "migrated") >= 40, "{:#?}", pool("3000"));
    drop(accepted);
}
