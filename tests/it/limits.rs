//! What the redirect takes at most: memory for what it passes on and for who waits, time for who is slow.

mod connections;
mod slow;
mod streams;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::client::dial;
use crate::harness::net::{self, Net};
use crate::harness::process::{Process, pool, sticky};
use crate::harness::recorder::Recorders;

/// A pool which trusts every loopback address. What ends first comes first.
struct Pool {
    sticky: Process,
    _workers: Option<Recorders>,
    _net: Net,
}

impl Pool {
    /// With two workers that answer requests, and these options.
    fn new(options: &[&str]) -> Self {
        let net = net::isolate();
        let workers = Recorders::listen(2, 3000);
        Self { sticky: attach(2, options), _workers: Some(workers), _net: net }
    }

    /// Bytes of memory that sticky uses (`VmRSS`), or used at most (`VmHWM`).
    fn memory(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.sticky.pid());
        let status = std::fs::read_to_string(path).expect("sticky runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("a number of kB");
        kib.parse::<u64>().expect("a number") * 1024
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.sticky.pid())).expect("sticky runs").count()
    }

    /// Proxied connections that are open now.
    fn open(&self) -> u64 {
        pool("3000")["redirect"]["open"].as_u64().expect("a number")
    }
}

fn attach(workers: usize, options: &[&str]) -> Process {
    // As few descriptors as a shell gives: sticky has to ask for more itself.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -S -n 1024; exec \"$0\" attach 3000 --trust 127.0.0.0/8 \"$@\""]);
    let sticky = Process::start(command.arg(sticky().get_program()).args(options));
    sticky.wait_for(&format!("is steered: {workers} workers"));
    sticky
}

/// A connection of a proxy on one of several addresses.
fn proxy(number: usize) -> TcpStream {
    let from = IpAddr::from(Ipv4Addr::new(127, 0, 1, 1 + (number % 16) as u8));
    dial(from, SocketAddr::from((Ipv4Addr::LOCALHOST, 3000))).expect("a connection")
}

fn ask(stream: &mut TcpStream, client: usize) {
    let (high, low) = (client >> 8 & 0xff, client & 0xff);
    write!(stream, "GET /{client} HTTP/1.1\r\nHost: pool\r\nX-Forwarded-For: 10.1.{high}.{low}\r\n\r\n")
        .expect("sent");
}

/// Reads the answer to [`ask`].
#[track_caller]
fn hear(stream: &mut TcpStream, client: usize) {
    let end = format!("\r\n\r\n/{client}");
    let (mut heard, mut chunk) = (Vec::new(), [0; 512]);
    while !heard.ends_with(end.as_bytes()) {
        let length = stream.read(&mut chunk).expect("an answer");
        assert!(length > 0, "client {client} got {:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&chunk[..length]);
    }
    assert!(heard.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&heard));
}

/// How long the slowest of so many new clients waits for its answer, one after the other.
#[track_caller]
fn slowest(clients: usize) -> Duration {
    let serve = |client| {
        let begin = Instant::now();
        let mut stream = proxy(client);
        ask(&mut stream, client);
        hear(&mut stream, client);
        begin.elapsed()
    };
    (0..clients).map(serve).max().unwrap_or_default()
}

/// A figure for who runs the test with `--nocapture`.
#[expect(clippy::print_stderr, reason = "figures of a test")]
fn tell(what: std::fmt::Arguments<'_>) {
    eprintln!("{what}");
}
