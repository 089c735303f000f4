//! Requests that two programs could understand differently: refused by the redirect, and nothing of them reaches a
//! worker.
//!
//! In the texts here, lines end with `\r\n` as they are written, `$H` is the two headers that each request has, and
//! `$` in a path is the number that tells a request from all others.

mod bodies;
mod heads;
mod http2;
mod passing;
mod table;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use serde_json::Value;

use crate::harness::client::dial;
use crate::harness::net::{self, Net};
use crate::harness::process::{Process, pool, start_sticky};
use crate::harness::recorder::Recorders;

/// What smugglers want a worker to take for a request of somebody else.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: pool\r\nX-Forwarded-For: 203.0.113.66\r\n\r\n";

/// A steered pool of two recording workers, whose proxy the test is, and a redirect for all that it sends. What ends first comes first.
struct Pool {
    sticky: Process,
    workers: Recorders,
    _net: Net,
}

impl Pool {
    fn new() -> Self {
        let net = net::isolate();
        let workers = Recorders::listen(2, 3000);
        let sticky =
            start_sticky(&["attach", "3000", "--trust", "127.0.0.0/8", "--proxy-connections", "shared"]);
        sticky.wait_for("is steered: 2 workers");
        Self { sticky, workers, _net: net }
    }

    /// A client's request over a new connection gets its own answer.
    #[track_caller]
    fn serves(&self, path: &str) {
        let mut proxy = Proxy::dial();
        proxy.send(written("GET $ HTTP/1.1\r\n$HConnection: close\r\n\r\n", path));
        assert_eq!(proxy.answers(), [(200, path.to_owned())]);
    }

    /// What the redirect counted.
    fn counted(&self, name: &str) -> u64 {
        let pool: Value = pool("3000");
        pool["redirect"][name].as_u64().unwrap_or_else(|| panic!("no count {name} in {pool:#?}"))
    }
}

/// The text with what its signs stand for.
fn written(text: &str, name: &str) -> String {
    text.replace("$H", "Host: pool\r\nX-Forwarded-For: 203.0.113.9\r\n").replace('$', name)
}

/// A connection of the trusted proxy.
struct Proxy(TcpStream);

impl Proxy {
    #[track_caller]
    fn dial() -> Self {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 3000));
        Self(dial(Ipv4Addr::LOCALHOST.into(), to).expect("a connection"))
    }

    /// Whoever is refused early may find the connection closed while it still sends.
    #[track_caller]
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        match self.0.write_all(bytes.as_ref()) {
            Err(error) if [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()) => {}
            sent => sent.expect("sent in time"),
        }
    }

    /// The status and the body of each answer until the other end closes, which it must do.
    #[track_caller]
    fn answers(&mut self) -> Vec<(u16, String)> {
        let (mut heard, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            match self.0.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => heard.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}, after {:?}", String::from_utf8_lossy(&heard)),
            }
        }
        let text = String::from_utf8(heard).expect("text");
        let mut answers = Vec::new();
        let mut rest = &text[..];
        while !rest.is_empty() {
            let (head, after) = rest.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {rest:?}"));
            let status = head.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..3)?.parse().ok());
            let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
            let lower = head.to_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            // What is cut off is told by its length.
            let (body, next) = after.split_at(length.unwrap_or(usize::MAX).min(after.len()));
            answers.push((status, body.to_owned()));
            rest = next;
        }
        answers
    }
}
