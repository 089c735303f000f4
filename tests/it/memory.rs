//! The affinity table: who is known stays, whatever dies, comes and is upgraded; and what is told of it.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use rustix::process::Signal;
use serde_json::Value;
use sticky_ebpf::abi::{Config, maps};

use crate::faults::{to, worker};
use crate::harness::client::loopback;
use crate::harness::load::{Asker, Visit, load};
use crate::harness::process::{Process, outcome, pids, pool, run_sticky, start_sticky, sticky, sticky_ok};
use crate::harness::{eventually, net};

const CLIENTS: usize = 64;

/// The PID that each client meets, over a connection of its own.
#[track_caller]
fn meet(clients: std::ops::RangeInclusive<usize>) -> HashMap<IpAddr, u64> {
    let visits = load(to(), clients.map(|n| Asker::each(loopback(n))).collect(), |round| round < 1);
    visits.iter().map(|visit| (visit.client, visit.pid().expect("an answer"))).collect()
}

fn workers(count: usize) -> Vec<Process> {
    (0..count).map(|_| worker()).collect()
}

fn attach(options: &[&str], how: &str) -> Process {
    let sticky = start_sticky(&[&["attach", "3000"], options].concat());
    sticky.wait_for(how);
    sticky
}

/// The directory of the test's pool.
fn pins() -> PathBuf {
    let namespace = sticky::kernel::network_namespace().expect("a network namespace");
    sticky::kernel::pools_dir().join(format!("tcp-::-3000-net{namespace}"))
}

fn explained(client: IpAddr) -> Value {
    let text = sticky_ok(&["explain", &client.to_string(), "3000", "--json"]);
    serde_json::from_str::<Value>(&text).expect("JSON")[0].clone()
}

/// Waits until all these clients are told to have moved, maybe in several lines: whoever tells looks now and then.
#[track_caller]
fn told_to_have_moved(teller: &Process, clients: u64, slot: usize) {
    let end = format!("moved away from slot {slot}: its worker is gone");
    eventually("all moves are told", || {
        let lines = teller.lines();
        let moves = lines.iter().filter(|line| line.ends_with(&end)).map(|line| {
            let number = line.split(' ').find_map(|word| word.parse::<u64>().ok());
            number.unwrap_or_else(|| panic!("no number in {line:?}"))
        });
        (moves.sum::<u64>() == clients).then_some(())
    });
}

#[test]
fn a_killed_workers_clients_move_once_and_stay() {
    let _net = net::isolate();
    let mut there = workers(4);
    let sticky = attach(&[], "is steered: 4 workers");
    let homes = meet(1..=CLIENTS);
    let mut victim = there.remove(2);
    let slot = pids(&pool("3000")).iter().position(|pid| *pid == Some(victim.pid().into())).expect("a slot");
    victim.signal(Signal::KILL);
    victim.wait();
    sticky.wait_for(&format!("slot {slot} is empty"));
    let then = meet(1..=CLIENTS);
    let lost = homes.values().filter(|pid| **pid == u64::from(victim.pid())).count() as u64;
    for (client, home) in &homes {
        assert_eq!(then[client] == *home, *home != u64::from(victim.pid()), "{client}");
    }
    assert!(lost > 4);
    assert_eq!(pool("3000")["memory"]["moved"]["gone"], lost);
    told_to_have_moved(&sticky, lost, slot);

    there.push(worker());
    sticky.wait_for_nth(&format!("slot {slot} has"), 0);
    assert_eq!(meet(1..=CLIENTS), then, "who moved once moved again");
    let client = *homes.iter().find(|(_, pid)| **pid == u64::from(victim.pid())).expect("a client").0;
    let told = explained(client);
    assert_eq!((&told["outcome"], &told["pid"]), (&"known".into(), &then[&client].into()), "{told}");
    assert_eq!(told["known"]["slot"], told["slot"], "{told}");
    assert_ne!(told["owner"], told["slot"], "{told}");
}

