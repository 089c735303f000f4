//! The clients of `cargo xtask bench`: as many requests as they can send, from addresses of their own.
//!
//! Says `ready` on standard output when its lasting connections are open and each has had an answer, begins when
//! standard input ends, and then prints what [`tally::Tally::print`] does.

mod connecting;
mod lasting;
mod pace;
mod request;
mod tally;

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

/// Send requests to 127.0.0.1:PORT
#[derive(Parser)]
struct Args {
    /// How requests share connections
    mode: Mode,
    /// The port
    port: u16,
    /// How long
    seconds: f64,
    /// Requests at a time
    at_a_time: usize,
    /// Clients are at 10.NET.0.1 and the addresses that follow
    net: u8,
    /// How many clients
    clients: usize,
    /// Requests a second over lasting connections, rather than as many as are answered
    #[arg(long)]
    rate: Option<f64>,
    /// Bytes of each request, rather than a short one: what a browser says
    #[arg(long)]
    head: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    /// A connection for each request
    Connect,
    /// The same, by clients drawn from all of those at 10.1.0.1 and the addresses that follow
    Drawn,
    /// Each client has a connection, which stays
    KeepAlive,
    /// As a reverse proxy does it: the clients share as many connections as there are requests at a time
    Forwarded,
    /// As a reverse proxy does it that shares none: a connection from its address for each request
    Closing,
}

impl Args {
    fn address(&self, client: usize) -> Ipv4Addr {
        let net = if self.mode == Mode::Drawn { 1 } else { self.net };
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, net, 0, 1)) + client as u32)
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// A connection from this address; port 0 is any port.
    ///
    /// Closing it resets it, so that neither side keeps its addresses in TIME_WAIT.
    fn connect(&self, from: SocketAddrV4) -> Result<TcpStream> {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        bind(&socket, &from)?;
        connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port)).context("cannot connect")?;
        Ok(TcpStream::from(socket))
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let tally = match args.mode {
        Mode::Connect | Mode::Drawn | Mode::Closing => {
            await_start()?;
            connecting::run(&args)?
        }
        Mode::KeepAlive | Mode::Forwarded => {
            let mut connections = lasting::open(&args)?;
            await_start()?;
            lasting::run(&args, &mut connections)?
        }
    };
    tally.print(&mut io::stdout())?;
    // Now nothing is in flight any more: who reads that line can look at the servers before connections close.
    Ok(())
}

fn await_start() -> Result<()> {
    writeln!(io::stdout(), "ready")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
