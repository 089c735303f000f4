//! Clients that take their time, on purpose.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Pool, ask, attach, proxy, slowest, tell};
use crate::harness::recorder::listener;
use crate::harness::{eventually, net};

/// How long a head may take here.
const LIMIT: Duration = Duration::from_secs(1);

/// A connection whose head never ends.
struct Slow {
    stream: TcpStream,
    begun: Instant,
    heard: Vec<u8>,
    /// When the other end closed it.
    ended: Option<Duration>,
}

impl Slow {
    fn begin(number: usize) -> Self {
        let mut stream = proxy(number);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: pool\r\nX-Slow: ").expect("sent");
        stream.set_nonblocking(true).expect("a socket");
        Self { stream, begun: Instant::now(), heard: Vec::new(), ended: None }
    }

    /// One byte more, and what is the answer to that?
    fn go_on(&mut self) {
        let mut chunk = [0; 512];
        let _ = self.stream.write(b"x");
        match self.stream.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => self.ended = Some(self.begun.elapsed()),
            Ok(length) => self.heard.extend_from_slice(&chunk[..length]),
        }
    }
}

#[test]
fn a_thousand_slow_heads_are_ended_in_time() {
    let pool = Pool::new(&["--header-timeout", "1s"]);
    let over = AtomicBool::new(false);
    let (attack, served) = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut served = Vec::new();
            while !over.load(Ordering::Relaxed) {
                served.push(slowest(1));
            }
            served
        });
        let mut attack: Vec<_> = (0..1000).map(Slow::begin).collect();
        let begin = Instant::now();
        while attack.iter().any(|slow| slow.ended.is_none()) && begin.elapsed() < 10 * LIMIT {
            for slow in attack.iter_mut().filter(|slow| slow.ended.is_none()) {
                slow.go_on();
            }
            // A byte now and then.
            std::thread::park_timeout(LIMIT / 20);
        }
        over.store(true, Ordering::Relaxed);
        (attack, others.join().expect("all are served"))
    });
    let told = attack.iter().filter(|slow| slow.heard.starts_with(b"HTTP/1.1 408 ")).count();
    let last = attack.iter().map(|slow| slow.ended.expect("ended in ten times the time")).max();
    let first = attack.iter().filter_map(|slow| slow.ended).min();
    let worst = served.iter().max().copied().unwrap_or_default();
    tell(format_args!(
        "1,000 slow heads ended after {first:?} to {last:?}, {told} with 408; {} others served, in {worst:?} at most",
        served.len()
    ));
    assert!(attack.iter().all(|slow| slow.heard.is_empty() || slow.heard.starts_with(b"HTTP/1.1 408 ")));
    assert!(told >= 900, "only {told} of 1,000 were told why");
    assert!(first >= Some(LIMIT), "one ended after {first:?}");
    assert!(last < Some(8 * LIMIT), "one ended after {last:?}");
    assert!(served.len() >= 5 && worst < 5 * LIMIT, "{} were served, in {worst:?}", served.len());
    eventually("all are gone", || (pool.open() == 0).then_some(()));
}

#[test]
fn a_worker_that_lets_nobody_in_is_given_up() {
    let _net = net::isolate();
    let worker = listener(3000);
    // Its queue has room for one, who is there already and is never let in.
    rustix::net::listen(&worker, 0).expect("it listens");
    let _inside = proxy(0);
    let _sticky = attach(1, &["--connect-timeout", "1s"]);
    let begun = Instant::now();
    let mut stream = proxy(1);
    ask(&mut stream, 1);
    let mut status = [0; 12];
    stream.read_exact(&mut status).expect("an answer");
    assert_eq!(status.escape_ascii().to_string(), "HTTP/1.1 504");
    assert!(begun.elapsed() >= LIMIT && begun.elapsed() < 5 * LIMIT, "after {:?}", begun.elapsed());
}
