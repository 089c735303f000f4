//! One client, one worker: over every kind of address, by our program's decision and nobody else's.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::harness::app;
use crate::harness::client::{hear, loopback};
use crate::harness::net;
use crate::harness::process::{Process, by_client, outcome, pool, run_sticky, start_sticky, sticky_ok};

const CLIENTS: usize = 64;
const CONNECTIONS: usize = 50;

/// Four unmodified workers on this address and port 3000.
fn run_workers(address: &str, options: &[&str]) -> Process {
    let app = app("name.py");
    let mut arguments = vec!["run", "-w", "4"];
    arguments.extend(options);
    arguments.extend(["--", "python3", &app, address, "3000"]);
    let sticky = start_sticky(&arguments);
    sticky.wait_for("is complete: 4 workers");
    sticky
}

/// Connects from each address so often; the one PID that each met.
fn meet(clients: &[IpAddr], to: &str, times: usize) -> HashMap<IpAddr, u64> {
    let to: SocketAddr = to.parse().expect("an address");
    let mut met = HashMap::new();
    for _ in 0..times {
        for client in clients {
            let pid: u64 = hear(*client, to).expect("an answer").parse().expect("a PID");
            let first = *met.entry(*client).or_insert(pid);
            assert_eq!(pid, first, "{client} met two workers");
        }
    }
    met
}

/// The counters say that the lookup table decided every time, and the workers were the ones `explain` names.
fn check(met: &HashMap<IpAddr, u64>, times: usize) {
    let pool = pool("3000");
    assert_eq!(by_client(&pool), (met.len() * times) as u64, "{pool:#?}");
    for other in ["next", "fallback", "migrated", "refused", "no_address"] {
        assert_eq!(outcome(&pool, other), 0, "{pool:#?}");
    }
    let per_slot: u64 =
        pool["slots"].as_array().expect("slots").iter().filter_map(|slot| slot["connections"].as_u64()).sum();
    assert_eq!(per_slot, (met.len() * times) as u64, "{pool:#?}");
    assert_eq!(met.values().collect::<HashSet<_>>().len(), 4, "not all workers were used");
    for (client, pid) in met {
        let text = sticky_ok(&["explain", &client.to_string(), "3000", "--json"]);
        let explained: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let here = explained.as_array().expect("a list").iter().any(|one| one["pid"].as_u64() == Some(*pid));
        assert!(here, "{client} met {pid}, but {text}");
    }
}

#[test]
fn ipv4() {
    let _net = net::isolate();
    let _sticky = run_workers("0.0.0.0", &[]);
    let clients: Vec<_> = (1..=CLIENTS).map(loopback).collect();
    check(&meet(&clients, "127.0.0.1:3000", CONNECTIONS), CONNECTIONS);
}

#[test]
fn who_cannot_connect_is_not_explained() {
    let _net = net::isolate();
    let _sticky = run_workers("0.0.0.0", &[]);
    let output = run_sticky(&["explain", "2001:db8::1", "3000"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // A proxy can tell of such a client.
    sticky_ok(&["trust", "add", "10.0.0.0/8", "--at", "3000"]);
    sticky_ok(&["explain", "2001:db8::1", "3000"]);
}

#[test]
fn ipv4_on_a_dual_stack_socket() {
    let _net = net::isolate();
    let _sticky = run_workers("::", &[]);
    let clients: Vec<_> = (1..=CLIENTS).map(loopback).collect();
    check(&meet(&clients, "127.0.0.1:3000", CONNECTIONS), CONNECTIONS);
}

#[test]
fn ipv6() {
    let _net = net::isolate();
    net::ipv6_addresses(CLIENTS);
    let _sticky = run_workers("::", &[]);
    let clients: Vec<IpAddr> =
        (1..=CLIENTS as u16).map(|n| Ipv6Addr::new(0xfd00, 0, 0, n, 0, 0, 0, 1).into()).collect();
    check(&meet(&clients, "[::1]:3000", CONNECTIONS), CONNECTIONS);
}

#[test]
fn addresses_of_one_64_prefix_are_one_client() {
    let _net = net::isolate();
    net::ipv6_addresses(CLIENTS);
    let mut sticky = run_workers("::", &[]);
    let clients: Vec<IpAddr> =
        (1..=CLIENTS as u16).map(|n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n).into()).collect();
    let met = meet(&clients, "[::1]:3000", CONNECTIONS);
    assert_eq!(met.values().collect::<HashSet<_>>().len(), 1, "one /64 met several workers");
    assert_eq!(by_client(&pool("3000")), (CLIENTS * CONNECTIONS) as u64);
    assert_eq!(sticky.terminate(), Some(0));

    let _sticky = run_workers("::", &["--ipv6-prefix", "128"]);
    let met = meet(&clients, "[::1]:3000", 1);
    assert_eq!(met.values().collect::<HashSet<_>>().len(), 4, "with /128 each address is a client");
}

#[test]
fn an_ipv4_prefix_masks_too() {
    let _net = net::isolate();
    let _sticky = run_workers("0.0.0.0", &["--ipv4-prefix", "24"]);
    let clients: Vec<_> = (1..=CLIENTS).map(loopback).collect();
    let met = meet(&clients, "127.0.0.1:3000", 2);
    assert_eq!(met.values().collect::<HashSet<_>>().len(), 1, "one /24 met several workers");
}

#[test]
fn over_veth() {
    let _net = net::isolate();
    let _sticky = run_workers("0.0.0.0", &[]);
    let clients: Vec<IpAddr> = (1..=CLIENTS).map(|n| [10, 9, 1, n as u8].into()).collect();
    let met = net::across_veth(CLIENTS, || meet(&clients, "10.9.0.1:3000", CONNECTIONS));
    check(&met, CONNECTIONS);
}

#[test]
fn the_same_seed_places_clients_alike() {
    let seed = "000102030405060708090a0b0c0d0e0f";
    let slots = || {
        let _net = net::isolate();
        let _sticky = run_workers("0.0.0.0", &["--seed", seed]);
        let clients: Vec<_> = (1..=8).map(loopback).collect();
        meet(&clients, "127.0.0.1:3000", 1);
        let pool = pool("3000");
        let slots = pool["slots"].as_array().expect("slots");
        slots.iter().map(|slot| slot["connections"].as_u64()).collect::<Vec<_>>()
    };
    assert_eq!(slots(), slots());
}

#[test]
fn decisions_can_be_traced() {
    let _net = net::isolate();
    let sticky = run_workers("0.0.0.0", &["--trace"]);
    meet(&[loopback(7)], "127.0.0.1:3000", 1);
    let line = sticky.wait_for("trace: ");
    assert!(line.contains("::ffff:127.1.0.7 gets slot "), "{line}");
}

#[test]
fn nothing_is_traced_unasked() {
    let _net = net::isolate();
    let mut sticky = run_workers("0.0.0.0", &[]);
    meet(&[loopback(7)], "127.0.0.1:3000", 1);
    assert_eq!(sticky.terminate(), Some(0));
    assert!(!sticky.lines().iter().any(|line| line.contains("trace")), "{:#?}", sticky.lines());
}
