//! The redirect's own connections to workers: the kernel's program knows them by where they come from.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use sticky_ebpf::abi::{Relay, Slot, Source};
use sticky_ebpf::client::Client;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::AbortHandle;

use super::guard::poll_write_parts;
use super::message::{Sending, Upload};
use crate::pool::id::PoolId;
use crate::pool::pins::Pins;
use crate::pool::socket;
use crate::say::Seldom;

/// How long a connection to a worker may wait for its next request.
///
/// Short, since a worker that closes it at the moment when a request is sent has failed that request: gunicorn closes
/// after 2 s, node and uvicorn after 5 s.
const IDLE: Duration = Duration::from_secs(1);

/// How long to wait when this host lacks what a connection needs.
const PAUSE: Duration = Duration::from_millis(20);

/// Connections with equal keys can take each other's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The slot whose worker it leads to.
    pub slot: Slot,
    /// The cookie of the socket in the slot.
    pub cookie: u64,
    /// The address that the worker sees.
    pub shown: Client,
}

/// Why there is no connection to a worker.
pub enum Failure {
    /// The worker is gone.
    Gone,
    /// The worker's queue is full and stays so.
    Slow,
    /// It is not the worker's fault.
    Here(io::Error),
}

/// A connection that waits for a request, what drives it, and since when.
type Idle = (SendRequest<Upload>, AbortHandle, Instant);

/// Makes connections to the workers, and keeps those that can be used again.
pub struct Upstream {
    /// Where the pool can be reached, from the same address.
    to: SocketAddr,
    /// Whether the workers' sockets are of IPv4 alone.
    ipv4: bool,
    timeout: Duration,
    relays: Arc<Mutex<Pins>>,
    idle: RefCell<HashMap<Key, Vec<Idle>>>,
}

impl Upstream {
    /// Connects to the workers of the pool `id`, and tells the kernel through `relays`.
    pub fn new(id: &PoolId, timeout: Duration, relays: Arc<Mutex<Pins>>) -> Self {
        let to = SocketAddr::new(socket::local(id), id.address.port());
        Self { to, ipv4: id.address.is_ipv4(), timeout, relays, idle: RefCell::default() }
    }

    /// Whether workers can be shown this address: a socket of IPv4 has no way to show one of IPv6.
    pub fn can_show(&self, address: Client) -> bool {
        !self.ipv4 || address.is_v4()
    }

    /// A connection that is there already and was used a moment ago.
    pub fn reuse(self: &Rc<Self>, key: Key) -> Option<Line> {
        let mut idle = self.idle.borrow_mut();
        let lines = idle.get_mut(&key)?;
        while let Some((sender, driver, since)) = lines.pop() {
            if sender.is_ready() && since.elapsed() < IDLE {
                return Some(Line::new(sender, driver, key, self));
            }
        }
        None
    }

    /// A new connection, for a worker that sees `shown_port` beside the key's address.
    pub async fn connect(self: &Rc<Self>, key: Key, shown_port: u16) -> Result<Line, Failure> {
        let wire = self.dial(key, shown_port).await?;
        let mut builder = http1::Builder::new();
        builder.preserve_header_case(true);
        let (sender, connection) = builder.handshake(TokioIo::new(wire)).await.map_err(|_| Failure::Gone)?;
        let driver = tokio::task::spawn_local(connection.with_upgrades()).abort_handle();
        Ok(Line::new(sender, driver, key, self))
    }

    /// A bare connection. What lacks here, say a port or a descriptor, may be there a moment later: it is waited for.
    pub async fn dial(&self, key: Key, shown_port: u16) -> Result<Wire, Failure> {
        let begun = Instant::now();
        loop {
            match self.try_dial(key, shown_port).await {
                Err(Failure::Here(error)) if begun.elapsed() < self.timeout => {
                    static TOLD: Seldom = Seldom::new();
                    TOLD.say(format_args!("the redirect cannot connect to a worker: {error}; trying again"));
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn try_dial(&self, key: Key, shown_port: u16) -> Result<Wire, Failure> {
        let socket = if self.to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(Failure::Here)?;
        socket.bind(SocketAddr::new(self.to.ip(), 0)).map_err(Failure::Here)?;
        let from = socket.local_addr().map_err(Failure::Here)?;
        let relay = Relay::new(key.slot, key.shown, shown_port.to_be());
        let registered = Registered::new(&self.relays, from, relay).map_err(Failure::Here)?;
        match tokio::time::timeout(self.timeout, socket.connect(self.to)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                Ok(Wire { _registered: registered, stream })
            }
            Ok(Err(error)) if is_gone(&error) => Err(Failure::Gone),
            Ok(Err(error)) => Err(Failure::Here(error)),
            Err(_) => Err(Failure::Slow),
        }
    }

    /// Closes what has waited for too long.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, lines| {
            lines.retain(|(sender, _, since)| !sender.is_closed() && since.elapsed() < IDLE);
            !lines.is_empty()
        });
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// A connection to a worker, in use by one request. Dropped, it waits for the next one, if it can.
pub struct Line {
    sender: Option<SendRequest<Upload>>,
    driver: AbortHandle,
    sending: Weak<Sending>,
    key: Key,
    upstream: Rc<Upstream>,
}

impl Line {
    fn new(sender: SendRequest<Upload>, driver: AbortHandle, key: Key, upstream: &Rc<Upstream>) -> Self {
        let upstream = Rc::clone(upstream);
        Self { sender: Some(sender), driver, sending: Weak::new(), key, upstream }
    }

    /// Whether the request is not sent to its end.
    pub fn is_sending(&self) -> bool {
        self.sending.strong_count() > 0
    }

    /// Sends a request and returns with the head of its answer. When the request was never sent, the error has it.
    pub async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, Option<Request<Upload>>> {
        let Some(sender) = &mut self.sender else { return Err(Some(request)) };
        self.sending = request.body().sending();
        sender.try_send_request(request).await.map_err(|mut error| error.take_message())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(mut sender) = self.sender.take() else { return };
        if self.is_sending() {
            // Answered before its end, or given up: nobody wants the rest.
            return self.driver.abort();
        }
        let (key, upstream, driver) = (self.key, Rc::clone(&self.upstream), self.driver.clone());
        let keep = move |sender| {
            upstream.idle.borrow_mut().entry(key).or_default().push((sender, driver, Instant::now()));
        };
        if sender.is_ready() {
            keep(sender);
        } else if !sender.is_closed() {
            // The answer has been passed on to its end a moment before the connection notices; or it was given up,
            // and the connection closes.
            tokio::task::spawn_local(async move {
                if sender.ready().await.is_ok() {
                    keep(sender);
                }
            });
        }
    }
}

/// An entry of the kernel's map of our connections, for as long as this lives.
struct Registered {
    relays: Arc<Mutex<Pins>>,
    source: Source,
}

impl Registered {
    fn new(relays: &Arc<Mutex<Pins>>, from: SocketAddr, relay: Relay) -> io::Result<Self> {
        let source = Source::new(from.ip().into(), from.port().to_be());
        let mut pins = relays.lock().unwrap_or_else(PoisonError::into_inner);
        pins.relay(source, relay).map_err(io::Error::other)?;
        Ok(Self { relays: Arc::clone(relays), source })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Only a detached pool has no such entry any more.
        let _ = self.relays.lock().unwrap_or_else(PoisonError::into_inner).unrelay(&self.source);
    }
}

/// A TCP connection to a worker. The kernel forgets it before it closes, and its port can be another's.
pub struct Wire {
    _registered: Registered,
    stream: TcpStream,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_parts(&mut self.stream, cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
