//! Responses before the response: 100 where the client waits for it, 103 where the worker is early.

use super::FROM;
use crate::harness::scene::Scene;

#[test]
fn the_worker_says_when_to_go_on() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) =
        scene.ask(format!("PUT / HTTP/1.1\r\n{FROM}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"));
    assert_eq!(asked.head.get("expect"), Some("100-continue"));
    proxy.silent();
    asked.wire.say("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(proxy.head().status(), 100);
    asked.wire.silent();
    proxy.say("body");
    assert_eq!(asked.wire.text(4), "body");
    asked.wire.say("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(proxy.response().0.status(), 201);
}

#[test]
fn the_worker_says_not_to_go_on() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) =
        scene.ask(format!("PUT / HTTP/1.1\r\n{FROM}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"));
    asked.wire.say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno");
    let (head, body) = proxy.response();
    assert_eq!((head.status(), body.as_str()), (417, "no"));
    // Whether the body still comes nobody can tell, and so not what follows it.
    proxy.closed();
}

#[test]
fn the_worker_goes_on_without_a_word() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) =
        scene.ask(format!("PUT / HTTP/1.1\r\n{FROM}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"));
    // A client need not wait for ever.
    proxy.say("body");
    assert_eq!(asked.wire.text(4), "body");
    asked.wire.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    // It may be told to go on all the same.
    let mut head = proxy.head();
    if head.status() == 100 {
        head = proxy.head();
    }
    assert_eq!((head.status(), proxy.text(2).as_str()), (200, "ok"));
}

#[test]
fn early_hints_come_early() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET / HTTP/1.1\r\n{FROM}\r\n"));
    for style in ["a.css", "b.css"] {
        asked.wire.say(format!("HTTP/1.1 103 Early Hints\r\nLink: <{style}>; rel=preload\r\n\r\n"));
        let hint = proxy.head();
        assert_eq!(hint.status(), 103);
        assert_eq!(hint.get("link"), Some(format!("<{style}>; rel=preload").as_str()));
    }
    proxy.silent();
    asked.wire.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(proxy.response().1, "ok");
}

#[test]
fn http_1_0_clients_get_none() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET / HTTP/1.0\r\n{FROM}\r\n"));
    asked.wire.say(
        "HTTP/1.1 103 Early Hints\r\nLink: <a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    assert_eq!(proxy.head().first.split(' ').nth(1), Some("200"));
    assert_eq!(proxy.rest(), "ok");
}
