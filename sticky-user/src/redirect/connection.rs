//! A proxy's connection: what it speaks, and each of its requests handed on.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sticky_ebpf::client::Client;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::guard::{Exchange, Guard};
use super::lane::{Lane, Place};
use super::{proxy_protocol, request};
use crate::say::Seldom;

/// What a connection of HTTP/2 with prior knowledge begins with: RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a TLS connection begins with: a record of type handshake, RFC 8446 section 5.1.
const TLS_HANDSHAKE: u8 = 22;
/// How long an idle connection is kept when sticky is told to stop: who sends meanwhile is answered, and told to close.
const LAST_CALL: Duration = Duration::from_secs(1);
/// Streams that a connection of HTTP/2 may have at a time.
const STREAMS: u32 = 256;

/// The proxy at the other end of a connection.
pub struct Proxy {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it is one, and not somebody whose header says nothing.
    pub trusted: bool,
    /// What the connection's guard and its requests tell each other.
    pub exchange: Arc<Exchange>,
    /// The client of its first request.
    pub first: Cell<Option<Client>>,
    /// Whether it carried more than one client.
    pub shared: Cell<bool>,
    /// The connection's place, for as long as it lives, also as a tunnel.
    pub _place: Place,
}

/// Serves a connection to its end.
pub async fn serve(lane: Rc<Lane>, stream: TcpStream, address: SocketAddr, place: Place) -> io::Result<()> {
    let config = lane.choice.config().map_err(io::Error::other)?;
    let trusted = lane.choice.is_trusted(address.ip().into()).map_err(io::Error::other)?;
    if let Some(protocol) = config.proxies.protocol().filter(|_| trusted) {
        return proxy_protocol::serve(&lane, stream, address, protocol).await;
    }
    let Some((stream, first)) = sniff(&lane, stream).await? else { return Ok(()) };
    let exchange = Arc::default();
    let proxy = Rc::new(Proxy {
        address,
        trusted,
        exchange,
        first: Cell::new(None),
        shared: Cell::new(false),
        _place: place,
    });
    if first.starts_with(PREFACE) {
        return http2(lane, proxy, stream, first).await.map_err(io::Error::other);
    }
    if first.first() == Some(&TLS_HANDSHAKE) {
        static TOLD: Seldom = Seldom::new();
        TOLD.say(format_args!(
            "the proxy {} sends TLS, in which no header can be read: have it send a PROXY header, and start sticky with `--proxy-protocol pass` or `strip`",
            address.ip()
        ));
    }
    http1(lane, proxy, stream, first).await.map_err(io::Error::other)
}

/// The first bytes of a connection, as many as tell HTTP/2 from the rest; `None` when there are none.
async fn sniff(lane: &Lane, mut stream: TcpStream) -> io::Result<Option<(TcpStream, BytesMut)>> {
    // No buffer for who says nothing.
    tokio::select! {
        ready = timeout(lane.limits.idle_timeout, stream.readable()) => match ready {
            Ok(ready) => ready?,
            Err(_) => return Ok(None),
        },
        () = lane.stop.cancelled() => {
            if timeout(LAST_CALL, stream.readable()).await.is_err() {
                return Ok(None);
            }
        }
    }
    let mut first = BytesMut::with_capacity(2048);
    let all = async {
        while stream.read_buf(&mut first).await? > 0 {
            if first.len() >= PREFACE.len() || !PREFACE.starts_with(&first) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match timeout(lane.limits.header_timeout, all).await {
        Ok(Ok(true)) => Ok(Some((stream, first))),
        Ok(Err(error)) => Err(error),
        Ok(Ok(false)) | Err(_) => Ok(None),
    }
}

async fn http1(lane: Rc<Lane>, proxy: Rc<Proxy>, stream: TcpStream, first: BytesMut) -> hyper::Result<()> {
    let guard = Guard::new(stream, first, lane.limits, Arc::clone(&proxy.exchange), Arc::clone(&lane.events));
    let mut server = http1::Builder::new();
    server.preserve_header_case(true).auto_date_header(false).max_headers(lane.limits.headers);
    server.max_buf_size(lane.limits.header_bytes.max(64 * 1024));
    let requests = service(Rc::clone(&lane), proxy);
    let mut connection = pin!(server.serve_connection(TokioIo::new(guard), requests).with_upgrades());
    tokio::select! {
        done = &mut connection => return done,
        () = lane.stop.cancelled() => {}
    }
    if let Ok(done) = timeout(LAST_CALL, &mut connection).await {
        return done;
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

async fn http2(lane: Rc<Lane>, proxy: Rc<Proxy>, stream: TcpStream, first: BytesMut) -> hyper::Result<()> {
    let (read, write) = stream.into_split();
    let stream = tokio::io::join(Cursor::new(first.freeze()).chain(read), write);
    let mut server = http2::Builder::new(Here);
    server.timer(TokioTimer::new()).auto_date_header(false);
    server.max_concurrent_streams(STREAMS);
    server.max_header_list_size(u32::try_from(lane.limits.header_bytes).unwrap_or(u32::MAX));
    server.keep_alive_interval(lane.limits.idle_timeout).keep_alive_timeout(lane.limits.header_timeout);
    let requests = service(Rc::clone(&lane), proxy);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), requests));
    tokio::select! {
        done = &mut connection => return done,
        () = lane.stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// hyper's service: [`request::forward`].
fn service(
    lane: Rc<Lane>,
    proxy: Rc<Proxy>,
) -> impl hyper::service::Service<
    hyper::Request<hyper::body::Incoming>,
    Response = hyper::Response<super::message::Download>,
    Error = Infallible,
    Future = impl Future<Output = Result<hyper::Response<super::message::Download>, Infallible>> + 'static,
> {
    service_fn(move |asked| {
        let (lane, proxy) = (Rc::clone(&lane), Rc::clone(&proxy));
        async move { Ok(request::forward(&lane, &proxy, asked).await) }
    })
}

/// Runs what a connection of HTTP/2 needs on the thread that it is served by.
#[derive(Clone, Copy)]
struct Here;

impl<F: Future + 'static> Executor<F> for Here {
    fn execute(&self, work: F) {
        tokio::task::spawn_local(async move {
            work.await;
        });
    }
}
