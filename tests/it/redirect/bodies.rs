//! Bodies, both ways: with a length, in chunks, up to the end, or none although the headers look like it.

use std::thread;

use super::{FROM, goes_on};
use crate::harness::scene::Scene;

#[test]
fn answers_to_head_have_none() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("HEAD / HTTP/1.1\r\n{FROM}\r\n"));
    asked.wire.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    scene.workers.keep(asked);
    assert_eq!(proxy.head().get("content-length"), Some("1000"));
    goes_on(&mut scene, &mut proxy);

    proxy.say(format!("HEAD / HTTP/1.1\r\n{FROM}\r\n"));
    let mut asked = scene.workers.asked();
    asked.wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    scene.workers.keep(asked);
    assert_eq!(proxy.head().status(), 200);
    goes_on(&mut scene, &mut proxy);
}

#[test]
fn answers_204_and_304_have_none() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET / HTTP/1.1\r\n{FROM}\r\n"));
    asked.wire.say("HTTP/1.1 204 No Content\r\n\r\n");
    scene.workers.keep(asked);
    let head = proxy.head();
    assert_eq!((head.status(), head.all("transfer-encoding")), (204, vec![]));
    goes_on(&mut scene, &mut proxy);

    proxy.say(format!("GET / HTTP/1.1\r\n{FROM}If-None-Match: \"x\"\r\n\r\n"));
    let mut asked = scene.workers.asked();
    assert_eq!(asked.head.get("if-none-match"), Some("\"x\""));
    asked.wire.say("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 1000\r\n\r\n");
    scene.workers.keep(asked);
    let head = proxy.head();
    assert_eq!((head.status(), head.get("etag")), (304, Some("\"x\"")));
    goes_on(&mut scene, &mut proxy);
}

#[test]
fn in_chunks_with_trailers_both_ways() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!(
        "POST / HTTP/1.1\r\n{FROM}TE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
         4\r\nWiki\r\n5;name=value\r\npedia\r\n0\r\nX-Sum: 9\r\n\r\n"
    ));
    assert_eq!(asked.head.get("transfer-encoding"), Some("chunked"));
    assert_eq!(asked.head.get("content-length"), None);
    assert_eq!(asked.head.get("trailer"), Some("X-Sum"));
    let (body, trailers) = asked.wire.chunks();
    assert_eq!(body, "Wikipedia");
    // hyper writes the names of trailers in small letters, and only of those that `Trailer` announced.
    assert_eq!(trailers, ["x-sum: 9"]);

    asked.wire.say(
        "HTTP/1.1 200 OK\r\nTrailer: X-Done\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nX-Done: 1\r\n\r\n",
    );
    scene.workers.keep(asked);
    let head = proxy.head();
    assert_eq!(head.get("transfer-encoding"), Some("chunked"));
    assert_eq!(proxy.chunks(), ("yes".to_owned(), vec!["x-done: 1".to_owned()]));
    goes_on(&mut scene, &mut proxy);
}

#[test]
fn pieces_pass_as_they_come() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) =
        scene.ask(format!("POST / HTTP/1.1\r\n{FROM}Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n"));
    assert_eq!(asked.wire.chunk(), "one");
    asked.wire.silent();
    proxy.say("3\r\ntwo\r\n");
    assert_eq!(asked.wire.chunk(), "two");
    proxy.say("0\r\n\r\n");
    assert_eq!(asked.wire.chunks().0, "");

    // Server-sent events: each is there before the next one is sent.
    asked
        .wire
        .say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(proxy.head().get("content-type"), Some("text/event-stream"));
    for event in ["data: a\n\n", "data: b\n\n", "data: c\n\n"] {
        asked.wire.say(format!("{:x}\r\n{event}\r\n", event.len()));
        assert_eq!(proxy.chunk(), event);
        proxy.silent();
    }
}

#[test]
fn up_to_the_end_of_the_workers_connection() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET / HTTP/1.1\r\n{FROM}\r\n"));
    asked.wire.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: a\n\n");
    let head = proxy.head();
    // In chunks the proxy can tell the end from a broken connection; without, the connection has to end as well.
    let chunked = head.get("transfer-encoding") == Some("chunked");
    if chunked {
        assert_eq!(proxy.chunk(), "data: a\n\n");
        asked.wire.say("data: b\n\n");
        drop(asked);
        assert_eq!(proxy.chunks().0, "data: b\n\n");
    } else {
        assert_eq!(proxy.text(9), "data: a\n\n");
        asked.wire.say("data: b\n\n");
        drop(asked);
        assert_eq!(proxy.rest(), "data: b\n\n");
    }
}

