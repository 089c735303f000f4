//! When to look again: a word from the kernel that some socket began or ceased to listen, or that somebody changed the
//! program of a group.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya::programs::{CgroupAttachMode, CgroupSockopt, RawTracePoint};
use sticky_ebpf::abi::{Observer, Tampering, maps};
use sticky_ebpf::client::Client;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::cgroup::Cgroup;
use crate::group;
use crate::kernel::{self, Need};
use crate::pool::id::{PoolId, Protocol};
use crate::say::say;
use crate::sys;

/// How long after an event to look again: it comes just before the socket can be found, or just before it is gone.
const SETTLE: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(100)];
/// How often to look when nothing was said: an event can be lost or not be had, and of UDP sockets, of `sticky trust` and
/// of the pool's files the kernel says nothing.
const IDLE: Duration = Duration::from_millis(500);

/// Tells when the listening sockets, who is trusted, or a group's program, may have changed.
pub struct Watch {
    events: Option<Events>,
    settling: std::slice::Iter<'static, Duration>,
    next: Instant,
    tampered: Vec<Deed>,
}

/// What others did to the programs of groups, since that was last asked.
pub struct Told(Vec<Deed>);

/// What somebody did to the program of a group.
#[derive(Clone)]
pub struct Deed {
    what: Tampering,
    /// The program's name, while there is a process.
    who: Option<String>,
}

struct Events {
    ring: RingBuf<MapData>,
    ready: AsyncFd<OwnedFd>,
    _program: Ebpf,
}

impl Watch {
    /// A watch on TCP listeners; without the right to trace, one that looks twice a second and says so.
    pub fn start() -> Self {
        let none = |error| {
            say(format_args!(
                "looking for new workers twice a second, since the kernel's events cannot be had ({error:#}; CAP_PERFMON gives them)"
            ));
        };
        let events = match load() {
            Ok(mut program) => {
                hear_of_listeners(&mut program).unwrap_or_else(none);
                hear_of_tampering(&mut program).unwrap_or_else(|error| {
                    say(format_args!("who takes the program off cannot be known ({error:#}); it is attached again twice a second"));
                });
                open(program).map_err(none).ok()
            }
            Err(error) => {
                none(error);
                None
            }
        };
        Self { events, settling: [].iter(), next: Instant::now() + IDLE, tampered: Vec::new() }
    }

    /// Returns when it is time to look again.
    pub async fn changed(&mut self) {
        let timer = tokio::time::sleep_until(self.next);
        let Some(events) = &mut self.events else {
            timer.await;
            self.next = Instant::now() + IDLE;
            return;
        };
        tokio::select! {
            Ok(mut ready) = events.ready.readable() => {
                while let Some(change) = events.ring.next() {
                    self.tampered.extend(Tampering::from_bytes(&change).map(Deed::new));
                }
                ready.clear_ready();
                self.settling = SETTLE.iter();
            }
            () = timer => {}
        }
        self.next = Instant::now() + self.settling.next().copied().unwrap_or(IDLE);
    }

    /// What others did to programs since this was last asked.
    pub fn told(&mut self) -> Told {
        Told(std::mem::take(&mut self.tampered))
    }
}

impl Told {
    /// The first thing that was done to the program of this pool.
    pub fn tampering(&self, pool: &PoolId) -> Option<&Deed> {
        const TCP_LISTEN: u8 = 10;
        self.0.iter().find(|deed| {
            let change = &deed.what;
            change.port == pool.address.port()
                && change.address == Client::from(pool.address.ip())
                // Before it listens, a socket is in a group of its own.
                && (change.state == TCP_LISTEN) == (pool.protocol == Protocol::Tcp)
        })
    }
}

impl Deed {
    /// The name is asked for at once, as the process may be about to end.
    fn new(what: Tampering) -> Self {
        let who = Some(what.pid).filter(|pid| *pid != 0).map(group::name);
        Self { what, who: who.filter(|name| name != "?") }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.what.pid, &self.who) {
            (0, _) => f.write_str("a process that cannot be seen")?,
            (pid, Some(name)) => write!(f, "`{name}` (process {pid})")?,
            (pid, None) => write!(f, "process {pid}, which has ended,")?,
        }
        f.write_str(if self.what.attached == 0 {
            " took the program off the group"
        } else {
            " replaced the program"
        })
    }
}

fn load() -> Result<Ebpf> {
    let observer = observer()?;
    let mut loader = kernel::loader(false);
    loader.override_global(maps::OBSERVER, &observer, true);
    kernel::load(&mut loader)
}

fn open(mut program: Ebpf) -> Result<Events> {
    let ring = program.take_map(maps::CHANGES).context("the object has no map for events")?;
    let ring: RingBuf<_> = ring.try_into()?;
    let ready = sys::watch(ring.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    Ok(Events { ring, ready, _program: program })
}

fn hear_of_listeners(program: &mut Ebpf) -> Result<()> {
    let tracepoint: &mut RawTracePoint =
        program.program_mut("listening").context("the object has no program `listening`")?.try_into()?;
    tracepoint.load()?;
    tracepoint.attach("inet_sock_set_state")?;
    Ok(())
}

/// Has the kernel tell who changes the program of a group, from wherever in the tree of cgroups.
fn hear_of_tampering(program: &mut Ebpf) -> Result<()> {
    kernel::require(&[Need::Watch])?;
    let guard: &mut CgroupSockopt =
        program.program_mut("guard").context("the object has no program `guard`")?.try_into()?;
    guard.load().map_err(kernel::rejected)?;
    let root = Cgroup::root()?;
    let dir = File::open(root.path())?;
    guard
        .attach(dir, CgroupAttachMode::Single)
        .with_context(|| format!("the hook `guard` cannot be attached to `{}`", root.path().display()))?;
    Ok(())
}

/// This process, as the kernel's programs have to know it.
fn observer() -> Result<Observer> {
    /// `PROC_PID_INIT_INO`, <https://elixir.bootlin.com/linux/v6.18/source/include/linux/proc_ns.h>.
    const FIRST: u64 = 0xEFFF_FFFC;
    let file = rustix::fs::stat("/proc/self/ns/pid").context("`/proc/self/ns/pid` cannot be seen")?;
    let (major, minor) = (rustix::fs::major(file.st_dev), rustix::fs::minor(file.st_dev));
    // The kernel's own form of a device number, `MKDEV`.
    let device = u64::from(major) << 20 | u64::from(minor);
    Ok(Observer {
        network: kernel::network_namespace()?,
        pid: u64::from(std::process::id()),
        device,
        inode: file.st_ino,
        first: u64::from(file.st_ino == FIRST),
    })
}
