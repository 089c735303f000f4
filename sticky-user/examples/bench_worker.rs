//! A worker for `cargo xtask bench`: an HTTP/1.1 server with the usual event loop, on a port it shares.
//!
//! Says on standard output when it began to listen (nanoseconds since 1970), then answers every request with its
//! process number, until it is killed.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use anyhow::Result;
use clap::Parser;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

const BACKLOG: u32 = 1024;

/// An HTTP server that shares its port
#[derive(Parser)]
struct Args {
    /// The port
    port: u16,
    /// Listening sockets, each a worker to sticky
    #[arg(long, default_value_t = 1)]
    listeners: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let listeners: Vec<_> = (0..args.listeners).map(|_| listen(args.port)).collect::<io::Result<_>>()?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    writeln!(io::stdout(), "{}", since.as_nanos())?;

    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{:08}", std::process::id());
    let answer: &'static [u8] = answer.leak().as_bytes();
    let mut accepting: JoinSet<_> = listeners.into_iter().map(|listener| accept(listener, answer)).collect();
    accepting.join_next().await.unwrap_or(Ok(Ok(())))??;
    Ok(())
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, answer: &'static [u8]) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, answer));
    }
}

/// Answers until the client closes or asks us to. Its reset, with which it ends a connection, is no error.
async fn serve(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    let mut request = Vec::with_capacity(1024);
    while stream.read_buf(&mut request).await? > 0 {
        if request.ends_with(b"\r\n\r\n") {
            stream.write_all(answer).await?;
            if contains(&request, b"\r\nconnection: close\r\n") {
                break;
            }
            request.clear();
        }
    }
    Ok(())
}

/// Whatever the case: HAProxy writes all names in lower case.
fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}
