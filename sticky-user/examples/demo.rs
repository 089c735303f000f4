//! A worker that tells who it is and why the client met it. `cargo xtask run` starts four of it.
//!
//! An ordinary HTTP server that knows nothing of its siblings: it opens its port as if it were alone.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, process, thread};

use anyhow::{Context as _, Result, bail};
use sticky::explain::{self, Question};
use sticky::group::Target;

fn main() -> ExitCode {
    let _ = match serve() {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) => writeln!(io::stderr(), "demo: {error:#}"),
    };
    ExitCode::FAILURE
}

fn serve() -> Result<()> {
    let port = env::args().nth(1).map_or(Ok(3000), |port| port.parse());
    let port = port.context("expected a port, as in `demo 3000`")?;
    let listener = listen(port)?;
    writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    for connection in listener.incoming().flatten() {
        thread::spawn(move || answer(connection, port));
    }
    Ok(())
}

/// A listener for IPv4 and IPv6, or for IPv4 alone where the kernel has no IPv6.
fn listen(port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind(("::", port));
    if listener.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
        bail!(
            "port {port} is taken: end who has it (`ss -ltnp` tells), or give this worker another as its argument"
        );
    }
    listener
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .with_context(|| format!("port {port} cannot be opened"))
}

/// Answers one request, whatever it asks for.
fn answer(mut connection: TcpStream, port: u16) -> io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    read_head(&mut connection)?;
    let body = text(connection.peer_addr()?.ip().to_canonical(), port);
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Reads up to the empty line that ends the head, or as much as any head may have.
fn read_head(connection: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while head.len() < 16 * 1024 && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match connection.read(&mut buffer)? {
            0 => break,
            read => head.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(())
}

/// What the client gets to read.
fn text(client: IpAddr, port: u16) -> String {
    let worker = env::var("STICKY_WORKER").unwrap_or_else(|_| "without a number".into());
    let why = why(client, port).unwrap_or_else(|error| format!("not steered: {error:#}\n"));
    format!("worker {worker} (process {})\nyou are {client}\n{why}", process::id())
}

/// As `sticky explain` says it: computed from what is pinned, by the code that the kernel's program was compiled from.
fn why(client: IpAddr, port: u16) -> Result<String> {
    let target: Target = port.to_string().parse().map_err(anyhow::Error::msg)?;
    let question = Question { ip: client, headers: Vec::new() };
    explain::text(&question, &explain::explain(&question, Some(&target))?)
}
