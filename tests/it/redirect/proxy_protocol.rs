//! The PROXY header: it alone says who the client is, and all that follows is bytes.

use std::net::Ipv4Addr;

use crate::harness::eventually;
use crate::harness::http::Wire;
use crate::harness::process::{self, outcome, pool};
use crate::harness::scene::{POOL, PROXY, Scene, Workers};

/// Version 2, as its specification has it: signature, version and command, family, length, addresses, then extensions.
fn version_2(command: u8, client: Ipv4Addr, extensions: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11]);
    header.extend((12 + extensions.len() as u16).to_be_bytes());
    header.extend(client.octets());
    header.extend(PROXY.octets());
    header.extend([0x12, 0x34, 0x0b, 0xb8]);
    header.extend(extensions);
    header
}

/// Which worker the bytes after this header reach.
#[track_caller]
fn met(scene: &mut Scene, header: &[u8]) -> usize {
    let (mut proxy, mut asked) = scene.ask([header, b"any bytes\r\n\r\n"].concat());
    assert_eq!(asked.head.first, "any bytes");
    asked.wire.say("and back");
    assert_eq!(proxy.text(8), "and back");
    asked.worker
}

/// Clients of which each worker has some.
fn clients() -> impl Iterator<Item = Ipv4Addr> {
    (1..=12).map(|n| Ipv4Addr::new(203, 0, 113, n))
}

#[test]
fn both_versions_name_the_client() {
    let mut scene = Scene::new(&["--proxy-protocol", "strip"]);
    let mut used = [0; 2];
    for client in clients() {
        let first = met(&mut scene, format!("PROXY TCP4 {client} 127.0.0.1 4660 3000\r\n").as_bytes());
        assert_eq!(met(&mut scene, &version_2(1, client, b"")), first, "{client}");
        // An extension of a type nobody knows.
        assert_eq!(met(&mut scene, &version_2(1, client, &[0xe0, 0, 2, 1, 2])), first, "{client}");
        let mapped = format!("PROXY TCP6 ::ffff:{client} ::1 4660 3000\r\n");
        assert_eq!(met(&mut scene, mapped.as_bytes()), first, "{client}");
        used[first] += 1;
    }
    assert!(used[0] > 0 && used[1] > 0, "{used:?}");
    let pool = pool("3000");
    assert_eq!((outcome(&pool, "redirected"), outcome(&pool, "relayed")), (48, 48), "{pool:#?}");
}

#[test]
fn without_a_client_it_is_the_peer() {
    let mut scene = Scene::new(&["--proxy-protocol", "strip"]);
    let peer = met(&mut scene, &version_2(1, PROXY, b""));
    // LOCAL has the addresses of nobody, whatever stands there.
    for client in clients() {
        assert_eq!(met(&mut scene, &version_2(0, client, b"")), peer);
        assert_eq!(met(&mut scene, format!("PROXY UNKNOWN {client} ::1 1 2\r\n").as_bytes()), peer);
    }
    assert_eq!(met(&mut scene, b"PROXY UNKNOWN\r\n"), peer);
    // Nobody connects from there.
    assert_eq!(met(&mut scene, &version_2(1, Ipv4Addr::UNSPECIFIED, b"")), peer);
    assert_eq!(met(&mut scene, b"PROXY TCP6 :: ::1 1 2\r\n"), peer);
    assert_eq!(met(&mut scene, b"PROXY TCP6 ::ffff:0.0.0.0 ::1 1 2\r\n"), peer);
}

#[test]
fn it_may_come_in_pieces() {
    let mut scene = Scene::new(&["--proxy-protocol", "pass"]);
    let whole = [version_2(1, Ipv4Addr::new(203, 0, 113, 7), b""), b"\r\n\r\n".to_vec()].concat();
    let mut proxy = scene.proxy();
    for byte in &whole {
        proxy.say([*byte]);
    }
    let (_, mut wire) = taken(&mut scene.workers);
    assert_eq!(wire.try_bytes(whole.len()).expect("all of it"), whole);
    // A tunnel: what one end says last may be answered.
    proxy.finish();
    assert_eq!(wire.rest(), "");
    wire.say("still here");
    drop(wire);
    assert_eq!(proxy.rest(), "still here");
}

/// A worker's end of the next connection, before anything was read from it.
fn taken(workers: &mut Workers) -> (usize, Wire) {
    eventually("a connection reaches a worker", || workers.taken())
}

/// What is no header.
const WRONG: [&str; 2] = [
    "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n",
    "PROXY TCP4 nonsense 127.0.0.1 1 2\r\n",
];

