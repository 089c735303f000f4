//! Connections that carry one request or many: who may close when, and what becomes of the requests.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use super::FROM;
use crate::harness::http::Wire;
use crate::harness::process::{outcome, pool};
use crate::harness::scene::Scene;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn http_1_0_ends_with_its_answer() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET / HTTP/1.0\r\n{FROM}\r\n"));
    assert_eq!(asked.head.first, "GET / HTTP/1.1");
    asked.wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
    scene.workers.keep(asked);
    let head = proxy.head();
    assert!(head.first.ends_with(" 200 OK"), "{head:?}");
    assert_eq!(head.get("transfer-encoding"), None, "chunks are nothing for HTTP/1.0");
    assert_eq!(proxy.rest(), "onetwo");
}

#[test]
fn http_1_0_can_ask_to_go_on() {
    let mut scene = Scene::new(&[]);
    let request = format!("GET / HTTP/1.0\r\n{FROM}Connection: keep-alive\r\n\r\n");
    let mut proxy = scene.proxy();
    for _ in 0..3 {
        proxy.say(&request);
        let mut asked = scene.workers.asked();
        asked.wire.say(OK);
        scene.workers.keep(asked);
        let (head, body) = proxy.response();
        assert_eq!(body, "ok");
        assert!(
            head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive")),
            "{head:?}"
        );
    }
}

#[test]
fn the_client_may_ask_to_close() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET / HTTP/1.1\r\n{FROM}Connection: close\r\n\r\n"));
    assert!(!asked.head.closes(), "the pooled connection need not end: {:?}", asked.head);
    asked.wire.say(OK);
    let (head, body) = proxy.response();
    assert_eq!(body, "ok");
    assert!(head.closes(), "{head:?}");
    proxy.closed();
}

#[test]
fn the_worker_may_close_without_the_client_noticing() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET / HTTP/1.1\r\n{FROM}\r\n"));
    asked.wire.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    drop(asked);
    let (head, body) = proxy.response();
    assert_eq!((body.as_str(), head.closes()), ("ok", false));

    // Or without a word between two requests, as servers do with idle connections, when the redirect has noticed it.
    for _ in 0..2 {
        proxy.say(format!("POST / HTTP/1.1\r\n{FROM}Content-Length: 1\r\n\r\nx"));
        let mut asked = scene.workers.asked();
        assert_eq!(asked.wire.text(1), "x");
        asked.wire.say(OK);
        assert_eq!(proxy.response().1, "ok");
        asked.wire.finish();
        asked.wire.closed();
    }
    // Or at the very moment when a request comes that can be sent once more.
    for _ in 0..20 {
        proxy.say(format!("GET / HTTP/1.1\r\n{FROM}\r\n"));
        let mut asked = scene.workers.asked();
        asked.wire.say(OK);
        assert_eq!(proxy.response().1, "ok");
        asked.wire.finish();
    }
}

#[test]
fn many_clients_share_a_connection() {
    let mut scene = Scene::new(&[]);
    let mut proxy = scene.proxy();
    let mut workers = Vec::new();
    for round in 0..2 {
        for client in 1..=16 {
            proxy.say(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.{client}\r\n\r\n"));
            let mut asked = scene.workers.asked();
            assert_eq!(asked.head.get("x-forwarded-for"), Some(format!("203.0.113.{client}").as_str()));
            asked.wire.say(OK);
            assert_eq!(proxy.response().1, "ok");
            if round == 0 {
                workers.push(asked.worker);
            } else {
                assert_eq!(asked.worker, workers[client - 1], "client {client} met another worker");
            }
            scene.workers.keep(asked);
        }
    }
    assert!(workers.contains(&0) && workers.contains(&1), "{workers:?}");
    let pool = pool("3000");
    assert_eq!(outcome(&pool, "redirected"), 1);
    assert!(outcome(&pool, "relayed") <= 4, "connections to workers are not used again: {pool:#?}");
}

#[test]
fn requests_that_do_not_wait_are_answered_in_order() {
    let mut scene = Scene::new(&[]);
    let mut proxy = scene.proxy();
    // Of different clients, so that a later one's worker could be the faster one.
    let request =
        |n: usize| format!("GET /{n} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.{n}\r\n\r\n");
    proxy.say((1..=8).map(request).collect::<String>());
    for n in 1..=8 {
        let mut asked = scene.workers.asked();
        assert_eq!(asked.head.first, format!("GET /{n} HTTP/1.1"));
        let body = format!("answer {n}");
        asked.wire.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        scene.workers.keep(asked);
    }
    for n in 1..=8 {
        assert_eq!(proxy.response().1, format!("answer {n}"));
    }
}

#[test]
fn a_request_whose_worker_dies_goes_to_the_next() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, asked) = scene.ask(format!("GET /again HTTP/1.1\r\n{FROM}\r\n"));
    let dead = asked.worker;
    scene.workers.kill(dead);
    drop(asked);
    let mut asked = scene.workers.asked();
    assert_eq!((asked.head.first.as_str(), asked.worker), ("GET /again HTTP/1.1", 1 - dead));
    asked.wire.say(OK);
    assert_eq!(proxy.response().1, "ok");
}

