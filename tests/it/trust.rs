//! Who is believed: headers of trusted peers, read from the right, and of nobody else. `sticky explain` says the same.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::affinity::{Homes, explained};
use crate::harness::client::loopback;
use crate::harness::http::Wire;
use crate::harness::process::{Process, by_client, outcome, pool, run_sticky, start_sticky, sticky_ok};
use crate::harness::scene::{POOL, PROXY};
use crate::harness::{app, eventually, net};

/// Clients with which each row is tried; were each of them sent to just any of four workers, one row in 65,536 would
/// seem right.
const TRIES: u8 = 8;

/// In a row's headers and in its answer, the client that the proxy saw, and another that it claims to be.
const CLIENT: &str = "203.0.113.";
const VICTIM: &str = "198.51.100.";

fn run(options: &[&str]) -> Process {
    let app = app("echo.js");
    let arguments = [&["run", "-w", "4"], options, &["--", "node", &app, "3000"]].concat();
    let sticky = start_sticky(&arguments);
    sticky.wait_for("is complete: 4 workers");
    sticky
}

/// The PID that answers a request with these header lines, over a connection for it alone or one that may be shared.
#[track_caller]
fn met(peer: IpAddr, headers: &[String], alone: bool) -> u64 {
    let mut wire = Wire::dial(peer, POOL);
    let close = if alone { "Connection: close\r\n" } else { "" };
    wire.say(format!("GET / HTTP/1.1\r\nHost: test\r\n{}{close}\r\n", headers.concat()));
    let (head, body) = wire.response();
    assert_eq!(head.status(), 200, "{headers:?}");
    let told: Value = serde_json::from_str(&body).expect("JSON");
    told["pid"].as_u64().expect("a PID")
}

/// Each row: the peer, its header lines (`C` and `V` stand for the client's and the victim's address), and who is to
/// be taken for the client.
fn check(rows: &[(&str, &[&str], &str)]) {
    let homes = Homes::now();
    for (peer, lines, client) in rows {
        for n in 1..=TRIES {
            let fill =
                |text: &str| text.replace('C', &format!("{CLIENT}{n}")).replace('V', &format!("{VICTIM}{n}"));
            // Only values and expectations are filled in: names have capitals of their own.
            let filled: Vec<(String, String)> = lines
                .iter()
                .map(|line| line.split_once(": ").expect("a header"))
                .map(|(name, value)| (name.to_owned(), fill(value)))
                .collect();
            let expected = homes.of(fill(client).parse().expect("an address"));
            let peer: IpAddr = peer.parse().expect("an address");
            let written: Vec<_> = filled.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            for alone in [true, false] {
                assert_eq!(met(peer, &written, alone), expected, "from {peer}, alone {alone}: {written:?}");
            }
            if n <= 2 {
                let mut arguments = vec!["--peer".to_owned(), peer.to_string()];
                for (name, value) in &filled {
                    arguments.extend(["--header".to_owned(), format!("{name}: {value}")]);
                }
                let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
                assert_eq!(explained(&arguments), expected, "explain {arguments:?}");
            }
        }
    }
}

#[test]
fn a_pool_at_an_interface_cannot_trust() {
    let _net = net::isolate();
    let program = "import socket, time
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.setsockopt(socket.SOL_SOCKET, 25, b'lo')
listener.bind(('0.0.0.0', 3000))
listener.listen()
print('listening', flush=True)
time.sleep(600)";
    let worker = Process::start(Command::new("python3").args(["-c", program]));
    worker.wait_for("listening");
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("is steered: 1 workers");
    let refused = run_sticky(&["trust", "add", "loopback"]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && error.contains("is bound to an interface"), "{error}");
    assert!(sticky_ok(&["trust", "list"]).contains("trusts nobody"));
}

#[test]
fn nobody_else_is_believed() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "127.0.0.1/32", "--trust", "10.0.0.0/8"]);
    let rows: &[(&str, &[&str], &str)] = &[
        ("127.1.0.1", &["X-Forwarded-For: V"], "127.1.0.1"),
        ("127.1.0.2", &["X-Forwarded-For: V, 10.0.0.1"], "127.1.0.2"),
        ("127.1.0.3", &["Forwarded: for=V"], "127.1.0.3"),
        ("127.1.0.4", &["X-Real-IP: V"], "127.1.0.4"),
        ("127.1.0.5", &["X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: V"], "127.1.0.5"),
        ("127.0.0.2", &["CF-Connecting-IP: V", "True-Client-IP: V", "X-Client-IP: V"], "127.0.0.2"),
    ];
    check(rows);
    let pool = pool("3000");
    assert_eq!(by_client(&pool), 2 * (rows.len() * usize::from(TRIES)) as u64, "{pool:#?}");
    assert_eq!((outcome(&pool, "gated"), outcome(&pool, "redirected")), (0, 0), "{pool:#?}");
}

