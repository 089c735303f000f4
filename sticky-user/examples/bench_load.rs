//! The clients of `cargo xtask bench`: as many requests as they can send, from addresses of their own.
//!
//! Prints two numbers: answers per second, and how many of them came from another worker than the same address's
//! first answer.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

/// Client ports; servers to be tested listen elsewhere.
const PORTS: std::ops::Range<u32> = 10_000..60_000;

/// Send requests to 127.0.0.1:PORT
#[derive(Parser)]
struct Args {
    /// Whether each request has its own connection
    mode: Mode,
    /// The port
    port: u16,
    /// How long
    seconds: f64,
    /// Connections at a time
    connections: u32,
    /// Clients are at 127.NET.0.1 and the addresses that follow
    net: u8,
    /// How many addresses
    addresses: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// A connection for each request
    Connect,
    /// Each connection stays
    KeepAlive,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(args.seconds);
    let tallies = thread::scope(|scope| {
        let clients: Vec<_> = (0..args.connections)
            .map(|number| {
                let mut client = Client::new(&args, number);
                let args = &args;
                scope.spawn(move || client.run(args.mode, end).map(|()| client))
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("clients do not panic"))
            .collect::<Result<Vec<_>>>()
    })?;
    let answers: u64 = tallies.iter().map(|client| client.answers).sum();
    let moved: u64 = tallies.iter().map(|client| client.moved).sum();
    writeln!(io::stdout(), "{} {moved}", answers as f64 / begin.elapsed().as_secs_f64())?;
    Ok(())
}

/// One connection at a time, from each of some addresses in turn.
struct Client {
    to: SocketAddrV4,
    addresses: Vec<Ipv4Addr>,
    /// The worker that answered each address first.
    workers: Vec<Option<[u8; 8]>>,
    answers: u64,
    moved: u64,
}

impl Client {
    /// The client number `number`: every `args.connections`-th of the addresses is its own.
    fn new(args: &Args, number: u32) -> Self {
        let base = u32::from(Ipv4Addr::new(127, args.net, 0, 1));
        let own = (number..args.addresses.max(number + 1)).step_by(args.connections as usize);
        let addresses: Vec<_> = own.map(|n| Ipv4Addr::from(base + n)).collect();
        let workers = vec![None; addresses.len()];
        Self {
            to: SocketAddrV4::new(Ipv4Addr::LOCALHOST, args.port),
            addresses,
            workers,
            answers: 0,
            moved: 0,
        }
    }

    fn run(&mut self, mode: Mode, end: Instant) -> Result<()> {
        let addresses = self.addresses.len();
        for (port, n) in PORTS.flat_map(|port| (0..addresses).map(move |n| (port as u16, n))) {
            let mut stream = self.connect(n, port).context("cannot connect")?;
            match mode {
                Mode::Connect => {
                    self.ask(&mut stream, n, b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?
                }
                Mode::KeepAlive => {
                    while Instant::now() < end {
                        self.ask(&mut stream, n, b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
                    }
                }
            }
            if Instant::now() >= end {
                break;
            }
        }
        Ok(())
    }

    /// Closing such a connection resets it, so that neither side keeps its addresses in TIME_WAIT.
    fn connect(&self, n: usize, port: u16) -> io::Result<TcpStream> {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        bind(&socket, &SocketAddrV4::new(self.addresses[n], port))?;
        connect(&socket, &self.to)?;
        Ok(TcpStream::from(socket))
    }

    fn ask(&mut self, stream: &mut TcpStream, n: usize, request: &[u8]) -> Result<()> {
        let mut answer = [0; 256];
        stream.write_all(request).context("cannot send")?;
        let length = stream.read(&mut answer).context("no answer")?;
        ensure!(length > 0, "the worker closed the connection");
        let worker = answer[..length].last_chunk().copied();
        self.answers += 1;
        match self.workers[n] {
            None => self.workers[n] = worker,
            first => self.moved += u64::from(first != worker),
        }
        Ok(())
    }
}
