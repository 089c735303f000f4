//! Clients: TCP connections from an address of one's choice.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

/// The `n`-th loopback client, from 1.
pub fn loopback(n: usize) -> IpAddr {
    Ipv4Addr::new(127, 1, (n >> 8) as u8, n as u8).into()
}

/// A connection from `from` to `to`.
pub fn dial(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    dial_at(SocketAddr::new(from, 0), to)
}

/// The same from a port of one's choice.
pub fn dial_at(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Many connections from many addresses: leave no TIME_WAIT behind.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    bind(&socket, &from)?;
    let timeout = Some(Duration::from_secs(10));
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, timeout)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, timeout)?;
    connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// The body that `to` answers `GET path` from `from` with.
pub fn get(from: IpAddr, to: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = dial(from, to)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) => Ok(body.trim().to_owned()),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {answer:?}"))),
    }
}

/// All that `to` sends to `from` before it closes.
pub fn hear(from: IpAddr, to: SocketAddr) -> io::Result<String> {
    let mut heard = String::new();
    dial(from, to)?.read_to_string(&mut heard)?;
    Ok(heard.trim().to_owned())
}
