//! Connections that begin with a PROXY header (versions 1 and 2): header → client → slot, and then a tunnel.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf as _, BytesMut};
use proxy_header::{Error, ParseConfig, ProxyHeader};
use sticky_ebpf::abi::{Event, ProxyProtocol};
use sticky_ebpf::client::Client;
use sticky_ebpf::proxy_protocol::LONGEST;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::upstream::{Failure, Key, Wire};
use super::{Lane, tunnel};
use crate::say::Seldom;

/// Serves a connection to its end.
pub async fn serve(
    lane: &Lane,
    mut stream: TcpStream,
    proxy: SocketAddr,
    protocol: ProxyProtocol,
) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    let read = timeout(lane.limits.header_timeout, read_header(&mut stream, &mut bytes)).await;
    let (source, length) = match read {
        Ok(Ok(Some(header))) => header,
        // Closed without a byte: a health check.
        Ok(Ok(None)) if bytes.is_empty() => return Ok(()),
        Ok(Ok(None)) | Err(_) => return Err(refuse(lane, proxy)),
        Ok(Err(error)) => return Err(error),
    };
    // LOCAL and UNKNOWN speak for the proxy itself.
    let source = source.filter(|source| !Client::from(source.ip()).is_unspecified()).unwrap_or(proxy);
    let Some(mut worker) = reach(lane, proxy, source).await? else { return Ok(()) };
    if protocol == ProxyProtocol::Strip {
        bytes.advance(length);
    }
    worker.write_all(&bytes).await?;
    drop(bytes);
    let here = lane.present.enter(source.ip().into());
    tunnel::carry(stream, worker).await;
    drop(here);
    Ok(())
}

/// The source address that the header tells, and the header's length; `None` when there is no header.
async fn read_header(
    stream: &mut TcpStream,
    bytes: &mut BytesMut,
) -> io::Result<Option<(Option<SocketAddr>, usize)>> {
    while bytes.len() < LONGEST && stream.read_buf(bytes).await? > 0 {
        match ProxyHeader::parse(bytes, ParseConfig::default()) {
            Ok((header, length)) => {
                return Ok(Some((header.proxied_address().map(|address| address.source), length)));
            }
            Err(Error::BufferTooShort) => {}
            Err(_) => break,
        }
    }
    Ok(None)
}

fn refuse(lane: &Lane, proxy: SocketAddr) -> io::Error {
    static TOLD: Seldom = Seldom::new();
    lane.events.count(Event::Malformed);
    TOLD.say(format_args!(
        "a connection of the proxy {proxy} was refused: it does not begin with a PROXY header (nginx: `proxy_protocol on`; HAProxy: `send-proxy-v2`; or leave `--proxy-protocol` out)"
    ));
    io::ErrorKind::InvalidData.into()
}

/// A connection to the worker of the client at `source`; `None` when there is no worker.
async fn reach(lane: &Lane, proxy: SocketAddr, source: SocketAddr) -> io::Result<Option<Wire>> {
    let config = lane.choice.config().map_err(io::Error::other)?;
    let real = config.proxies.real_client_address() && lane.upstream.can_show(source.ip().into());
    let shown = if real { source } else { proxy };
    let mut tried = Vec::new();
    while let Some((slot, cookie)) = lane.choice.slot(source.ip().into(), &tried).map_err(io::Error::other)? {
        let key = Key { slot, cookie, shown: Client::from(shown.ip()) };
        match lane.upstream.dial(key, shown.port()).await {
            Ok(wire) => {
                lane.events.count(Event::Tunnel);
                return Ok(Some(wire));
            }
            Err(Failure::Gone) => {
                lane.events.count(Event::Retried);
                tried.push(slot);
            }
            Err(Failure::Slow) => break,
            Err(Failure::Here(error)) => return Err(error),
        }
    }
    lane.events.count(Event::Unserved);
    Ok(None)
}
