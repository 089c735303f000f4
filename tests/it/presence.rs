//! Who has a connection open is not gone, however long ago it began: he is not forgotten, and a drain keeps him.

use std::net::{IpAddr, SocketAddr};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use serde_json::Value;

use crate::harness::client::dial_at;
use crate::harness::http::Wire;
use crate::harness::process::{outcome, pool, start_sticky, sticky_ok};
use crate::harness::scene::{Asked, POOL, Scene};
use crate::harness::{eventually, net};

/// As short as it can be for four looks in it.
const REMEMBER: [&str; 2] = ["--remember", "4s"];
const HOST: &str = "GET / HTTP/1.1\r\nHost: test\r\n";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
const PRESENT: &str = "203.0.113.1";
const GONE: &str = "203.0.113.2";

/// A connection, of which both ends are held.
type Held = (Wire, Asked);

fn explained(client: &str) -> Value {
    let text = sticky_ok(&["explain", client, "3000", "--json"]);
    serde_json::from_str::<Value>(&text).expect("JSON")[0].clone()
}

/// Whether the affinity table would send the client to the slot it has there.
fn is_known(client: &str) -> bool {
    explained(client)["outcome"] == "known"
}

/// Who still has a connection open is known when another, who came later, is forgotten; and is forgotten without one.
fn outlasts(
    scene: &mut Scene,
    held: Held,
    (present, gone): (&str, &str),
    came: impl FnOnce(&mut Scene) -> Held,
) {
    drop(came(scene));
    assert!(is_known(present) && is_known(gone));
    eventually("who came once is forgotten", || (!is_known(gone)).then_some(()));
    assert!(is_known(present), "{:#}", explained(present));
    drop(held);
    eventually("who has gone is forgotten", || (!is_known(present)).then_some(()));
}

/// A client that comes by itself.
fn directly(scene: &mut Scene, client: &str) -> Held {
    let address: IpAddr = client.parse().expect("an address");
    let mut wire = Wire::dial(address, POOL);
    wire.say(format!("{HOST}\r\n"));
    (wire, scene.workers.asked())
}

/// A request that the proxy passes on for a client.
fn for_client(client: &str, more: &str) -> String {
    format!("{HOST}X-Forwarded-For: {client}\r\n{more}\r\n")
}

fn proxy_header(client: &str) -> String {
    format!("PROXY TCP4 {client} 127.0.0.1 4660 3000\r\n")
}

#[test]
fn with_a_connection_of_its_own() {
    let mut scene = Scene::new(&REMEMBER);
    let held = directly(&mut scene, "127.1.0.1");
    outlasts(&mut scene, held, ("127.1.0.1", "127.1.0.2"), |scene| directly(scene, "127.1.0.2"));
}

#[test]
fn with_a_websocket_through_the_redirect() {
    let mut scene = Scene::new(&REMEMBER);
    let (mut proxy, mut asked) = scene.ask(for_client(PRESENT, UPGRADE));
    asked.wire.say(AGREED);
    assert_eq!(proxy.head().status(), 101);
    outlasts(&mut scene, (proxy, asked), (PRESENT, GONE), |scene| scene.ask(for_client(GONE, "")));
}

#[test]
fn with_an_answer_that_lasts_through_the_redirect() {
    let mut scene = Scene::new(&REMEMBER);
    let (mut proxy, mut asked) = scene.ask(for_client(PRESENT, ""));
    asked.wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata: \r\n");
    assert_eq!(proxy.head().status(), 200);
    outlasts(&mut scene, (proxy, asked), (PRESENT, GONE), |scene| scene.ask(for_client(GONE, "")));
}

#[test]
fn with_a_tunnel_behind_a_proxy_header() {
    let mut scene = Scene::new(&[&REMEMBER[..], &["--proxy-protocol", "strip"]].concat());
    let held = scene.ask(proxy_header(PRESENT) + HOST + "\r\n");
    outlasts(&mut scene, held, (PRESENT, GONE), |scene| scene.ask(proxy_header(GONE) + HOST + "\r\n"));
}

#[test]
fn with_a_websocket_through_the_gate() {
    let mut scene = Scene::gated(&REMEMBER);
    let held = scene.ask(for_client(PRESENT, UPGRADE));
    outlasts(&mut scene, held, (PRESENT, GONE), |scene| scene.ask(for_client(GONE, "Connection: close\r\n")));
    assert_eq!(outcome(&pool("3000"), "gated"), 2, "by the gate, both");
}

