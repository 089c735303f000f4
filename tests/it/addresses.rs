//! The peer that workers see behind a trusted proxy: the proxy, as without sticky, or the client if that is asked for.

use std::net::IpAddr;

use serde_json::Value;

use crate::harness::http::Wire;
use crate::harness::process::{Process, start_sticky};
use crate::harness::{app, net};

const CLIENTS: [&str; 3] = ["203.0.113.7", "2001:db8:0:7::7", "127.1.0.7"];

fn run(options: &[&str], address: &str) -> Process {
    let app = app("peers.py");
    let command = ["--", "python3", app.as_str(), address, "3000"];
    let sticky = start_sticky(&[&["run", "-w", "4"], options, &command].concat());
    sticky.wait_for("is complete: 4 workers");
    sticky
}

/// What the client's worker says of its peer: by accept() and by getpeername().
#[track_caller]
fn seen(peer: &str, to: &str, client: &str) -> [String; 2] {
    let peer: IpAddr = peer.parse().expect("an address");
    // Redirected, and decided by the kernel.
    let [redirected, gated] = ["", "Connection: close\r\n"].map(|close| {
        let mut wire = Wire::dial(peer, to);
        wire.say(format!("GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {client}\r\n{close}\r\n"));
        let told: Value = serde_json::from_str(&wire.response().1).expect("JSON");
        ["accepted", "peer"].map(|name| told[name].as_str().expect("an address").to_owned())
    });
    assert_eq!(redirected, gated, "{client} of {peer}");
    gated
}

/// An IPv4 address as a dual-stack socket shows it.
fn dual(address: &str) -> String {
    if address.contains(':') { address.to_owned() } else { format!("::ffff:{address}") }
}

#[test]
fn the_proxy() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "127.0.0.8/31", "--trust", "::1/128"], "::");
    for client in CLIENTS {
        for peer in ["127.0.0.8", "127.0.0.9"] {
            assert_eq!(seen(peer, "127.0.0.1:3000", client), [dual(peer), dual(peer)]);
        }
        assert_eq!(seen("::1", "[::1]:3000", client), ["::1", "::1"]);
    }
    // A client that comes itself is seen as ever.
    assert_eq!(seen("127.1.0.1", "127.0.0.1:3000", CLIENTS[0]), [dual("127.1.0.1"), dual("127.1.0.1")]);
}

#[test]
fn the_proxy_at_workers_of_ipv4_alone() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "127.0.0.9/32"], "0.0.0.0");
    for client in CLIENTS {
        assert_eq!(seen("127.0.0.9", "127.0.0.1:3000", client), ["127.0.0.9", "127.0.0.9"]);
    }
}

#[test]
fn the_client() {
    let _net = net::isolate();
    let options = ["--trust", "127.0.0.8/31", "--trust", "::1/128", "--real-client-address"];
    let _sticky = run(&options, "::");
    // Twice, as a connection that was used for one client must not show it for the next.
    for _ in 0..2 {
        for client in CLIENTS {
            for peer in ["127.0.0.8", "127.0.0.9"] {
                assert_eq!(seen(peer, "127.0.0.1:3000", client), [dual(client), dual(client)]);
            }
            assert_eq!(seen("::1", "[::1]:3000", client), [dual(client), dual(client)]);
        }
    }
    assert_eq!(seen("127.1.0.1", "127.0.0.1:3000", CLIENTS[0]), [dual("127.1.0.1"), dual("127.1.0.1")]);
}

#[test]
fn the_client_over_one_shared_connection() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "127.0.0.9/32", "--real-client-address"], "::");
    let mut wire = Wire::dial("127.0.0.9".parse::<IpAddr>().expect("an address"), "127.0.0.1:3000");
    for n in (1..=16).chain(1..=16) {
        let client = format!("203.0.113.{n}");
        wire.say(format!("GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {client}\r\n\r\n"));
        let told: Value = serde_json::from_str(&wire.response().1).expect("JSON");
        assert_eq!((&told["accepted"], &told["peer"]), (&dual(&client).into(), &dual(&client).into()));
    }
}

#[test]
fn the_client_at_workers_of_ipv4_alone() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "127.0.0.9/32", "--real-client-address"], "0.0.0.0");
    for client in ["203.0.113.7", "198.51.100.7"] {
        assert_eq!(seen("127.0.0.9", "127.0.0.1:3000", client), [client, client]);
    }
    // Nothing of IPv6 fits into what such a worker asks for.
    assert_eq!(seen("127.0.0.9", "127.0.0.1:3000", "2001:db8::7"), ["127.0.0.9", "127.0.0.9"]);
}

#[test]
fn the_client_behind_a_proxy_protocol() {
    let _net = net::isolate();
    let options = ["--trust", "127.0.0.9/32", "--proxy-protocol", "strip", "--real-client-address"];
    let _sticky = run(&options, "::");
    let peer: IpAddr = "127.0.0.9".parse().expect("an address");
    for (family, client, server) in [("TCP4", "203.0.113.7", "127.0.0.1"), ("TCP6", "2001:db8::7", "::1")] {
        let mut wire = Wire::dial(peer, "127.0.0.1:3000");
        wire.say(format!("PROXY {family} {client} {server} 4711 3000\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        let told: Value = serde_json::from_str(&wire.response().1).expect("JSON");
        assert_eq!((&told["accepted"], &told["peer"]), (&dual(client).into(), &dual(client).into()));
        assert_eq!(told["proxy"], Value::Null);
    }
}