#[test]
fn large_ones_arrive_whole() {
    const SIZE: usize = 8 << 20;
    let mut scene = Scene::new(&[]);
    let body: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
    let (mut proxy, mut asked) =
        scene.ask(format!("POST / HTTP/1.1\r\n{FROM}Content-Length: {SIZE}\r\n\r\n"));
    assert_eq!(asked.head.get("content-length"), Some(SIZE.to_string().as_str()));
    thread::scope(|scope| {
        scope.spawn(|| proxy.say(&body));
        assert!(asked.wire.try_bytes(SIZE).expect("all of it") == body, "the body changed on its way up");
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            asked.wire.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            asked.wire.say(&body);
        });
        assert!(proxy.try_response().expect("all of it").1 == body, "the body changed on its way down");
    });
}

#[test]
fn an_answer_may_come_before_the_end_of_the_request() {
    let mut scene = Scene::new(&[]);
    let rest = format!("GET /smuggled HTTP/1.1\r\n{FROM}\r\n").repeat(1000);
    let length = 4 + rest.len();
    let (mut proxy, mut asked) =
        scene.ask(format!("POST / HTTP/1.1\r\n{FROM}Content-Length: {length}\r\n\r\nsome"));
    assert_eq!(asked.wire.text(4), "some");
    asked.wire.say("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
    let (head, body) = proxy.response();
    assert_eq!((head.status(), body.as_str()), (413, "big"));
    drop(asked);
    // What follows is still the body, and goes nowhere: either it is read to its end or the connection ends.
    let next = format!("GET /next HTTP/1.1\r\n{FROM}\r\n");
    if proxy.try_say(rest).and_then(|()| proxy.try_say(next)).is_ok() && !proxy.ended() {
        assert_eq!(scene.workers.asked().head.first, "GET /next HTTP/1.1");
    } else {
        scene.workers.idle();
    }
}

#[test]
fn one_that_ends_early_never_reaches_the_worker_as_complete() {
    let mut scene = Scene::new(&[]);
    let (proxy, mut asked) =
        scene.ask(format!("POST / HTTP/1.1\r\n{FROM}Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n"));
    assert_eq!(asked.wire.chunk(), "one");
    drop(proxy);
    asked.wire.closed();
}

#[test]
fn an_answer_that_breaks_off_is_seen_to_break_off() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!("GET / HTTP/1.1\r\n{FROM}\r\n"));
    asked.wire.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ");
    assert_eq!((proxy.head().status(), proxy.text(5).as_str()), (200, "half "));
    drop(asked);
    proxy.closed();

    let (mut proxy, mut asked) = scene.ask(format!("GET / HTTP/1.1\r\n{FROM}\r\n"));
    asked.wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    assert_eq!((proxy.head().status(), proxy.chunk().as_str()), (200, "half"));
    drop(asked);
    proxy.closed();
}

#[test]
fn an_early_answer_is_not_lost_while_the_request_still_comes() {
    const SIZE: usize = 32 << 20;
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) =
        scene.ask(format!("POST / HTTP/1.1\r\n{FROM}Content-Length: {SIZE}\r\n\r\nsome"));
    assert_eq!(asked.wire.text(4), "some");
    asked.wire.say("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
    drop(asked);
    // Like a proxy that writes as long as it can, and only then looks for an answer.
    let _ = proxy.try_say(vec![b'x'; SIZE - 4]);
    let (head, body) = proxy.response();
    assert_eq!((head.status(), body.as_str()), (413, "big"));
}

#[test]
fn a_proxy_that_leaves_is_noticed_by_the_worker() {
    let mut scene = Scene::new(&[]);
    let (proxy, mut asked) = scene.ask(format!("GET /thinking HTTP/1.1\r\n{FROM}\r\n"));
    drop(proxy);
    asked.wire.closed();

    let (mut proxy, mut asked) = scene.ask(format!("GET /events HTTP/1.1\r\n{FROM}\r\n"));
    asked.wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    assert_eq!((proxy.head().status(), proxy.chunk().as_str()), (200, "a"));
    drop(proxy);
    asked.wire.closed();
}