#[test]
fn with_a_proxy_header_through_the_gate() {
    let mut scene = Scene::gated(&[&REMEMBER[..], &["--proxy-protocol", "pass"]].concat());
    let held = scene.ask(proxy_header(PRESENT) + "\r\n");
    outlasts(&mut scene, held, (PRESENT, GONE), |scene| scene.ask(proxy_header(GONE) + "\r\n"));
    assert_eq!(outcome(&pool("3000"), "gated"), 2, "by the gate, both");
}

#[test]
fn a_drain_keeps_who_has_a_connection_open() {
    let mut scene = Scene::new(&[]);
    let present = "127.1.0.1";
    let held = directly(&mut scene, present);
    let home = explained(present)["slot"].clone();
    let mut neighbours = (2..).map(|n| format!("127.1.0.{n}"));
    let gone = neighbours.find(|other| explained(other)["slot"] == home).expect("a neighbour");
    drop(directly(&mut scene, &gone));
    let age = |client: &str| explained(client)["known"]["gone"].as_u64().expect("an age");
    eventually("that was long ago", || (age(present) >= 3 && age(&gone) >= 3).then_some(()));
    let mut drained = start_sticky(&["drain", &home.to_string(), "--idle", "2s", "--wait"]);
    drained.wait_for("2 clients stay");
    eventually("who is gone is gone", || (!is_known(&gone)).then_some(()));
    assert!(is_known(present), "{:#}", explained(present));
    drop(held);
    assert_eq!(drained.wait().code(), Some(0));
    assert_ne!(explained(present)["slot"], home);
}

/// The redirect is not asked by `sticky drain`, but has time to tell.
#[test]
fn a_drain_keeps_who_has_a_tunnel_through_the_redirect() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(for_client(PRESENT, UPGRADE));
    asked.wire.say(AGREED);
    assert_eq!(proxy.head().status(), 101);
    let home = explained(PRESENT)["slot"].clone();
    let age = || explained(PRESENT)["known"]["gone"].as_u64().expect("an age");
    eventually("that was long ago", || (age() >= 3).then_some(()));
    let mut drained = start_sticky(&["drain", &home.to_string(), "--idle", "2s", "--wait"]);
    drained.wait_for("1 client stays");
    eventually("it is seen", || (age() < 3).then_some(()));
    drop((proxy, asked));
    assert_eq!(drained.wait().code(), Some(0));
    assert_ne!(explained(PRESENT)["slot"], home);
}

/// Where IPv4 comes to sockets of IPv6, as in Java.
#[test]
fn at_an_address_of_both_families() {
    let _net = net::isolate();
    let socket =
        socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
    sockopt::set_socket_reuseport(&socket, true).expect("SO_REUSEPORT");
    bind(&socket, &"[::ffff:127.0.0.1]:3000".parse::<SocketAddr>().expect("an address"))
        .expect("port 3000 is free");
    listen(&socket, 16).expect("it listens");
    let sticky = start_sticky(&[&["attach", "3000"], &REMEMBER[..]].concat());
    sticky.wait_for("is steered: 1 workers");
    let dial = |client: &str| Wire::dial(client.parse::<IpAddr>().expect("an address"), POOL);
    let _held = dial("127.1.0.1");
    drop(dial("127.1.0.2"));
    assert!(is_known("127.1.0.2"));
    eventually("who came once is forgotten", || (!is_known("127.1.0.2")).then_some(()));
    assert!(is_known("127.1.0.1"));
}

/// A proxy that connects from the same port again, for others.
#[test]
fn an_earlier_connection_of_a_port_is_over() {
    let mut scene = Scene::gated(&REMEMBER);
    let (proxy, asked) = scene.ask(for_client(PRESENT, UPGRADE));
    let port = asked.wire.peer();
    drop((proxy, asked));
    let mut proxy = Wire::new(dial_at(port, POOL.parse().expect("an address")).expect("the port is free"));
    proxy.say(for_client(GONE, ""));
    let _held = (proxy, scene.workers.asked());
    assert!(is_known(PRESENT));
    eventually("who is gone is forgotten", || (!is_known(PRESENT)).then_some(()));
    assert!(is_known(GONE), "{:#}", explained(GONE));
}

#[test]
fn the_redirects_own_connections_are_nobodys() {
    let mut scene = Scene::new(&[&REMEMBER[..], &["--trust", "::1"]].concat());
    sticky_ok(&["trust", "remove", "127.0.0.1/32"]);
    let mut proxy = Wire::dial(std::net::Ipv6Addr::LOCALHOST, "[::1]:3000");
    proxy.say(for_client(PRESENT, ""));
    let held = (proxy, scene.workers.asked());
    // From where the redirect connects, too.
    outlasts(&mut scene, held, (PRESENT, "127.0.0.1"), |scene| directly(scene, "127.0.0.1"));
}
