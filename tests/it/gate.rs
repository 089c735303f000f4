//! The gate: connections of trusted proxies that the kernel itself sends to the worker of the client in their request.

mod closed;
mod faults;
mod heads;
mod odd;
mod rates;
mod wire;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

use rustix::net::sockopt::socket_cookie;
use serde_json::Value;
use sticky_ebpf::abi::{Config, Outcome, Slot, Table};
use sticky_ebpf::client::Client;
use sticky_ebpf::hash::hash;
use sticky_ebpf::lookup::candidate;

use crate::harness::client::dial;
use crate::harness::process::{Process, outcome, pool};
use crate::harness::recorder::listener;

const WORKERS: usize = 4;

/// Four workers, threads of the test, steered by `sticky attach`. Each tells its slot to whoever says something, and
/// closes. What ends first comes first.
struct Stage {
    sticky: Process,
    listeners: Vec<Arc<TcpListener>>,
    config: Config,
    table: Box<Table>,
}

impl Stage {
    /// In the test's network namespace, with these options, and a gate that is open.
    fn new(options: &[&str]) -> Self {
        let stage = Self::through(&[], options);
        assert_eq!(pool("3000")["gate"]["open"], true, "{:#?}", stage.sticky.lines());
        stage
    }

    /// The same, with `sticky` started by some other command, and whatever gate there is.
    fn through(wrapper: &[&str], options: &[&str]) -> Self {
        let listeners: Vec<_> = (0..WORKERS).map(|_| Arc::new(listener(3000))).collect();
        let words = [wrapper, &[env!("CARGO_BIN_EXE_sticky"), "attach", "3000"], options].concat();
        let sticky = Process::start(Command::new(words[0]).args(&words[1..]));
        sticky.wait_for("is steered: 4 workers");
        let namespace = sticky::kernel::network_namespace().expect("a network namespace");
        let mut pools = sticky::pool::read(|id| id.namespace == namespace).expect("what is pinned");
        let (_, _, pins) = pools.remove(0);
        let config = pins.config().expect("the pool's configuration");
        let table = Box::new(pins.table(&config).expect("the lookup table"));
        for listener in &listeners {
            let cookie = socket_cookie(listener).expect("a socket");
            let slot = (0..WORKERS as Slot).find(|slot| pins.cookie(*slot).expect("a map") == Some(cookie));
            let (listener, slot) = (Arc::clone(listener), slot.expect("a slot"));
            std::thread::spawn(move || work(&listener, slot));
        }
        Self { sticky, listeners, config, table }
    }

    /// The slot of a client's worker.
    fn home(&self, client: Client) -> Slot {
        candidate(&self.table, hash(self.config.seed, self.config.masks.apply(client)), 0)
    }

    /// How often the program decided in which way.
    fn outcomes(&self) -> BTreeMap<&'static str, u64> {
        let pool = pool("3000");
        Outcome::ALL.map(|each| (each.describe().0, outcome(&pool, each.describe().0))).into()
    }

    /// What the redirect counted.
    fn counted(&self, name: &str) -> u64 {
        let pool: Value = pool("3000");
        pool["redirect"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {pool:#?}"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for listener in &self.listeners {
            let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
        }
    }
}

fn work(listener: &TcpListener, slot: Slot) {
    while let Ok((stream, _)) = listener.accept() {
        std::thread::spawn(move || serve(stream, slot));
    }
}

fn serve(mut stream: TcpStream, slot: Slot) -> io::Result<()> {
    let mut chunk = [0; 16 * 1024];
    if stream.read(&mut chunk)? == 0 {
        return Ok(());
    }
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{slot}")?;
    stream.shutdown(Shutdown::Write)?;
    // Closed with bytes unread, it would be reset, and the answer lost.
    while stream.read(&mut chunk)? > 0 {}
    Ok(())
}

/// What comes back to who says this in so many segments: the status, and the slot if it is a worker's answer. An end
/// without an answer is status 0.
fn ask(from: IpAddr, to: SocketAddr, parts: &[&[u8]]) -> io::Result<(u16, Option<Slot>)> {
    let mut stream = dial(from, to)?;
    stream.set_nodelay(true)?;
    let mut whole = Vec::new();
    for part in parts {
        // Who is refused early need not hear the rest.
        if stream.write_all(part).is_err() {
            break;
        }
        whole.extend_from_slice(part);
    }
    if !whole.windows(4).any(|four| four == b"\r\n\r\n") {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let (mut heard, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(answer) = answer(&heard) {
            return Ok(answer);
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Ok((0, None)),
            Ok(length) => heard.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok((0, None)),
            Err(error) => return Err(error),
        }
    }
}

fn answer(heard: &[u8]) -> Option<(u16, Option<Slot>)> {
    let text = std::str::from_utf8(heard).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    if status != 200 {
        return Some((status, None));
    }
    Some((status, Some(body.parse().ok()?)))
}

/// How much a test is to do, where `usual` is enough for every day: `STICKY_TEST_REQUESTS`.
pub(crate) fn amount(usual: usize) -> usize {
    let wanted = std::env::var("STICKY_TEST_REQUESTS").ok();
    wanted.map_or(usual, |number| number.parse().expect("STICKY_TEST_REQUESTS is a number"))
}

/// SYN cookies that came back wrong so far.
fn failed_cookies() -> u64 {
    netstat("SyncookiesFailed")
}

/// A counter of netstat(8), in the test's network namespace.
fn netstat(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").expect("counters");
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.split(' ').position(|each| each == name).expect("the counter");
    values.split(' ').nth(at).expect("as many values").parse().expect("a number")
}

/// A figure for who runs the test with `--nocapture`.
#[expect(clippy::print_stderr, reason = "figures of a test")]
fn tell(what: std::fmt::Arguments<'_>) {
    eprintln!("{what}");
}
