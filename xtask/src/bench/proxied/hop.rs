//! The hops that are compared: each chooses the worker by the client that `X-Forwarded-For` names.

use anyhow::Result;

use crate::bench::machine::Processors;
use crate::bench::process::{Pool, Process, sticky};
use crate::bench::proxies::{Listen, Program, Role, listening, serve};
use crate::bench::status;

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
            Self::Proxy(program) => program.name(),
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
        Kind::Proxy(_) => listening,
    };
    serve(&mut processors.only(&command), port, up)
}

/// Whether the pool's redirect listens. Its workers do all the time.
fn redirects(port: u16) -> bool {
    status::of(port).is_ok_and(|pool| pool["redirect"]["listening"] == true)
}
