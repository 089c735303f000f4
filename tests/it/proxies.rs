//! Real proxies in front of unmodified workers: each client on its worker, whatever the proxy makes of connections.

mod caddy;
mod haproxy;
mod nginx;
mod socketio;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::harness::affinity::{Homes, explained};
use crate::harness::app;
use crate::harness::client::loopback;
use crate::harness::load::{Asker, Visit, all_at_home, load};
use crate::harness::process::{Process, outcome, pool, start_sticky};
use crate::harness::proxy::PROXIED;

const CLIENTS: usize = 200;
/// The proxy's own address, in the same network as the clients': no wider prefix may be trusted.
const PROXY: &str = "127.0.0.1/32";

/// Four node servers that trust the proxy.
fn echo(options: &[&str], address: &[&str]) -> Process {
    let app = app("echo.js");
    run(options, &[&["node", app.as_str(), "3000"], address].concat())
}

/// Four workers of this command that trust the proxy.
fn run(options: &[&str], command: &[&str]) -> Process {
    let arguments = [&["run", "-w", "4", "--trust", PROXY], options, &["--"], command].concat();
    let sticky = start_sticky(&arguments);
    sticky.wait_for("is complete: 4 workers");
    sticky
}

/// How many requests a test is to make, where `usual` are enough for every day.
fn requests(usual: usize) -> usize {
    let wanted = std::env::var("STICKY_TEST_REQUESTS").ok();
    wanted.map_or(usual, |number| number.parse().expect("STICKY_TEST_REQUESTS is a number"))
}

/// What the redirect counted.
fn counted(pool: &Value, name: &str) -> u64 {
    pool["redirect"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {pool:#?}"))
}

/// All clients ask through the proxy, so many times in all, and each is always answered by its own worker.
///
/// The clients connect from addresses of their own; who they are the proxy tells, as in reality.
fn check(requests: usize) -> (Vec<Visit>, Value) {
    let clients: Vec<IpAddr> = (1..=CLIENTS).map(loopback).collect();
    let now = Homes::now();
    let homes: HashMap<IpAddr, u64> = clients.iter().map(|client| (*client, now.of(*client))).collect();
    assert_eq!(homes.values().collect::<HashSet<_>>().len(), 4, "not all workers have clients");
    for client in &clients[..2] {
        assert_eq!(explained(&[&client.to_string()]), homes[client], "what `explain` says of {client}");
    }
    let rounds = requests.div_ceil(CLIENTS);
    let askers = clients.into_iter().map(Asker::client).collect();
    let visits = load(PROXIED.parse().expect("an address"), askers, |round| round < rounds);
    let count = all_at_home(&visits, &homes);
    assert!(count.len() == CLIENTS && count.values().all(|count| *count == rounds), "{count:?}");

    // The redirect's counters lag a little.
    let pool = crate::harness::eventually("all requests are counted", || {
        let pool = pool("3000");
        let exclusive = outcome(&pool, "gated") > 0 || counted(&pool, "tunnels") > 0;
        (exclusive || counted(&pool, "requests") >= visits.len() as u64).then_some(pool)
    });
    for other in ["table", "next", "fallback", "migrated", "refused", "no_address", "unredirected"] {
        assert_eq!(outcome(&pool, other), 0, "{other}: {pool:#?}");
    }
    for trouble in ["malformed", "unserved"] {
        assert_eq!(counted(&pool, trouble), 0, "{trouble}: {pool:#?}");
    }
    (visits, pool)
}

/// Nearly all of so many connections were decided by the gate.
#[track_caller]
fn gated(pool: &Value, connections: usize) {
    assert_eq!(pool["gate"]["open"], true, "{pool:#?}");
    assert!(outcome(pool, "gated") * 100 >= connections as u64 * 99, "{pool:#?}");
    let redirected = connections as u64 - outcome(pool, "gated");
    assert_eq!((outcome(pool, "redirected"), counted(pool, "connections")), (0, redirected), "{pool:#?}");
}

/// The workers got what the proxy sent: its address as their peer, and the client in the header, which `sticky explain`
/// reads like the redirect.
fn check_headers(visits: &[Visit]) {
    for visit in &visits[..2] {
        let header = format!("X-Forwarded-For: {}", visit.client);
        assert_eq!(Ok(explained(&["--peer", "127.0.0.1", "--header", &header])), visit.pid(), "{header}");
    }
    for visit in visits {
        let told = visit.answer.as_ref().expect("an answer").told();
        assert_eq!(told["headers"]["x-forwarded-for"], visit.client.to_string());
        let peer = told["peer"].as_str().expect("an address");
        assert_eq!(peer.trim_start_matches("::ffff:"), "127.0.0.1");
    }
}
