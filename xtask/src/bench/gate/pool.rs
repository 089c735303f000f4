//! The pools that are compared, and what sticky does for one.

use std::ops::Sub;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::bench::process::{self, Process, sticky};
use crate::bench::proxies::{WORKERS, serve};
use crate::bench::{meter, status};

/// Workers that share a port.
pub struct Pool {
    pub workers: process::Pool,
    sticky: Option<Process>,
}

impl Pool {
    /// Nobody steers them.
    pub fn plain(port: u16) -> Result<Self> {
        Ok(Self { workers: process::Pool::start(port, WORKERS)?, sticky: None })
    }

    /// sticky does, and its gate is open.
    pub fn steered(port: u16) -> Result<Self> {
        let workers = process::Pool::start(port, WORKERS)?;
        let mut attach = sticky();
        attach.args(["attach", "--trust", "loopback", &port.to_string()]);
        let open = |port| status::of(port).is_ok_and(|pool| pool["gate"]["open"] == true);
        let sticky = serve(&mut attach, port, open).context("the gate does not open")?;
        Ok(Self { workers, sticky: Some(sticky) })
    }

    /// Where the workers listen.
    pub fn port(&self) -> u16 {
        self.workers.port
    }

    /// Whether sticky steers them.
    pub fn is_steered(&self) -> bool {
        self.sticky.is_some()
    }

    /// What sticky did so far; nothing where it does not steer.
    pub fn work(&self) -> Result<Work> {
        let Some(sticky) = &self.sticky else { return Ok(Work::default()) };
        let pool = status::of(self.port())?;
        let count = |name| number(&pool["outcomes"][name], name);
        Ok(Work {
            gated: count("gated")?,
            others: count("redirected")? + count("unredirected")? + count("silent")?,
            reaped: number(&pool["gate"]["reaped"], "reaped")?,
            recurred: number(&pool["gate"]["recurred"], "recurred")?,
            all: meter::processor_time(sticky.id())?,
            reaping: meter::threads_time(sticky.id(), "gate")?,
            redirecting: meter::threads_time(sticky.id(), "redirect")?,
        })
    }
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value.as_u64().with_context(|| format!("`sticky status --json` has no number `{name}`"))
}

/// What sticky did.
#[derive(Default)]
pub struct Work {
    /// Connections that the gate decided.
    pub gated: u64,
    /// Connections of the proxy that it did not.
    pub others: u64,
    /// Connections in TIME_WAIT that were ended.
    pub reaped: u64,
    /// Connections from a port of which one was in TIME_WAIT still.
    pub recurred: u64,
    /// The processor time of its process.
    pub all: Duration,
    /// What of that is for ending connections in TIME_WAIT.
    pub reaping: Duration,
    /// What of that the redirect has.
    pub redirecting: Duration,
}

impl Work {
    /// The proxy's connections. One that recurred came to the gate without being decided.
    pub fn connections(&self) -> f64 {
        (self.gated + self.others + self.recurred) as f64
    }

    /// How many of a hundred the gate left to the redirect.
    pub fn left(&self) -> f64 {
        100.0 - self.gated as f64 * 100.0 / self.connections()
    }

    /// Microseconds of `time` for each connection.
    pub fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.connections()
    }
}

impl Sub for Work {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            gated: self.gated - before.gated,
            others: self.others - before.others,
            reaped: self.reaped - before.reaped,
            recurred: self.recurred - before.recurred,
            all: self.all - before.all,
            reaping: self.reaping - before.reaping,
            redirecting: self.redirecting - before.redirecting,
        }
    }
}
