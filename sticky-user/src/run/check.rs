//! Asking a new worker whether it is ready: its very socket, before any client is sent there.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, socket_with, sockopt};
use sticky_ebpf::abi::{CHECKED, Config, Relay, Source};

use crate::group::Member;
use crate::pool::{Pool, socket};

/// How long a new worker may take to let a connection in, on the way from this host to itself.
const CONNECT: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What a worker that is ready answers to with success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyHttp {
    /// At this port; the lowest one if there is none.
    pub port: Option<u16>,
    /// The path, from its `/` on.
    pub path: String,
}

impl FromStr for ReadyHttp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let start = text.find('/').ok_or("expected `/PATH` or `PORT/PATH`")?;
        let (port, path) = text.split_at(start);
        let port = match port {
            "" => None,
            port => Some(port.parse().map_err(|_| format!("`{port}` is no port"))?),
        };
        path.parse::<Uri>().map_err(|error| format!("`{path}` is no path: {error}"))?;
        Ok(Self { port, path: path.to_owned() })
    }
}

/// A connection to the socket of `member`, which is in no slot.
///
/// For a moment it has a place in the array behind all slots, where the program sends this one connection as it does
/// those of a redirect.
pub fn dial(pool: &mut Pool, member: &Member) -> Result<TcpStream> {
    let listener = member.fetch()?;
    pool.attach(&listener)?;
    let proxies = pool.pins.config()?.proxies;
    if !proxies.trusting() {
        // The flag without which the program spares itself the look at where a connection comes from.
        pool.pins.amend(|config| Config { proxies: config.proxies.trusting_somebody(), ..config })?;
    }
    let dialled = dial_flagged(pool, &listener);
    let _ = pool.pins.withdraw(CHECKED);
    if !proxies.trusting() && pool.pins.trusted()?.is_empty() {
        pool.pins.amend(|config| Config { proxies, ..config })?;
    }
    dialled
}

fn dial_flagged(pool: &mut Pool, listener: &OwnedFd) -> Result<TcpStream> {
    pool.pins.place(CHECKED, listener.as_raw_fd()).context("the new worker's socket cannot be placed")?;
    let to = SocketAddr::new(socket::local(&pool.id), pool.id.address.port());
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(CONNECT))?;
    bind(&socket, &SocketAddr::new(to.ip(), 0))?;
    let from = SocketAddr::try_from(getsockname(&socket)?)?;
    let source = Source::new(from.ip().into(), from.port().to_be());
    pool.pins.relay(source, Relay::new(CHECKED, from.ip().into(), from.port().to_be()))?;
    let connected = connect(&socket, &to);
    let _ = pool.pins.unrelay(&source);
    connected.context("the new worker lets no connection in")?;
    Ok(TcpStream::from(socket))
}

/// Whether GET `path` over `stream` is answered with success; if not, why.
pub async fn ask(stream: TcpStream, path: String) -> Result<(), String> {
    match tokio::time::timeout(ANSWER, get(stream, &path)).await {
        Ok(Ok(status)) if status.is_success() => Ok(()),
        Ok(Ok(status)) => Err(format!("it answers GET {path} with {status}")),
        Ok(Err(error)) => Err(format!("it does not answer GET {path}: {error:#}")),
        Err(_) => Err(format!("it does not answer GET {path} within {ANSWER:?}")),
    }
}

async fn get(stream: TcpStream, path: &str) -> Result<hyper::StatusCode> {
    stream.set_nonblocking(true)?;
    let host = stream.peer_addr()?.to_string();
    let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", host).header("connection", "close");
    Ok(sender.send_request(request.body(Empty::<Bytes>::new())?).await?.status())
}

#[cfg(test)]
mod tests {
    use super::ReadyHttp;

    #[test]
    fn what_is_asked() {
        let parse = |text: &str| text.parse::<ReadyHttp>().map(|ready| (ready.port, ready.path));
        assert_eq!(parse("/healthz"), Ok((None, "/healthz".into())));
        assert_eq!(parse("8081/ready?deep=1"), Ok((Some(8081), "/ready?deep=1".into())));
        for wrong in ["", "healthz", "x/healthz", "http://a/healthz", "65536/", "/a b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
