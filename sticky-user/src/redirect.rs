//! The redirect: who the client of a proxy's request is, and on to that client's worker.
//!
//! The kernel sends connections of trusted proxies to one more listening socket of the pool's group, unless the
//! [gate](crate::gate) can tell their client. From there:
//!
//! ```text
//! connection ──▶ guard ──▶ hyper ──▶ request ──▶ choice ──▶ upstream ──▶ the kernel's program ──▶ worker
//!     │            only well-framed    head        client      our own connections,
//!     │            messages go on                  → slot      known by their source port
//!     └▶ proxy_protocol ──▶ choice ──▶ upstream ──▶ tunnel
//! ```
//!
//! Decided anew for each request, as a proxy's connection carries many clients. It runs on threads of its own, one
//! [`lane`] each; they share nothing but the kernel's maps and a few counters.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::sockopt;
use sticky_ebpf::abi::{Event, REDIRECT};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::gate;
use crate::kernel;
use crate::pool::id::PoolId;
use crate::pool::pins::Pins;
use crate::pool::socket;
use crate::say::say;

mod choice;
mod connection;
pub mod events;
mod framing;
mod guard;
mod interim;
mod lane;
mod message;
pub mod peers;
mod present;
mod proxy_protocol;
mod request;
mod tunnel;
mod upstream;

use choice::Choice;
use events::Events;
use lane::{Door, Lane, Plan};
use upstream::Upstream;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// The most threads. The work is the kernel's for the most part, moving bytes.
const MOST_THREADS: usize = 8;

/// What proxies may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most bytes of a request's head.
    pub header_bytes: usize,
    /// The most header fields of a request.
    pub headers: usize,
    /// How long a head, or a PROXY header, may take to arrive.
    pub header_timeout: Duration,
    /// How long a connection may be silent between requests, or within a body.
    pub idle_timeout: Duration,
    /// How long a worker may take to let a connection in.
    pub connect_timeout: Duration,
    /// The most connections of proxies at a time; more wait.
    pub connections: usize,
    /// How long connections may take to end when sticky stops.
    pub grace: Duration,
}

/// A running redirect. Dropped, it lets its connections end by themselves, within the grace period.
pub struct Redirect {
    /// The cookie of its listening socket.
    pub cookie: u64,
    /// What it counts.
    pub events: Arc<Events>,
    pins: Pins,
    /// Its listening socket once more, until it is withdrawn.
    socket: Option<OwnedFd>,
    stop: CancellationToken,
    /// Closed when all threads have ended.
    ended: mpsc::Receiver<()>,
}

impl Redirect {
    /// Opens the redirect of the pool `id`, pinned in `dir`, among the sockets of user `uid`. It takes who comes to the
    /// `gate`, too.
    ///
    /// When it `succeeds` one of another process, what that one's connections need stays. `take_over` makes the pool's
    /// program steer the group of a socket.
    pub fn open(
        id: &PoolId,
        dir: &Path,
        uid: u32,
        gate: Option<&gate::Sockets>,
        limits: Limits,
        succeeds: bool,
        take_over: impl FnOnce(&OwnedFd) -> Result<()>,
    ) -> Result<Self> {
        kernel::raise_descriptors();
        let socket = socket::open(id, uid)?;
        rustix::net::listen(&socket, BACKLOG).with_context(|| {
            format!(
                "the redirect cannot listen on {id} beside the workers (a foreign socket, or another user's?)"
            )
        })?;
        // If the last worker went a moment before, the socket is alone in a new group, which has no program.
        take_over(&socket)?;
        let (alive, ended) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let mut pins = Pins::open(dir)?;
        if !succeeds {
            pins.unrelay_all()?;
            Events::settle(&mut pins)?;
        }
        let events = Arc::new(Events::new());
        // From here on an error stops what was started.
        let mut redirect = Self {
            cookie: sockopt::socket_cookie(&socket)?,
            events: Arc::clone(&events),
            pins,
            socket: None,
            stop: stop.clone(),
            ended,
        };
        let shared = Arc::new(Mutex::new(Pins::open(dir)?));
        let room = Arc::new(Semaphore::new(limits.connections));
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        for number in 0..threads {
            let lane = Plan {
                doors: doors(&socket, gate)?,
                choice: Choice::new(Pins::open(dir)?, Arc::clone(&events)),
                upstream: Upstream::new(id, limits.connect_timeout, Arc::clone(&shared)),
                events: Arc::clone(&events),
                pins: Arc::clone(&shared),
                limits,
                stop: stop.clone(),
                room: Arc::clone(&room),
            };
            let alive = alive.clone();
            thread::Builder::new().name(format!("redirect-{number}")).spawn(move || {
                lane.run()
                    .unwrap_or_else(|error| say(format_args!("a thread of the redirect ended: {error:#}")));
                drop(alive);
            })?;
        }
        redirect
            .pins
            .place(REDIRECT, socket.as_raw_fd())
            .context("the redirect's socket cannot be placed")?;
        redirect.socket = Some(socket);
        Ok(redirect)
    }

    /// Has its socket close before this descriptor, should this process be killed.
    pub fn close_before(&mut self, other: RawFd) -> Result<()> {
        if let Some(socket) = &mut self.socket {
            *socket = fcntl_dupfd_cloexec(&*socket, other + 1)?;
        }
        Ok(())
    }

    fn withdraw(&mut self) -> Result<()> {
        // A successor has its own there.
        if self.pins.cookie(REDIRECT)? == Some(self.cookie) {
            self.pins.withdraw(REDIRECT)?;
        }
        self.socket = None;
        self.stop.cancel();
        Ok(())
    }
}

/// Where connections come in, and what those are counted as that come in beside the redirect's own socket.
fn doors(socket: &OwnedFd, gate: Option<&gate::Sockets>) -> io::Result<Vec<Door>> {
    let mut doors = vec![Door { listener: socket.try_clone()?.into(), event: None }];
    for socket in gate.iter().flat_map(|gate| [&gate.gate, &gate.sink]) {
        doors.push(Door { listener: socket.try_clone()?.into(), event: Some(Event::Recurred) });
    }
    Ok(doors)
}

/// Takes no more connections, and returns when those that are there have ended, or the grace period has.
pub async fn close(mut redirects: Vec<Redirect>) {
    if redirects.is_empty() {
        return;
    }
    say("letting the proxies' connections end");
    for redirect in &mut redirects {
        if let Err(error) = redirect.withdraw() {
            say(format_args!("the redirect cannot be taken out of its pool: {error:#}"));
        }
    }
    for redirect in &mut redirects {
        redirect.ended.recv().await;
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        // A detached pool has no maps any more.
        let _ = self.withdraw();
    }
}