#[test]
fn x_forwarded_for() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "127.0.0.1/32", "--trust", "10.0.0.0/8"]);
    let proxy = "127.0.0.1";
    let rows: &[(&str, &[&str], &str)] = &[
        (proxy, &["X-Forwarded-For: C"], "C"),
        // What the client claims is to the left of what the proxy saw.
        (proxy, &["X-Forwarded-For: V, C"], "C"),
        (proxy, &["X-Forwarded-For: V,V,V,C"], "C"),
        (proxy, &["x-forwarded-for: V", "X-FORWARDED-FOR: C"], "C"),
        (proxy, &["X-Forwarded-For:  V ,\t C "], "C"),
        (proxy, &["X-Forwarded-For: 127.0.0.1, 10.0.0.1, V, C"], "C"),
        // Two proxies, one behind the other.
        (proxy, &["X-Forwarded-For: V, C, 10.1.2.3"], "C"),
        (proxy, &["X-Forwarded-For: V, C", "X-Forwarded-For: 10.1.2.3, 127.0.0.1"], "C"),
        (proxy, &["X-Forwarded-For: 10.0.0.5, 10.0.0.6"], "10.0.0.5"),
        // No addresses.
        (proxy, &["X-Forwarded-For: V, nonsense, C, 10.0.0.1"], "C"),
        (proxy, &["X-Forwarded-For: V, unknown, 10.0.0.1"], "10.0.0.1"),
        (proxy, &["X-Forwarded-For: V, unknown"], proxy),
        (proxy, &["X-Forwarded-For: V, 203.0.113.007"], proxy),
        (proxy, &["X-Forwarded-For: "], proxy),
        (proxy, &[], proxy),
        (proxy, &["X-Forwarded-For: V, C:4711"], "C"),
        (proxy, &["X-Forwarded-For: V, ::ffff:C"], "C"),
        (proxy, &["X-Forwarded-For: V, [2001:db8:0:5::7]:80"], "2001:db8:0:5::7"),
        // Other headers, and what `Connection` would have removed.
        (proxy, &["X-Real-IP: V", "X-Forwarded-For: C", "Forwarded: for=V"], "C"),
        (proxy, &["X-Real-IP: V", "Forwarded: for=V"], proxy),
        (proxy, &["Connection: x-forwarded-for", "X-Forwarded-For: V, C"], "C"),
    ];
    check(rows);
    let pool = pool("3000");
    let all = (rows.len() * usize::from(TRIES)) as u64;
    for name in ["gated", "redirected", "shared"] {
        assert_eq!(outcome(&pool, name), all, "{name}: {pool:#?}");
    }
    assert_eq!(by_client(&pool), 0, "{pool:#?}");
}

#[test]
fn forwarded() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "loopback", "--trust", "private", "--client-header", "forwarded"]);
    check(&[
        ("127.0.0.1", &["Forwarded: for=V, for=C;proto=https;by=10.0.0.1"], "C"),
        ("127.5.5.5", &["Forwarded: for=V", "forwarded: For=\"C:4711\", for=192.168.0.1"], "C"),
        ("127.0.0.1", &["Forwarded: for=V, for=\"[2001:db8:0:9::7]:80\""], "2001:db8:0:9::7"),
        ("127.0.0.1", &["Forwarded: for=V, for=unknown"], "127.0.0.1"),
        ("127.0.0.1", &["Forwarded: for=V, for=_hidden, for=10.0.0.1"], "10.0.0.1"),
        ("127.0.0.1", &["X-Forwarded-For: V"], "127.0.0.1"),
    ]);
}

#[test]
fn a_header_of_one_address() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "127.0.0.0/8", "--client-header", "x-real-ip"]);
    check(&[
        ("127.0.0.1", &["X-Real-IP: C", "X-Forwarded-For: V"], "C"),
        ("127.0.0.7", &["x-real-ip: 2001:db8:0:9::7"], "2001:db8:0:9::7"),
        // Trusted or not: it is the whole answer.
        ("127.0.0.1", &["X-Real-IP: 127.0.0.3"], "127.0.0.3"),
        ("127.0.0.1", &["X-Real-IP: V", "X-Real-IP: C"], "127.0.0.1"),
        ("127.0.0.1", &["X-Real-IP: V, C"], "127.0.0.1"),
        ("127.0.0.1", &["X-Forwarded-For: V"], "127.0.0.1"),
    ]);
}

#[test]
fn a_peer_of_ipv6() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "::1/128"]);
    let homes = Homes::now();
    for client in ["203.0.113.7", "2001:db8::7"] {
        let home = homes.of(client.parse().expect("an address"));
        let mut wire = Wire::dial(std::net::Ipv6Addr::LOCALHOST, "[::1]:3000");
        wire.say(format!("GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {client}\r\n\r\n"));
        let told: Value = serde_json::from_str(&wire.response().1).expect("JSON");
        assert_eq!(told["pid"], home);
    }
    assert_eq!(outcome(&pool("3000"), "redirected"), 2);
}

/// Who is trusted, as `sticky trust list` shows it.
fn trusted() -> String {
    sticky_ok(&["trust", "list", "--at", "3000"])
}