/// A process that is killed closes its connections first, and for a moment others still get in.
#[test]
fn a_request_whose_worker_dies_slowly_goes_to_the_next() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET /first HTTP/1.1\r\n{FROM}\r\n"));
    let dying = asked.worker;
    asked.wire.say(OK);
    scene.workers.keep(asked);
    assert_eq!(proxy.response().1, "ok");

    proxy.say(format!("GET /again HTTP/1.1\r\n{FROM}\r\n"));
    drop(scene.workers.asked());
    let asked = scene.workers.asked();
    assert_eq!((asked.head.first.as_str(), asked.worker), ("GET /again HTTP/1.1", dying));
    scene.workers.kill(dying);
    drop(asked);
    let mut asked = scene.workers.asked();
    assert_eq!((asked.head.first.as_str(), asked.worker), ("GET /again HTTP/1.1", 1 - dying));
    asked.wire.say(OK);
    assert_eq!(proxy.response().1, "ok");
}

/// However, one that kills workers is not to kill them all.
#[test]
fn a_request_that_kills_two_workers_is_given_up() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, asked) = scene.ask(format!("GET /poison HTTP/1.1\r\n{FROM}\r\n"));
    drop(asked);
    drop(scene.workers.asked());
    assert_eq!(proxy.head().status(), 502);
    scene.workers.idle();
}

/// A worker that closes instead of an answer lives: its clients stay its own.
#[test]
fn who_had_enough_of_a_request_keeps_its_clients() {
    let mut scene = Scene::new(&[]);
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\n{FROM}\r\n");
    let (mut proxy, mut asked) = scene.ask(ask("/"));
    let home = asked.worker;
    asked.wire.say(OK);
    assert_eq!(proxy.response().1, "ok");
    drop(asked);
    let (mut other, asked) = scene.ask(ask("/odd"));
    assert_eq!(asked.worker, home);
    drop(asked);
    let mut elsewhere = scene.workers.asked();
    assert_ne!(elsewhere.worker, home);
    elsewhere.wire.say(OK);
    assert_eq!(other.response().1, "ok");
    let (_proxy, asked) = scene.ask(ask("/"));
    assert_eq!(asked.worker, home, "a client moved away from a worker that lives");
}

/// The worker may have done it: only the client can know whether it may be done twice.
#[test]
fn a_request_that_must_not_be_repeated_is_not() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) =
        scene.ask(format!("POST /order HTTP/1.1\r\n{FROM}Content-Length: 1\r\n\r\nx"));
    assert_eq!(asked.wire.text(1), "x");
    scene.workers.kill(asked.worker);
    drop(asked);
    assert_eq!(proxy.head().status(), 502);
    scene.workers.idle();
}

#[test]
fn without_workers_the_answer_is_503() {
    let mut scene = Scene::new(&[]);
    scene.workers.kill(0);
    scene.workers.kill(1);
    scene.sticky.wait_for("0 workers left");
    let mut proxy = Wire::dial(crate::harness::scene::PROXY, crate::harness::scene::POOL);
    proxy.say(format!("GET / HTTP/1.1\r\n{FROM}\r\n"));
    let (head, _) = proxy.response();
    assert_eq!((head.status(), head.get("retry-after")), (503, Some("1")));
}

#[test]
fn a_port_that_lacks_is_waited_for() {
    let mut scene = Scene::new(&[]);
    let mut proxy = scene.proxy();
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50001").expect("a setting of the test's own");
    let all_ports =
        [50000, 50001].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port"));
    proxy.say(format!("POST / HTTP/1.1\r\n{FROM}Content-Length: 0\r\n\r\n"));
    scene.sticky.wait_for("the redirect cannot connect to a worker: Address already in use");
    drop(all_ports);
    let mut asked = scene.workers.asked();
    asked.wire.say(OK);
    assert_eq!(proxy.response().1, "ok");
}
