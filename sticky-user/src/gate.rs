//! The gate: two more listening sockets in the group, that make the kernel wait for a proxy's first request.
//!
//! ```text
//! SYN ───────────▶ gate   its queue is full, so the kernel answers with a SYN cookie and forgets it
//! ACK ───────────▶ sink   its filter drops it, as if it were lost on its way
//! first request ─▶ the client's worker, whose socket takes the cookie and the connection, request and all
//! ```
//!
//! What keeps the queue full are the [`cork`]s. A SYN gets no cookie where a connection of the same addresses and ports
//! is in TIME_WAIT: it waits for its request at the gate, and the redirect takes it from there. [`reap`] keeps that rare.

use std::fs;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{listen, sockopt};
use rustix::process::setpriority_process;
use sticky_ebpf::abi::{self, Config, GATE, Outcome, SINK};

use crate::pool::id::PoolId;
use crate::pool::pins::Pins;
use crate::pool::socket;
use crate::say::Seldom;
use crate::sys;

mod cork;
mod pace;
mod reap;

use cork::Corks;
use pace::{IDLE, Pace};
pub use reap::Reaper;

/// How many connections without a cookie may wait to be taken from the gate. As many requests, and one more, have to be
/// in its other queue for that to be full.
const BACKLOG: i32 = 15;
/// Connections that may wait at the sink, where none comes while the program steers.
const SINK_BACKLOG: i32 = 128;
/// How nice the keeper is, where that is permitted: the later it comes, the more is redirected.
const NICE: i32 = -10;
/// How often is looked whether the corks are there.
const CHECK: Duration = Duration::from_secs(5);

/// The gate's sockets: they listen, and nobody is sent there yet.
pub struct Sockets {
    /// Where SYNs go.
    pub gate: OwnedFd,
    /// Where ACKs go.
    pub sink: OwnedFd,
}

impl Sockets {
    /// Opens them in the pool's group, among the sockets of user `uid`. `filter` is the program `sink`.
    ///
    /// Should the program be taken off the group, the kernel sends anybody here too, and the redirect serves them.
    pub fn open(id: &PoolId, uid: u32, filter: impl AsFd) -> Result<Self> {
        let (gate, sink) = (socket::open(id, uid)?, socket::open(id, uid)?);
        sys::set_tcp_defer_accept(&gate, i32::MAX)?;
        sys::attach_filter(&sink, filter).context("the sink's filter cannot be attached")?;
        listen(&gate, BACKLOG)?;
        listen(&sink, SINK_BACKLOG)?;
        Ok(Self { gate, sink })
    }
}

/// Whether the kernel answers with SYN cookies when a queue is full: `net.ipv4.tcp_syncookies`, for IPv6 too.
pub fn has_cookies() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies").is_ok_and(|value| value.trim() != "0")
}

/// An open gate. Dropped, it closes: the program sends nobody there any more.
///
/// Should this process be killed, its sockets must close in the order in which the program is to miss them: see
/// [`Gate::closes_after`].
pub struct Gate {
    pins: Pins,
    /// The sink once more, above the corks.
    sink: OwnedFd,
    /// The cookies of the gate's socket and the sink's.
    cookies: [u64; 2],
    /// Dropped, it ends the keeper.
    stop: Option<Sender<()>>,
    keeper: Option<thread::JoinHandle<()>>,
}

impl Gate {
    /// Opens the gate of the pool `id`, pinned in `dir`, whose program knows trusted proxies already.
    pub fn open(id: &PoolId, dir: &Path, sockets: &Sockets, reaper: Option<Reaper>) -> Result<Self> {
        let mut pins = Pins::open(dir)?;
        pins.place(GATE, sockets.gate.as_raw_fd()).context("the gate's socket cannot be placed")?;
        pins.place(SINK, sockets.sink.as_raw_fd()).context("the sink's socket cannot be placed")?;
        let cookies = [sockopt::socket_cookie(&sockets.gate)?, sockopt::socket_cookie(&sockets.sink)?];
        let (stop, stopped) = channel();
        let sink = sockets.sink.try_clone()?;
        let mut gate = Self { pins, sink, cookies, stop: Some(stop), keeper: None };
        let corks = Corks::fit(id, Pins::open(dir)?, BACKLOG as usize + 1)?;
        gate.sink = fcntl_dupfd_cloexec(&sockets.sink, corks.last() + 1)?;
        let keeper = Keeper { pins: Pins::open(dir)?, corks, reaper, pace: Pace::new() };
        gate.keeper = Some(thread::Builder::new().name("gate".into()).spawn(move || keeper.keep(&stopped))?);
        gate.set(abi::Gate::Open)?;
        Ok(gate)
    }

    /// The descriptor that one of the redirect's socket has to be above.
    ///
    /// Of a dead process the kernel closes the highest descriptor first (`task_work_run`, since Linux 4.3), and of a
    /// connection that a listener completes at the moment when it closes, it makes a reset. So the redirect goes first,
    /// while nobody is sent there for want of the gate; then the sink, without which the program sends nobody to the gate;
    /// then the corks, and an empty gate. The corks must not outlive it: reset after their listener is gone, they would
    /// be taken off the queue of a worker, whose length the kernel then counts wrong.
    pub fn closes_after(&self) -> RawFd {
        self.sink.as_raw_fd()
    }

    /// Whether it is this one that the pool uses, and no other process's.
    pub fn stands(&self) -> bool {
        let found = [GATE, SINK].map(|slot| self.pins.cookie(slot).ok().flatten());
        found == self.cookies.map(Some)
    }

    fn set(&mut self, gate: abi::Gate) -> Result<()> {
        self.pins.amend(|config| Config { proxies: config.proxies.with_gate(gate), ..config })?;
        Ok(())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // First nobody is sent here, then nobody can be. A detached pool has no maps any more, and a successor has its
        // own gate.
        if self.stands() {
            let _ = self.set(abi::Gate::Closed);
            let _ = self.pins.withdraw(SINK).and_then(|()| self.pins.withdraw(GATE));
        }
        self.stop = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// What the gate needs while it is open.
struct Keeper {
    pins: Pins,
    corks: Corks,
    reaper: Option<Reaper>,
    pace: Pace,
}

impl Keeper {
    fn keep(mut self, stopped: &Receiver<()>) {
        static TOLD: Seldom = Seldom::new();
        // On Linux, this thread's alone.
        let _ = setpriority_process(None, NICE);
        let mut checked = Instant::now();
        let mut wait = IDLE;
        while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            wait = self.sweep().unwrap_or_else(|error| {
                TOLD.say(format_args!("connections in TIME_WAIT cannot be ended: {error:#}"));
                IDLE
            });
            if checked.elapsed() >= CHECK {
                checked = Instant::now();
                if let Err(error) = self.corks.renew() {
                    TOLD.say(format_args!(
                        "the gate's cork cannot be renewed, its connections are redirected: {error:#}"
                    ));
                }
            }
        }
    }

    /// Sweeps if it is time; how long to wait until the next look.
    fn sweep(&mut self) -> Result<Duration> {
        let Some(reaper) = &mut self.reaper else { return Ok(IDLE) };
        let seen = [Outcome::Gated, Outcome::Redirected, Outcome::Silent];
        let seen = seen.into_iter().map(|outcome| self.pins.outcome(outcome)).sum::<Result<u64>>()?;
        if self.pace.due(seen, reaper.recurred(), Instant::now()) {
            reaper.reap(&self.pins)?;
        }
        Ok(self.pace.wait())
    }
}