#[test]
fn trust_can_be_given_and_taken_while_it_runs() {
    let _net = net::isolate();
    let _sticky = run(&[]);
    let peer: IpAddr = "127.0.0.5".parse().expect("an address");
    let forged = ["X-Forwarded-For: 203.0.113.7\r\n".to_owned()];
    let homes = Homes::now();
    let homes = [homes.of(peer), homes.of("203.0.113.7".parse().expect("an address"))];
    let through = |name: &str| outcome(&pool("3000"), name);
    assert_eq!(pool("3000")["trusted"], serde_json::json!([]));
    assert_eq!(met(peer, &forged, false), homes[0]);
    assert_eq!((by_client(&pool("3000")), through("redirected")), (1, 0));

    for round in 1..=2 {
        sticky_ok(&["trust", "add", "127.0.0.5/32", "10.0.0.0/8", "--at", "3000"]);
        let list = trusted();
        assert!(list.contains("127.0.0.5/32") && list.contains("10.0.0.0/8"), "{list}");
        assert_eq!(pool("3000")["trusted"].as_array().map(Vec::len), Some(2));
        // Where nobody was trusted before, the redirect begins to listen only now.
        eventually("the redirect listens", || {
            (pool("3000")["redirect"]["listening"] == Value::Bool(true)).then_some(())
        });
        let before = through("redirected");
        assert_eq!(met(peer, &forged, false), homes[1], "round {round}");
        assert_eq!(through("redirected"), before + 1);
        assert_eq!(explained(&["--peer", "127.0.0.5", "--header", forged[0].trim_end()]), homes[1]);

        sticky_ok(&["trust", "remove", "127.0.0.5/32", "--at", "3000"]);
        assert!(!trusted().contains("127.0.0.5"), "{}", trusted());
        let (direct, redirected) = (by_client(&pool("3000")), through("redirected"));
        assert_eq!(met(peer, &forged, false), homes[0], "round {round}");
        assert_eq!((by_client(&pool("3000")), through("redirected")), (direct + 1, redirected));
        assert_eq!(explained(&["--peer", "127.0.0.5", "--header", forged[0].trim_end()]), homes[0]);
        sticky_ok(&["trust", "remove", "10.0.0.0/8", "--at", "3000"]);
        assert_eq!(pool("3000")["trusted"], serde_json::json!([]));
    }
}

/// What the worker tells that answers this request.
#[track_caller]
fn told(wire: &mut Wire, headers: &str) -> Value {
    wire.say(format!("GET / HTTP/1.1\r\nHost: test\r\n{headers}\r\n"));
    serde_json::from_str(&wire.response().1).expect("JSON")
}

#[test]
fn connections_go_on_when_nobody_is_trusted_any_more() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "127.0.0.1/32", "--real-client-address"]);
    let homes = Homes::now();
    let mut proxy = Wire::dial(PROXY, POOL);
    told(&mut proxy, "X-Forwarded-For: 203.0.113.1\r\n");
    sticky_ok(&["trust", "remove", "127.0.0.1/32", "--at", "3000"]);
    // For longer than whoever follows the pool takes to notice. Each client has a connection of its own to its worker,
    // since what workers see differs: a pooled one would hide a wrong way there.
    let begin = Instant::now();
    let mut clients = 0;
    while begin.elapsed() < Duration::from_millis(2500) {
        clients += 1;
        let client = IpAddr::from([10, 1, (clients >> 8) as u8, clients as u8]);
        let headers = format!("X-Forwarded-For: {client}\r\n");
        assert_eq!(told(&mut proxy, &headers)["pid"], homes.of(client), "{client}, the {clients}th");
    }
}

/// Any process that holds a socket of the group may take the program off. The kernel then spreads connections over all
/// sockets, the redirect's too, and whoever gets there by chance is still nobody who is believed.
#[test]
fn without_the_program_the_redirect_believes_nobody_else() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "10.0.0.0/8", "--real-client-address"]);
    let group = sticky::group::named(&"3000".parse().expect("a port")).expect("the group").remove(0);
    sticky::pool::detach(group.members[0].fetch().expect("a socket")).expect("the program comes off");
    let mut redirected = 0;
    for peer in (1..=100).map(loopback) {
        // The redirect keeps this header to itself.
        let headers = "X-Forwarded-For: 203.0.113.7\r\nKeep-Alive: timeout=5\r\n";
        let told = told(&mut Wire::dial(peer, POOL), headers);
        redirected += usize::from(told["headers"]["keep-alive"].is_null());
        // The redirect's own connection may have got to the redirect again: then it is this host that is told.
        let seen = told["peer"].as_str().expect("an address").trim_start_matches("::ffff:");
        assert!(seen == peer.to_string() || seen == PROXY.to_string(), "{peer} passed for {seen}");
    }
    assert!(redirected > 0, "nobody got to the redirect");
}

#[test]
fn what_is_no_network_is_not_trusted() {
    let _net = net::isolate();
    let _sticky = run(&["--trust", "127.0.0.1/32"]);
    for wrong in ["127.0.0.1/33", "10.0.0/8", "localhost", "::/129", ""] {
        let output = run_sticky(&["trust", "add", wrong, "--at", "3000"]);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {output:?}");
    }
    assert_eq!(pool("3000")["trusted"], serde_json::json!(["127.0.0.1/32"]));
}
