//! A stage for one proxied exchange: sticky in the middle, a trusted peer at one end, the test as the workers at the
//! other.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::eventually;
use super::http::{Head, Wire};
use super::net::{self, Net};
use super::process::{Process, start_sticky};

/// The pool's address, as clients dial it.
pub const POOL: &str = "127.0.0.1:3000";
/// The peer that is trusted.
pub const PROXY: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Two workers, which are the test itself, steered by `sticky attach`, with a redirect for all that the proxy sends. What ends first comes first.
pub struct Scene {
    pub sticky: Process,
    pub workers: Workers,
    _net: Net,
}

/// The listening sockets of the workers, and the connections on which a request may come.
pub struct Workers {
    listeners: Vec<Option<TcpListener>>,
    open: Vec<(usize, Wire)>,
}

/// A request at a worker: its head is read, the rest is to come.
pub struct Asked {
    pub worker: usize,
    pub head: Head,
    pub wire: Wire,
}

impl Scene {
    /// Sets it up, with these options besides the trust in the proxy.
    pub fn new(options: &[&str]) -> Self {
        Self::start(&[&["--proxy-connections", "shared"], options].concat())
    }

    /// The same, with a gate before the redirect.
    pub fn gated(options: &[&str]) -> Self {
        Self::start(options)
    }

    fn start(options: &[&str]) -> Self {
        let net = net::isolate();
        let workers = Workers::new(2);
        let sticky = start_sticky(&[&["attach", "3000", "--trust", "127.0.0.1/32"], options].concat());
        sticky.wait_for("[::]:3000 trusts ");
        sticky.wait_for("is steered: 2 workers");
        Self { sticky, workers, _net: net }
    }

    /// A new connection of the proxy.
    #[track_caller]
    pub fn proxy(&self) -> Wire {
        Wire::dial(PROXY, POOL)
    }

    /// The proxy says this over a connection of its own, and a worker hears it.
    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> (Wire, Asked) {
        let mut proxy = self.proxy();
        proxy.say(request);
        (proxy, self.workers.asked())
    }
}

impl Workers {
    fn new(count: usize) -> Self {
        Self { listeners: (0..count).map(|_| Some(listener())).collect(), open: Vec::new() }
    }

    /// Waits for the next request at any worker, over a new connection or one that was kept.
    #[track_caller]
    pub fn asked(&mut self) -> Asked {
        eventually("a request reaches a worker", || {
            self.accept();
            let ready = self.open.iter().position(|(_, wire)| wire.has_news())?;
            let (worker, mut wire) = self.open.remove(ready);
            match wire.try_head() {
                Ok(head) => Some(Asked { worker, head, wire }),
                // A pooled connection that was given up.
                Err(_) => None,
            }
        })
    }

    /// A connection that has come, whatever it says.
    pub fn taken(&mut self) -> Option<(usize, Wire)> {
        self.accept();
        self.open.pop()
    }

    /// Gives a worker's end back, for later requests.
    pub fn keep(&mut self, asked: Asked) {
        self.open.push((asked.worker, asked.wire));
    }

    /// Nothing has come to any worker.
    #[track_caller]
    pub fn idle(&mut self) {
        self.accept();
        for (worker, wire) in &self.open {
            assert!(!wire.has_news(), "worker {worker} heard something");
        }
    }

    /// The worker dies: its socket goes, and its connections with it.
    pub fn kill(&mut self, worker: usize) {
        self.listeners[worker] = None;
        self.open.retain(|(other, _)| *other != worker);
    }

    fn accept(&mut self) {
        for (worker, listener) in self.listeners.iter().enumerate() {
            while let Some(Ok((stream, _))) = listener.as_ref().map(TcpListener::accept) {
                let timeout = Some(Duration::from_secs(10));
                stream.set_nonblocking(false).expect("a socket");
                stream.set_read_timeout(timeout).expect("a socket");
                stream.set_write_timeout(timeout).expect("a socket");
                stream.set_nodelay(true).expect("a socket");
                self.open.push((worker, Wire::new(stream)));
            }
        }
    }
}

/// A socket on all addresses' port 3000 that does not block.
fn listener() -> TcpListener {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None).expect("a socket");
    sockopt::set_socket_reuseport(&socket, true).expect("SO_REUSEPORT");
    sockopt::set_ipv6_v6only(&socket, false).expect("both families");
    let any: std::net::SocketAddr = "[::]:3000".parse().expect("an address");
    bind(&socket, &any).expect("port 3000 is free");
    listen(&socket, 128).expect("it listens");
    socket.into()
}
