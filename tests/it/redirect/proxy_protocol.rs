//! The PROXY header: it alone says who the client is, and all that follows is bytes.

use std::net::Ipv4Addr;

use crate::harness::http::Wire;
use crate::harness::process::{outcome, pool};
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
    crate::harness::eventually("a connection reaches a worker", || workers.taken())
}

#[test]
fn without_it_nothing_goes_on() {
    let mut scene = Scene::new(&["--proxy-protocol", "strip"]);
    for bytes in [
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n",
        "PROXY TCP4 nonsense 127.0.0.1 1 2\r\n",
    ] {
        let mut proxy = Wire::dial(PROXY, POOL);
        proxy.say(bytes);
        proxy.closed();
    }
    scene.sticky.wait_for("PROXY");
    scene.workers.idle();
    // Others do not begin with one, and go to their workers as ever.
    let mut direct = Wire::dial(Ipv4Addr::new(127, 1, 0, 1), POOL);
    direct.say("PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n\r\n");
    assert_eq!(scene.workers.asked().head.first, "PROXY TCP4 203.0.113.7 127.0.0.1 1 2");
}
