//! One thread of the redirect: takes connections in and serves each to its end.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use rustix::net::sockopt;
use sticky_ebpf::abi::Event;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::choice::Choice;
use super::events::Events;
use super::present::Present;
use super::upstream::Upstream;
use super::{Limits, connection};
use crate::pool::pins::Pins;
use crate::pool::presence::Pace;
use crate::say::Seldom;

/// How often counters are published and idle connections looked through.
const TICK: Duration = Duration::from_millis(250);
/// After this long without a byte the kernel asks whether the proxy is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long to wait when no connection can be accepted, for want of descriptors say.
const PAUSE: Duration = Duration::from_millis(50);

/// Where connections come in.
pub struct Door {
    /// A listening socket.
    pub listener: StdTcpListener,
    /// What a connection counts as, beyond being one.
    pub event: Option<Event>,
}

/// What a thread is started with.
pub struct Plan {
    /// Shared with the other threads: whoever is idle takes the next connection.
    pub doors: Vec<Door>,
    /// Client → slot.
    pub choice: Choice,
    /// Slot → connection to the worker.
    pub upstream: Upstream,
    /// Shared counters.
    pub events: Arc<Events>,
    /// Where they are published.
    pub pins: Arc<Mutex<Pins>>,
    /// What proxies may do.
    pub limits: Limits,
    /// Told to stop.
    pub stop: CancellationToken,
    /// Places for connections, of all threads.
    pub room: Arc<Semaphore>,
}

/// What serving a connection needs.
pub struct Lane {
    /// Client → slot.
    pub choice: Choice,
    /// Slot → connection to the worker.
    pub upstream: Rc<Upstream>,
    /// What is counted.
    pub events: Arc<Events>,
    /// What proxies may do.
    pub limits: Limits,
    /// Told to stop.
    pub stop: CancellationToken,
    /// Whom it is served for.
    pub present: Rc<Present>,
    /// What must have ended before the thread ends.
    pub tasks: TaskTracker,
}

/// A connection's place among those that there may be at a time.
pub struct Place {
    events: Arc<Events>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.events.count(Event::Closed);
    }
}

impl Plan {
    /// Serves what comes in until told to stop, and then what is there.
    pub fn run(self) -> Result<()> {
        let Self { doors, choice, upstream, events, pins, limits, stop, room } = self;
        let (upstream, present, tasks) = (Rc::new(upstream), Rc::default(), TaskTracker::new());
        let lane = Rc::new(Lane { choice, upstream, events, limits, stop, present, tasks });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let ticks = tokio::task::spawn_local(Rc::clone(&lane).tick(Arc::clone(&pins)));
            accept(&lane, doors, room).await?;
            lane.tasks.close();
            let _ = timeout(limits.grace, lane.tasks.wait()).await;
            ticks.abort();
            lane.events.publish(&mut pins.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }
}

impl Lane {
    async fn tick(self: Rc<Self>, pins: Arc<Mutex<Pins>>) {
        let mut pace = Pace::default();
        loop {
            sleep(TICK).await;
            self.upstream.sweep();
            // Of a pool that was detached nothing can be told.
            let _ = self.choice.see(&self.present, &mut pace);
            let _ = self.events.publish(&mut pins.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn serve(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        self.events.count(Event::Connection);
        let place = Place { events: Arc::clone(&self.events), _permit: permit };
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&stream, true);
        let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE);
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let lane = Rc::clone(self);
        self.tasks.spawn_local(async move {
            // What breaks off a connection is told where it happens, if it is worth a word.
            let _ = connection::serve(lane, stream, peer, place).await;
        });
    }
}

/// Takes connections in until told to stop, and those that wait at that moment.
async fn accept(lane: &Rc<Lane>, doors: Vec<Door>, room: Arc<Semaphore>) -> Result<()> {
    let mut listeners = Vec::new();
    for Door { listener, event } in doors {
        listeners.push((TcpListener::from_std(listener)?, event));
    }
    let take = |(accepted, event): (io::Result<_>, Option<Event>), permit| match accepted {
        Ok((stream, peer)) => {
            event.into_iter().for_each(|event| lane.events.count(event));
            lane.serve(stream, peer, permit);
            true
        }
        Err(error) => {
            static TOLD: Seldom = Seldom::new();
            TOLD.say(format_args!("the redirect cannot accept a connection: {error}"));
            false
        }
    };
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&room).acquire_owned() => permit,
            () = lane.stop.cancelled() => break,
        };
        let Ok(permit) = permit else { break };
        tokio::select! {
            next = poll_fn(|cx| poll_next(&listeners, cx)) => if !take(next, permit) {
                sleep(PAUSE).await;
            },
            () = lane.stop.cancelled() => break,
        }
    }
    while let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
        let waiting = poll_fn(|cx| Poll::Ready(poll_next(&listeners, cx))).await;
        let Poll::Ready(next) = waiting else { break };
        if !take(next, permit) {
            break;
        }
    }
    Ok(())
}

type Accepted = io::Result<(TcpStream, SocketAddr)>;

/// The next connection at any of the listeners.
fn poll_next(
    listeners: &[(TcpListener, Option<Event>)],
    cx: &mut Context<'_>,
) -> Poll<(Accepted, Option<Event>)> {
    for (listener, event) in listeners {
        if let Poll::Ready(accepted) = listener.poll_accept(cx) {
            return Poll::Ready((accepted, *event));
        }
    }
    Poll::Pending
}
