//! Upgrades: a tunnel once the worker agrees, and an ordinary exchange where it does not.

use super::{FROM, goes_on};
use crate::harness::http::Wire;
use crate::harness::scene::{Asked, Scene};

const ASK: &str =
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

/// A tunnel, in which each end has said one thing before it was there.
fn tunnel(scene: &mut Scene) -> (Wire, Asked) {
    let (mut proxy, mut asked) = scene.ask(format!("GET /chat HTTP/1.1\r\n{FROM}{ASK}\r\n"));
    assert_eq!(asked.head.get("upgrade"), Some("websocket"));
    assert!(asked.head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")));
    assert_eq!(asked.head.get("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    asked.wire.say(format!("{AGREE}X-Mine: 1\r\n\r\nwelcome"));
    let head = proxy.head();
    assert_eq!((head.status(), head.get("upgrade"), head.get("x-mine")), (101, Some("websocket"), Some("1")));
    assert!(head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")));
    assert_eq!(proxy.text(7), "welcome");
    (proxy, asked)
}

#[test]
fn bytes_pass_both_ways() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = tunnel(&mut scene);
    for text in ["a", "\r\n\r\n", "GET / HTTP/1.1\r\nFoo\n\n"] {
        proxy.say(text);
        assert_eq!(asked.wire.text(text.len()), text);
        asked.wire.say(text);
        assert_eq!(proxy.text(text.len()), text);
    }
}

#[test]
fn the_client_may_finish_first() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = tunnel(&mut scene);
    proxy.say("the last words");
    proxy.finish();
    assert_eq!(asked.wire.rest(), "the last words");
    asked.wire.say("an answer all the same");
    assert_eq!(proxy.text(22), "an answer all the same");
    asked.wire.say("and an end");
    drop(asked);
    assert_eq!(proxy.rest(), "and an end");
}

#[test]
fn the_worker_may_finish_first() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = tunnel(&mut scene);
    asked.wire.say("the last words");
    asked.wire.finish();
    assert_eq!(proxy.rest(), "the last words");
    proxy.say("an answer all the same");
    assert_eq!(asked.wire.text(22), "an answer all the same");
    drop(proxy);
    asked.wire.closed();
}

#[test]
fn what_was_said_too_early_is_passed_on() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET /chat HTTP/1.1\r\n{FROM}{ASK}\r\nearly"));
    asked.wire.say(format!("{AGREE}\r\n"));
    assert_eq!(proxy.head().status(), 101);
    assert_eq!(asked.wire.text(5), "early");
}

#[test]
fn a_worker_may_refuse() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET /chat HTTP/1.1\r\n{FROM}{ASK}\r\n"));
    asked.wire.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    scene.workers.keep(asked);
    let (head, body) = proxy.response();
    assert_eq!((head.status(), body.as_str()), (403, "no"));
    goes_on(&mut scene, &mut proxy);
}

/// The worker would understand it, and everything that follows would pass by unread.
#[test]
fn http_2_in_clear_text_is_not_offered() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!(
        "GET / HTTP/1.1\r\n{FROM}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAoAAA\r\n\r\n"
    ));
    assert_eq!(asked.head.get("upgrade"), None);
    assert_eq!(asked.head.get("http2-settings"), None);
    let connection = asked.head.all("connection").join(",").to_lowercase();
    assert!(!connection.contains("upgrade") && !connection.contains("http2"), "{connection}");
    asked.wire.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(proxy.response().1, "ok");
}

#[test]
fn a_switch_that_nobody_asked_for_is_no_tunnel() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET / HTTP/1.1\r\n{FROM}\r\n"));
    asked.wire.say(format!("{AGREE}\r\nsomething"));
    assert_eq!(proxy.head().status(), 502);
    asked.wire.closed();
}

#[test]
fn connect_is_refused() {
    let mut scene = Scene::new(&[]);
    let mut proxy = scene.proxy();
    proxy.say("CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\n\r\n");
    assert_eq!(proxy.head().status(), 405);
    scene.workers.idle();
}