#[test]
fn nothing_is_forgotten_when_sticky_dies() {
    let _net = net::isolate();
    let mut there = workers(3);
    let mut first = attach(&[], "is steered: 3 workers");
    let homes = meet(1..=CLIENTS);
    first.signal(Signal::KILL);
    first.wait();
    assert_eq!(meet(1..=CLIENTS), homes, "the kernel alone knows them");
    there.extend(workers(3));
    let mut second = attach(&[], "is adopted: 6 workers");
    assert_eq!(meet(1..=CLIENTS), homes);
    assert!(meet(101..=200).values().any(|pid| !homes.values().any(|home| home == pid)));
    assert_eq!(second.terminate(), Some(0));
    let _third = attach(&["--remember-clients", "1000"], "is adopted: 6 workers");
    assert_eq!(pool("3000")["memory"]["room"], 1000);
    assert_eq!(meet(1..=CLIENTS), homes, "a smaller table has them still");
}

#[test]
fn sessions_move_to_another_pool() {
    let _net = net::isolate();
    let there = workers(4);
    let sticky = attach(&[], "is steered: 4 workers");
    meet(1..=CLIENTS);
    let export = sticky_ok(&["sessions", "export"]);
    assert_eq!(export.lines().count(), 1 + CLIENTS);
    drop((sticky, there));
    sticky_ok(&["detach", "3000"]);

    let _there = workers(4);
    let _sticky = attach(&["--seed", "000102030405060708090a0b0c0d0e0f"], "is steered: 4 workers");
    let import = |text: &str| {
        let mut command = crate::harness::process::sticky();
        command.args(["sessions", "import", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sticky");
        // It may refuse before it has read all.
        let _ = child.stdin.take().expect("piped").write_all(text.as_bytes());
        let output = child.wait_with_output().expect("an end");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let header = export.lines().next().expect("a line");
    let broken = [
        (String::new(), "line 1 is not what"),
        ("\u{0}\u{1}garbage".into(), "line 1 is not what"),
        (export.replacen("127.1.0.1", "127.1.0.x", 1), "is not what `sticky sessions export` writes"),
        (export.lines().take(9).collect::<Vec<_>>().join("\n"), "64 clients are announced, 8 follow"),
        (export.replace("\"slot\":1,", "\"slot\":9,"), "there is no slot 9 at"),
        (export.replace("\"slot\":1,", "\"slot\":999999,"), "is not what"),
        (export.replace("\"gone\":", "\"going\":"), "is not what"),
        (export.replacen("\"ipv4_prefix\":32", "\"ipv4_prefix\":24", 1), "clients are /24 and /64 there"),
        (export.replacen("\"sticky_sessions\":1", "\"sticky_sessions\":7", 1), "its form is 7"),
        (format!("{header}\n{header}"), "line 2 is not what"),
    ];
    for (text, what) in broken {
        let (code, said) = import(&text);
        assert_eq!(code, Some(2), "{what}: {said}");
        assert!(said.contains(what) && said.contains("hint: "), "{what}: {said}");
    }
    assert_eq!(pool("3000")["memory"]["known"], 0, "half a file was imported");
    let (code, said) = import(&export);
    assert_eq!((code, said.contains("64 clients are known now")), (Some(0), true), "{said}");
    let slots: HashMap<IpAddr, usize> = export
        .lines()
        .skip(1)
        .map(|line| {
            let session: Value = serde_json::from_str(line).expect("JSON");
            let client =
                session["client"].as_str().and_then(|client| client.parse().ok()).expect("an address");
            (client, session["slot"].as_u64().expect("a slot") as usize)
        })
        .collect();
    let new = pids(&pool("3000"));
    for (client, pid) in meet(1..=CLIENTS) {
        assert_eq!(new[slots[&client]], Some(pid), "{client}");
    }
    // What is older than what is known here changes nothing.
    let older: Vec<_> = export
        .lines()
        .map(|line| {
            line.split_once("\"gone\":").map_or(line.into(), |(who, _)| format!("{who}\"gone\":600}}"))
        })
        .collect();
    let (code, said) = import(&older.join("\n"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("0 clients are known now; 64 came here later"), "{said}");
}

#[test]
fn a_full_table_forgets_those_that_came_first_and_steers_on() {
    let _net = net::isolate();
    let _workers = workers(2);
    let _sticky = attach(&["--remember-clients", "1000"], "is steered: 2 workers");
    let all = meet(1..=5000);
    assert_eq!(all.len(), 5000);
    let pool = pool("3000");
    let known = pool["memory"]["known"].as_u64().expect("a number");
    assert!((100..=1000).contains(&known), "{known} of 1000 are known");
    assert_eq!(outcome(&pool, "unremembered") + outcome(&pool, "refused"), 0, "{pool:#?}");
    assert_eq!(meet(1..=5000), all, "the hash has the others");
}

#[test]
fn nobody_is_remembered_where_that_is_not_wanted() {
    let _net = net::isolate();
    let mut there = workers(3);
    let sticky = attach(&["--remember", "0"], "is steered: 3 workers");
    let homes = meet(1..=CLIENTS);
    assert_eq!(
        (&pool("3000")["memory"]["known"], &pool("3000")["memory"]["remember"]),
        (&0.into(), &0.into())
    );
    there.push(worker());
    sticky.wait_for("slot 3 has");
    let moved = meet(1..=CLIENTS).iter().filter(|(client, pid)| homes[*client] != **pid).count();
    assert!(moved > 0, "the new worker has a share of the hash");
    let output = run_sticky(&["attach", "3000", "--once", "--place", "least", "--remember", "0"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_clock_that_is_ahead_forgets_nobody() {
    let _net = net::isolate();
    let _workers = workers(2);
    // In a time namespace, as containers may have one, its monotonic clock is not the kernel's.
    let ahead = ["unshare", "--time", "--monotonic", "100000", "--fork", "--kill-child"];
    let elsewhere = |arguments: &[&str]| {
        let mut command = Command::new(ahead[0]);
        command.args(&ahead[1..]).arg(sticky().get_program()).args(arguments);
        command
    };
    let sticky = Process::start(&mut elsewhere(&["attach", "3000", "--trust", "127.0.0.1/32"]));
    sticky.wait_for("is steered: 2 workers");
    let homes = meet(1..=8);
    let export = elsewhere(&["sessions", "export"]).output().expect("unshare (util-linux)");
    let export = String::from_utf8(export.stdout).expect("UTF-8");
    assert_eq!(export.lines().count(), 9, "{export}");
    for line in export.lines().skip(1) {
        let session: Value = serde_json::from_str(line).expect("JSON");
        assert!(session["gone"].as_u64() < Some(60), "{line}");
    }
    // What its redirect writes is in the kernel's time, too.
    let behind = |n| Asker::behind([127, 0, 0, 1].into(), loopback(n));
    let proxied = load(to(), (1..=16).map(behind).collect(), |round| round < 2);
    let stayed = |visit: &Visit| homes.get(&visit.client).is_none_or(|home| visit.pid() == Ok(*home));
    assert!(proxied.iter().all(stayed));
    let namespace = sticky::kernel::network_namespace().expect("a network namespace");
    let (_, _, pins) = sticky::pool::read(|id| id.namespace == namespace).expect("what is pinned").remove(0);
    let (clients, now) = (pins.clients().expect("the affinity table"), sticky::clock::now());
    assert_eq!(clients.len(), 16);
    assert!(clients.iter().all(|(_, known)| known.seen <= now), "{clients:?} at {now:?}");
}

/// Puts maps of version 3 in the place of ours, with what those had.
#[test]
fn state_of_version_3_is_taken_over() {
    let _net = net::isolate();
    let mut there = workers(4);
    let sticky = attach(&["--trust", "10.0.0.0/8", "--ipv4-prefix", "24"], "is steered: 4 workers");
    meet(1..=CLIENTS);
    drop(sticky);
    let open = |name: &str| MapData::from_pin(pins().join(name)).expect("a map");
    let config: Array<_, [u8; size_of::<Config>()]> =
        Map::Array(open(maps::CONFIG)).try_into().expect("an array");
    let config = config.get(&0, 0).expect("the configuration");
    let before = pool("3000");
    let old = |name: &str, size: u32, entries: u32, kind: u32| {
        fs::remove_file(pins().join(name)).expect("a pin");
        let map = aya_obj::maps::LegacyMap {
            inner_def: None,
            section_index: 0,
            section_kind: aya_obj::EbpfSectionKind::Maps,
            symbol_index: None,
            def: aya_obj::maps::bpf_map_def {
                map_type: kind,
                key_size: 4,
                value_size: size,
                max_entries: entries,
                ..Default::default()
            },
            data: Vec::new(),
        };
        let map = MapData::create(aya_obj::Map::Legacy(map), name, None).expect("a map");
        map.pin(pins().join(name)).expect("a pin");
        map
    };
    const ARRAY: u32 = 2;
    const PER_CPU_ARRAY: u32 = 6;
    let mut words =
        Array::<_, [u8; 120]>::try_from(Map::Array(old(maps::CONFIG, 120, 1, ARRAY))).expect("an array");
    words.set(0, *config.first_chunk().expect("so many bytes"), 0).expect("written");
    let counters = old(maps::COUNTERS, 8, 288, PER_CPU_ARRAY);
    drop(PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(counters)).expect("an array"));
    old(maps::REDIRECTED, 8, 10, ARRAY);
    for new in [maps::KNOWN, maps::PINS, maps::STANDINGS, maps::OPEN, maps::REPAIRED] {
        fs::remove_file(pins().join(new)).expect("a pin");
    }
    let mut version: Array<_, u32> = Map::Array(open(maps::VERSION)).try_into().expect("an array");
    version.set(0, 3, 0).expect("written");
    assert_eq!(run_sticky(&["status"]).status.code(), Some(2), "another version is not read");

    let sticky = attach(&[], "is adopted: 4 workers");
    sticky.wait_for("the pool's state is brought from version 3 to 4");
    let after = pool("3000");
    for same in ["ipv4_prefix", "ipv6_prefix", "trusted"] {
        assert_eq!(after[same], before[same]);
    }
    assert_eq!(after["memory"]["remember"], 3600);
    let homes = meet(1..=CLIENTS);
    there.push(worker());
    sticky.wait_for("slot 4 has");
    assert_eq!(meet(1..=CLIENTS), homes);
    eventually("the redirect", || (pool("3000")["redirect"]["listening"] == true).then_some(()));
}

#[test]
fn events_tell_what_happens() {
    let _net = net::isolate();
    let mut there = workers(2);
    let _sticky = attach(&[], "is steered: 2 workers");
    let homes = meet(1..=CLIENTS);
    let (text, json) = (start_sticky(&["events"]), start_sticky(&["events", "3000", "--json"]));
    let slot =
        pids(&pool("3000")).iter().position(|pid| *pid == Some(there[0].pid().into())).expect("a slot");
    let lost = homes.values().filter(|pid| **pid == u64::from(there[0].pid())).count() as u64;
    // It tells what happens from its first look on, of which it says nothing: something small is done until it is told.
    eventually("both look", || {
        sticky_ok(&["drain", "1"]);
        sticky_ok(&["ready", "1"]);
        let told = |events: &Process| !events.lines().is_empty();
        (told(&text) && told(&json)).then_some(())
    });
    let mut victim = there.remove(0);
    victim.signal(Signal::KILL);
    victim.wait();
    text.wait_for(&format!("[::]:3000: slot {slot} has no worker any more"));
    meet(1..=CLIENTS);
    told_to_have_moved(&text, lost, slot);
    let moved = json.wait_for(r#""event":"moved""#);
    let start = format!(r#"{{"pool":"[::]:3000","slot":{slot},"event":"moved","clients":"#);
    assert!(moved.starts_with(&start) && moved.ends_with(r#","cause":"gone","pid":null}"#), "{moved}");
    let new = worker();
    text.wait_for(&format!("slot {slot} has a worker: `python3` (process {}", new.pid()));
    json.wait_for(&format!(r#""event":"up","pid":{}"#, new.pid()));
    sticky_ok(&["drain", &slot.to_string()]);
    text.wait_for(&format!("slot {slot} drains"));
    text.wait_for(&format!("slot {slot} is drained: no known client would stay"));
}
