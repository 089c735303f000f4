//! Connections that say nothing, and more of them than are allowed.

use std::io::{ErrorKind, Read as _};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Pool, ask, hear, proxy, slowest, tell};
use crate::harness::eventually;

const IDLE: usize = 10_000;

/// Lets the test's own process, and sticky if it asks, have so many descriptors.
fn allow_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        let maximum = limit.maximum.map(|maximum| maximum.max(count));
        let more = Rlimit { current: Some(count), maximum };
        setrlimit(Resource::Nofile, more).expect("more descriptors (needs root, or a higher `ulimit -Hn`)");
    }
}

#[test]
fn ten_thousand_idle_connections() {
    allow_descriptors(16 * 1024);
    let pool = Pool::new(&[]);
    // What the first ones bring with them is not theirs alone.
    let mut connections: Vec<_> = (0..100).map(proxy).collect();
    let serve = |connections: &mut [std::net::TcpStream], from: usize| {
        for (number, stream) in connections.iter_mut().enumerate() {
            ask(stream, from + number);
        }
        for (number, stream) in connections.iter_mut().enumerate() {
            hear(stream, from + number);
        }
    };
    serve(&mut connections, 0);
    let (memory, descriptors) = (pool.memory("VmRSS"), pool.descriptors());
    for batch in (100..IDLE).step_by(20) {
        connections.extend((batch..batch + 20).map(proxy));
        serve(&mut connections[batch..], batch);
    }
    let each = (pool.memory("VmRSS") - memory) / (IDLE as u64 - 100);
    eventually("all are open", || (pool.open() == IDLE as u64).then_some(()));
    let slowest = slowest(100);
    tell(format_args!(
        "{each} bytes for each idle connection; among 10,000 the slowest of 100 took {slowest:?}"
    ));
    assert!(each < 20 * 1024, "{each} bytes for each idle connection");
    assert!(slowest < Duration::from_secs(3), "the slowest of 100 clients waited {slowest:?}");

    // They are all still good.
    serve(&mut connections[..100], 0);
    drop(connections);
    eventually("all are closed", || (pool.open() == 0).then_some(()));
    eventually("all descriptors are closed", || (pool.descriptors() <= descriptors).then_some(()));
}

#[test]
fn who_comes_when_all_places_are_taken_waits() {
    let pool = Pool::new(&["--max-connections", "8"]);
    let mut inside: Vec<_> = (0..8).map(proxy).collect();
    for (client, stream) in inside.iter_mut().enumerate() {
        ask(stream, client);
        hear(stream, client);
    }
    let mut outside: Vec<_> = (8..24).map(proxy).collect();
    for (stream, client) in outside.iter_mut().zip(8..) {
        ask(stream, client);
    }
    for stream in &mut outside {
        stream.set_nonblocking(true).expect("a socket");
    }
    // Those inside are served meanwhile.
    for (client, stream) in inside.iter_mut().enumerate() {
        ask(stream, client);
        hear(stream, client);
    }
    assert_eq!(pool.open(), 8);
    for stream in &mut outside {
        let refused = stream.read(&mut [0]).expect_err("nothing yet");
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        stream.set_nonblocking(false).expect("a socket");
    }
    // Each that goes lets one in, in the order in which they came.
    for (mut stream, client) in outside.into_iter().zip(8..) {
        drop(inside.remove(0));
        hear(&mut stream, client);
        inside.push(stream);
    }
}

#[test]
fn few_places_serve_many_clients() {
    let _pool = Pool::new(&["--max-connections", "3"]);
    std::thread::scope(|scope| {
        for thread in 0..16 {
            scope.spawn(move || {
                for client in thread * 16..thread * 16 + 16 {
                    let mut stream = proxy(client);
                    ask(&mut stream, client);
                    hear(&mut stream, client);
                }
            });
        }
    });
}