#[track_caller]
fn refused(scene: &mut Scene, bytes: &str) {
    let mut proxy = scene.proxy();
    proxy.say(bytes);
    proxy.closed();
    scene.workers.idle();
}

#[test]
fn without_it_nothing_goes_on() {
    let mut scene = Scene::new(&["--proxy-protocol", "strip"]);
    for bytes in WRONG {
        refused(&mut scene, bytes);
    }
    scene.sticky.wait_for("PROXY");
    // Others do not begin with one, and go to their workers as ever.
    let mut direct = Wire::dial(Ipv4Addr::new(127, 1, 0, 1), POOL);
    direct.say("PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n\r\n");
    assert_eq!(scene.workers.asked().head.first, "PROXY TCP4 203.0.113.7 127.0.0.1 1 2");
}

/// Which worker gets a connection that begins with these segments, all of them as they are. It speaks first, as many do
/// that are no HTTP servers.
#[track_caller]
fn passed(scene: &mut Scene, segments: &[&[u8]]) -> usize {
    let mut proxy = scene.proxy();
    for segment in segments {
        proxy.say(segment);
    }
    let (worker, mut wire) = taken(&mut scene.workers);
    let whole = segments.concat();
    assert_eq!(wire.try_bytes(whole.len()).expect("all of it"), whole);
    wire.say("220 welcome");
    assert_eq!(proxy.text(11), "220 welcome");
    proxy.say("HELO");
    assert_eq!(wire.text(4), "HELO");
    // Who ends first is left in TIME_WAIT. That would be the pool, whose gate gives no cookie to the same port again.
    drop(proxy);
    wire.closed();
    worker
}

/// What the kernel decides by a header, the redirect decides by its halves.
#[test]
fn with_pass_the_kernel_decides() {
    let mut scene = Scene::gated(&["--proxy-protocol", "pass"]);
    let mut headers: Vec<Vec<u8>> = vec![
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.1 ::1 1 2\r\n".to_vec(),
        b"PROXY TCP4 0.0.0.0 127.0.0.1 4660 3000\r\n".to_vec(),
        b"PROXY TCP6 ::ffff:0.0.0.0 ::1 4660 3000\r\n".to_vec(),
        version_2(0, Ipv4Addr::new(203, 0, 113, 1), b""),
        version_2(1, Ipv4Addr::UNSPECIFIED, b""),
    ];
    let peers = headers.len();
    for client in clients() {
        let subnet = client.octets()[3];
        headers.extend([
            format!("PROXY TCP4 {client} 127.0.0.1 4660 3000\r\n").into_bytes(),
            format!("PROXY TCP6 ::ffff:{client} ::1 4660 3000\r\n").into_bytes(),
            version_2(1, client, b""),
            // More than is looked at.
            version_2(1, client, &[&[0xe0, 0x27, 0x10], [0; 10_000].as_slice()].concat()),
            format!("PROXY TCP6 2001:db8:0:{subnet:x}::7 ::1 4660 3000\r\n").into_bytes(),
        ]);
    }
    let peer = passed(&mut scene, &[&version_2(1, PROXY, b"")]);
    let mut used = [0; 2];
    for (n, header) in headers.iter().enumerate() {
        let gated = passed(&mut scene, &[header]);
        let (begin, end) = header.split_at(14);
        assert_eq!(passed(&mut scene, &[begin, end]), gated, "{}", header.escape_ascii());
        assert!(n >= peers || gated == peer, "{}", header.escape_ascii());
        used[gated] += 1;
    }
    assert!(used[0] > 6 && used[1] > 6, "{used:?}");
    let pool = pool("3000");
    let all = headers.len() as u64;
    let redirected = ["redirected", "unfinished", "relayed"].map(|name| outcome(&pool, name));
    assert_eq!((outcome(&pool, "gated"), redirected), (all + 1, [all; 3]), "{pool:#?}");
}

#[test]
fn with_pass_the_redirect_refuses() {
    let mut scene = Scene::gated(&["--proxy-protocol", "pass"]);
    for bytes in WRONG {
        refused(&mut scene, bytes);
    }
    // Odd, and yet a header.
    passed(&mut scene, &[b"PROXY TCP4 203.0.113.7 127.0.0.1 +1 2\r\n"]);
    let pool = pool("3000");
    let counts = ["gated", "redirected", "strange"].map(|name| outcome(&pool, name));
    assert_eq!(counts, [0, 3, 3], "{pool:#?}");
    // The redirect's counters lag a little.
    eventually("both are counted", || (process::pool("3000")["redirect"]["malformed"] == 2).then_some(()));
}
