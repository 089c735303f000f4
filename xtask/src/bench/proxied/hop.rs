//! The hops that are compared: each chooses the worker by the client that `X-Forwarded-For` names.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::proxies::{Listen, Program, Role};
use crate::bench::machine::Processors;
use crate::bench::process::{Pool, Process, sticky};
use crate::bench::sandbox::FILES;
use crate::workspace;

/// How long a hop may take to listen.
const LIMIT: Duration = Duration::from_secs(20);

/// What makes a hop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// sticky's redirect.
    Sticky,
    /// A reverse proxy.
    Proxy(Program),
}

/// sticky first, then what it is compared with.
pub const KINDS: [Kind; 3] = [Kind::Sticky, Kind::Proxy(Program::Haproxy), Kind::Proxy(Program::Nginx)];

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sticky => "sticky",
            Self::Proxy(Program::Haproxy) => "HAProxy",
            Self::Proxy(Program::Nginx) => "nginx",
        }
    }
}

/// A hop with workers behind it.
pub struct Hop {
    /// What it is.
    pub kind: Kind,
    /// Where it listens.
    pub port: u16,
    processors: Processors,
    workers: Vec<Pool>,
    process: Process,
}

impl Hop {
    /// Starts `workers` workers, and the hop on `processors`.
    ///
    /// sticky's workers share its port, each of a proxy's has one of its own.
    pub fn start(kind: Kind, port: u16, workers: usize, processors: Processors) -> Result<Self> {
        let pools = match kind {
            Kind::Sticky => vec![Pool::start(port, workers)?],
            Kind::Proxy(_) => {
                (1..=workers).map(|n| Pool::start(port + n as u16, 1)).collect::<Result<_>>()?
            }
        };
        let process = start(kind, port, &pools, processors)?;
        Ok(Self { kind, port, processors, workers: pools, process })
    }

    /// Ends it and starts it once more, so that it has no memory of what was; the workers stay.
    pub fn restart(&mut self) -> Result<()> {
        self.process.end();
        self.process = start(self.kind, self.port, &self.workers, self.processors)?;
        Ok(())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

fn start(kind: Kind, port: u16, workers: &[Pool], processors: Processors) -> Result<Process> {
    let command = match kind {
        Kind::Sticky => {
            let mut command = sticky();
            command.args(["attach", "--trust", "loopback", &port.to_string()]);
            command
        }
        Kind::Proxy(program) => {
            let servers = workers.iter().map(|pool| pool.port).collect();
            let listen = Listen { port, servers, role: Role::Choose };
            program.command(&format!("hop-{port}"), processors.count(), &[listen])?
        }
    };
    let up = match kind {
        Kind::Sticky => redirects,
        Kind::Proxy(_) => listens,
    };
    serve(&mut processors.only(&command), port, up)
}

/// Starts a server, and waits until `port` is `up`.
pub fn serve(command: &mut Command, port: u16, up: impl Fn(u16) -> bool) -> Result<Process> {
    let log = format!("{FILES}/{port}.log");
    let process = Process::start(command.stderr(File::create(&log)?))?;
    let begin = Instant::now();
    while !up(port) {
        if begin.elapsed() > LIMIT {
            let said = fs::read_to_string(log)?;
            bail!("nothing listens on port {port} after {LIMIT:?}: {}", said.trim_end());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(process)
}

/// Whether somebody listens there.
pub fn listens(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Whether the pool's redirect does. Its workers do all the time.
fn redirects(port: u16) -> bool {
    let status = workspace::output(sticky().args(["status", "--json", &port.to_string()]));
    status.is_ok_and(|text| text.split_whitespace().collect::<String>().contains(r#""listening":true"#))
}
