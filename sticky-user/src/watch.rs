//! When to look again: a word from the kernel that some socket began or ceased to listen.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya::programs::RawTracePoint;
use sticky_ebpf::abi::maps;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::kernel;
use crate::say::say;
use crate::sys;

/// How long after an event to look again: it comes just before the socket can be found, or just before it is gone.
const SETTLE: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(100)];
/// How often to look when nothing was said: an event can be lost, and of `sticky trust` the kernel says nothing.
const IDLE: Duration = Duration::from_secs(1);
/// How often to look when there are no events.
const POLL: Duration = Duration::from_millis(500);

/// Tells when the listening sockets, or who is trusted, may have changed.
pub struct Watch {
    events: Option<Events>,
    idle: Duration,
    settling: std::slice::Iter<'static, Duration>,
    next: Instant,
}

struct Events {
    ring: RingBuf<MapData>,
    ready: AsyncFd<OwnedFd>,
    _program: Ebpf,
}

impl Watch {
    /// A watch on TCP listeners; without the right to trace, one that looks twice a second and says so.
    ///
    /// The kernel has no such event for UDP: with `udp` the watch looks twice a second as well.
    pub fn new(udp: bool) -> Self {
        let events = listen_events()
            .inspect_err(|error| {
                say(format_args!("looking for new workers twice a second, since the kernel's events cannot be had ({error:#}; CAP_PERFMON gives them)"));
            })
            .ok();
        let idle = if udp || events.is_none() { POLL } else { IDLE };
        Self { events, idle, settling: [].iter(), next: Instant::now() + idle }
    }

    /// Returns when it is time to look again.
    pub async fn changed(&mut self) {
        let timer = tokio::time::sleep_until(self.next);
        let Some(events) = &mut self.events else {
            timer.await;
            self.next = Instant::now() + self.idle;
            return;
        };
        tokio::select! {
            Ok(mut guard) = events.ready.readable() => {
                while events.ring.next().is_some() {}
                guard.clear_ready();
                self.settling = SETTLE.iter();
            }
            () = timer => {}
        }
        self.next = Instant::now() + self.settling.next().copied().unwrap_or(self.idle);
    }
}

fn listen_events() -> Result<Events> {
    let mut program = kernel::load(&mut kernel::loader(false))?;
    let tracepoint: &mut RawTracePoint =
        program.program_mut("listening").context("the object has no program `listening`")?.try_into()?;
    tracepoint.load()?;
    tracepoint.attach("inet_sock_set_state")?;
    let ring = program.take_map(maps::LISTEN_EVENTS).context("the object has no map for events")?;
    let ring: RingBuf<_> = ring.try_into()?;
    let ready = sys::watch(ring.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    Ok(Events { ring, ready, _program: program })
}
