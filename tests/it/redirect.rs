//! What the redirect makes of HTTP between a trusted proxy and a worker: everything a proxy must, and no more.

mod bodies;
mod interim;
mod persistence;
mod proxy_protocol;
mod tunnels;

use crate::harness::http::Wire;
use crate::harness::scene::Scene;

/// The headers that each request has here.
const FROM: &str = "Host: shop.example\r\nX-Forwarded-For: 203.0.113.7\r\n";

/// The connection goes on: the next request on it is answered.
#[track_caller]
fn goes_on(scene: &mut Scene, proxy: &mut Wire) {
    proxy.say(format!("GET /next HTTP/1.1\r\n{FROM}\r\n"));
    let mut asked = scene.workers.asked();
    assert_eq!(asked.head.first, "GET /next HTTP/1.1");
    asked.wire.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
    assert_eq!(proxy.response().1, "next");
}

#[test]
fn heads_pass_as_they_are_written() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(
        "GET /a%20b?c=%2F&d HTTP/1.1\r\nhOST: shop.example:8443\r\nX-Forwarded-For: 198.51.100.1, 203.0.113.7\r\n\
         X-B: 2\r\nx-a: 1\r\nX-b: 3\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 5.6.7.8\r\nX-Empty:\r\n\
         Cookie: a=b; c=\"d\"\r\n\r\n",
    );
    assert_eq!(asked.head.first, "GET /a%20b?c=%2F&d HTTP/1.1");
    // Nothing is added, and only lines of one name are brought together.
    let expected = [
        ("hOST", "shop.example:8443"),
        ("X-Forwarded-For", "198.51.100.1, 203.0.113.7"),
        ("X-B", "2"),
        ("X-b", "3"),
        ("x-a", "1"),
        ("Forwarded", "for=1.2.3.4"),
        ("X-Real-IP", "5.6.7.8"),
        ("X-Empty", ""),
        ("Cookie", "a=b; c=\"d\""),
    ];
    assert_eq!(asked.head.lines(), expected);

    asked.wire.say(
        "HTTP/1.1 299 Quite Fine\r\nsErVeR: mine\r\nSet-Cookie: a=1\r\nX-Z: 1\r\nset-cookie: b=2\r\n\
         Content-Length: 2\r\n\r\nok",
    );
    let (head, body) = proxy.response();
    assert_eq!((head.first.as_str(), body.as_str()), ("HTTP/1.1 299 Quite Fine", "ok"));
    let expected = [
        ("sErVeR", "mine"),
        ("Set-Cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("X-Z", "1"),
        ("Content-Length", "2"),
    ];
    assert_eq!(head.lines(), expected);
}

#[test]
fn headers_of_one_hop_stay_there() {
    let mut scene = Scene::new(&[]);
    let (mut proxy, mut asked) = scene.ask(format!(
        "GET / HTTP/1.1\r\n{FROM}Connection: keep-alive, X-Mine, X-Forwarded-For, Host\r\nX-Mine: 1\r\nX-Yours: 2\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers, deflate\r\n\r\n"
    ));
    for name in ["x-mine", "keep-alive", "proxy-connection"] {
        assert_eq!(asked.head.all(name), [""; 0], "{:?}", asked.head);
    }
    assert_eq!(asked.head.get("te"), Some("trailers"));
    assert_eq!(asked.head.get("x-yours"), Some("2"));
    // What says who the client is cannot be taken away by whoever writes `Connection`.
    assert_eq!(asked.head.get("x-forwarded-for"), Some("203.0.113.7"));
    assert_eq!(asked.head.get("host"), Some("shop.example"));

    asked.wire.say(
        "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\nKeep-Alive: timeout=5\r\n\
         Content-Length: 0\r\n\r\n",
    );
    let (head, _) = proxy.response();
    assert_eq!((head.all("x-hop"), head.all("keep-alive")), (vec![], vec![]), "{head:?}");
    assert_eq!(head.get("x-end"), Some("2"));
    scene.workers.keep(asked);
}

#[test]
fn a_client_directly_is_not_redirected() {
    let mut scene = Scene::new(&[]);
    let mut direct = Wire::dial(crate::harness::client::loopback(1), "127.0.0.1:3000");
    direct.say("no HTTP at all\r\n\r\n");
    let asked = scene.workers.asked();
    assert_eq!(asked.head.first, "no HTTP at all");
}
