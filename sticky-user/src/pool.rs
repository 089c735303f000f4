//! A pool: a reuseport group, the program that steers it, and its pinned state.
//!
//! [`Pool`] is the one writer, which holds the pool's lock; [`pins::Pins`] alone reads what is there.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::MapError;
use aya::programs::SkReuseport;
use aya::programs::links::PinnedLink;
use ipnet::IpNet;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sticky_ebpf::abi::{Config, MAX_SLOTS, Place, Proxies, Slot, Standing, VERSION, maps};
use sticky_ebpf::client::Masks;
use sticky_ebpf::hash::Seed;

use crate::clock;
use crate::group::Target;
use crate::inherit;
use crate::kernel;
use crate::redirect;
use crate::refusal::Refusal;

mod counting;
mod doors;
mod guard;
pub mod id;
pub mod pins;
pub mod presence;
pub mod slots;
pub mod socket;
mod state;
mod trace;
pub mod view;

use doors::Doors;
use guard::Guard;
use id::PoolId;
use pins::Pins;
use presence::Pace;
use state::State;

/// The name under which the program is pinned.
const PIN: &str = "steer";

/// How a pool is to be steered, as far as the user said so; the rest stays as it is, or as the defaults have it.
#[derive(Clone, Debug)]
pub struct Steering {
    /// Bits of an IPv4 address that tell clients apart; 32 by default.
    pub ipv4_prefix: Option<u8>,
    /// Bits of an IPv6 address that tell clients apart; 64 by default.
    pub ipv6_prefix: Option<u8>,
    /// The key of the hash; random by default.
    pub seed: Option<Seed>,
    /// Whether the program logs each decision, for this process to print. Needs a tokio runtime.
    pub trace: bool,
    /// `TCP_DEFER_ACCEPT` on the pool's listeners.
    pub defer_accept: bool,
    /// How long clients are remembered after they were last seen; an hour by default.
    pub remember: Option<Duration>,
    /// How many clients are remembered; [`KNOWN`](sticky_ebpf::abi::KNOWN) by default.
    pub remember_clients: Option<u32>,
    /// How new clients are placed; by the hash alone by default.
    pub place: Option<Place>,
    /// Which proxies are trusted, and with what; nobody by default.
    pub trust: Option<Trust>,
    /// Whether connections of proxies in TIME_WAIT are left alone.
    pub keep_time_wait: bool,
    /// What proxies may do.
    pub limits: redirect::Limits,
}

/// Trusted proxies, and how they name the client.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Where they are.
    pub prefixes: Vec<IpNet>,
    /// How they name the client.
    pub proxies: Proxies,
}

impl Steering {
    fn amend(&self, config: &Config) -> Config {
        let (ipv4, ipv6) = config.masks.prefixes();
        let masks = Masks::new(self.ipv4_prefix.unwrap_or(ipv4), self.ipv6_prefix.unwrap_or(ipv6));
        let proxies = match &self.trust {
            Some(trust) if config.proxies.trusting() => trust.proxies.trusting_somebody(),
            Some(trust) => trust.proxies,
            None => config.proxies,
        };
        let memory = config
            .memory
            .with_remember(self.remember.map_or(config.memory.remember, clock::units))
            .with_place(self.place.unwrap_or(config.memory.place()));
        Config { masks, seed: self.seed.unwrap_or(config.seed), proxies, memory, ..*config }
    }
}

/// A pool that this process may change.
pub struct Pool {
    /// Its name.
    pub id: PoolId,
    /// Its maps.
    pub pins: Pins,
    /// Whether it was there already.
    pub adopted: bool,
    doors: Doors,
    steering: Steering,
    program: Ebpf,
    counting: Option<PinnedLink>,
    guard: Guard,
    presence: Pace,
    dir: PathBuf,
    /// Whether the process before this one is still there, with connections of its own.
    succeeds: bool,
    lock: OwnedFd,
}

impl Pool {
    /// Creates the pool, or adopts what is pinned, seed and slots unchanged; refused while another process follows it.
    pub fn open(id: PoolId, steering: &Steering) -> Result<Self> {
        if steering.trust.is_some() && id.protocol == id::Protocol::Udp {
            let hint = "leave `--trust` out: a datagram has no header that names another client";
            return Err(Refusal::new(format!("{id} is a UDP pool; it has no trusted proxies"), hint).into());
        }
        if steering.place == Some(Place::Least) && id.protocol == id::Protocol::Udp {
            let hint = "leave `--place least` out";
            return Err(Refusal::new(
                format!("{id} is a UDP pool; a datagram is no connection to count"),
                hint,
            )
            .into());
        }
        kernel::ensure_bpffs()?;
        let dir = kernel::pools_dir().join(id.dir_name());
        fs::create_dir_all(&dir).with_context(|| format!("`{}` cannot be created", dir.display()))?;
        let inherited = inherit::lock(&dir);
        let succeeds = inherited.is_some();
        let lock = inherited.map_or_else(|| lock(&dir, &id), Ok)?;

        let State { mut program, mut pins, counting, adopted } = State::settle(&dir, steering)?;
        steer(&mut program, steering)?.load().map_err(kernel::rejected)?;
        // Who is trusted by now, a successor leaves as it is.
        if let Some(trust) = steering.trust.as_ref().filter(|_| !succeeds) {
            pins.set_trusted(&trust.prefixes)?;
        }
        // Attaching again replaces the program of an earlier sticky; so does its pin.
        pin(&dir, &mut program, steering)?;
        if steering.trace {
            trace::print(&mut program)?;
        }
        let doors = if succeeds { Doors::beside(&pins)? } else { Doors::default() };
        let (guard, presence, steering) = (Guard::default(), Pace::default(), steering.clone());
        Ok(Self {
            id,
            pins,
            adopted,
            doors,
            steering,
            program,
            counting,
            guard,
            presence,
            dir,
            succeeds,
            lock,
        })
    }

    /// Makes room for `slots` slots, if there are fewer. Clients of the old slots mostly stay where they are.
    pub fn grow(&mut self, slots: usize) -> Result<()> {
        let slots = slots.min(MAX_SLOTS) as u32;
        self.pins.amend(|config| Config { slots: config.slots.max(slots), ..config })?;
        Ok(())
    }

    /// Leaves `slots` slots in use, if there are more. The sockets of the others get no more connections; what waits in
    /// their queues stays there.
    pub fn shrink(&mut self, slots: usize) -> Result<()> {
        let most = slots as u32;
        let config = self.pins.amend(|config| Config { slots: config.slots.min(most), ..config })?;
        let beyond = config.slots as Slot..MAX_SLOTS as Slot;
        // Also what a sticky that was killed left behind the slots in use.
        beyond.clone().try_for_each(|slot| self.pins.withdraw(slot))?;
        // Who gets them one day begins anew.
        self.pins.set_standings(beyond, |_| Standing::default())
    }

    /// The lowest slot from `from` on that has no socket; `None` when all [`MAX_SLOTS`] have one.
    pub fn empty_slot(&self, from: usize) -> Result<Option<Slot>> {
        let cookies = self.pins.cookies()?;
        let empty = (from..MAX_SLOTS).find(|&slot| cookies.get(slot).is_none_or(Option::is_none));
        Ok(empty.map(|slot| slot as Slot))
    }

    /// Puts `socket` into `slot`.
    ///
    /// The caller closes `socket`, a duplicate, at once: held longer it would keep a dead worker's listener open.
    pub fn place(&mut self, slot: Slot, socket: impl AsFd) -> Result<()> {
        let socket = socket.as_fd();
        self.pins.place(slot, socket.as_raw_fd()).map_err(|error| self.not_placed(error))?;
        self.end_drain(slot)?;
        self.grow(usize::from(slot) + 1)?;
        self.take_over(slot, socket)
    }

    /// Makes our program, and no other or older one, steer the group of `socket`, which is in `slot`; and sets what it
    /// has of its own.
    pub fn take_over(&mut self, slot: Slot, socket: impl AsFd) -> Result<()> {
        let socket = socket.as_fd();
        if self.steering.defer_accept && self.id.protocol == id::Protocol::Tcp {
            crate::sys::set_tcp_defer_accept(socket, 1).context("TCP_DEFER_ACCEPT cannot be set")?;
        }
        if self.pins.counts()? {
            self.pins.count_at(slot, socket)?;
        }
        self.attach(socket)
    }

    /// Makes our program, and no other or older one, steer the group of `socket`.
    pub fn attach(&mut self, socket: impl AsFd) -> Result<()> {
        Ok(steer(&mut self.program, &self.steering)?.attach(socket)?)
    }

    fn not_placed(&self, error: MapError) -> anyhow::Error {
        let busy = matches!(&error, MapError::SyscallError(call) if call.io_error.raw_os_error() == Some(Errno::BUSY.raw_os_error()));
        let error = anyhow::Error::new(error);
        if busy {
            error.context(Refusal::new(
                format!("a socket of {} is in another program's socket array already", self.id),
                "let only one tool steer this port (another sticky in another container? udpgrm?)",
            ))
        } else {
            error.context(format!("a socket of {} cannot be put into its slot", self.id))
        }
    }

    /// Puts this process's program and name to the pool again, after another process tried to take it over.
    pub fn reclaim(&mut self) -> Result<()> {
        pin(&self.dir, &mut self.program, &self.steering)?;
        self.reopen_doors()?;
        inherit::sign(&self.lock)
    }

    /// The pool's lock, and what it locks.
    pub fn lock(&self) -> (PathBuf, &OwnedFd) {
        (self.dir.clone(), &self.lock)
    }

    /// Removes the pool's state. The program stays attached to the group for as long as the group lives, unless it
    /// is detached first: [`detach`].
    pub fn remove(self) -> Result<()> {
        if self.has_directory() { remove_dir(&self.dir) } else { Ok(()) }
    }
}

/// Pins the program, in the place of what was pinned before.
fn pin(dir: &Path, program: &mut Ebpf, steering: &Steering) -> Result<()> {
    let pin = dir.join(PIN);
    if pin.exists() {
        fs::remove_file(&pin)?;
    }
    Ok(steer(program, steering)?.pin(&pin)?)
}

/// Takes the program off the group of `socket`, which the kernel then spreads connections over by itself.
pub fn detach(socket: impl AsFd) -> Result<()> {
    use aya::programs::ProgramError;
    use aya::programs::sk_reuseport::SkReuseportError;
    match SkReuseport::detach(socket) {
        // ENOENT: no program was attached.
        Err(ProgramError::SkReuseportError(SkReuseportError::SetsockoptError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Removes what is pinned in a pool's directory, whatever version wrote it, and the parent with the last pool.
pub fn remove_dir(dir: &Path) -> Result<()> {
    remove_files(dir)?;
    fs::remove_dir(dir)?;
    // Fails while there are other pools, as it should.
    let _ = fs::remove_dir(kernel::pools_dir());
    Ok(())
}

fn remove_files(dir: &Path) -> Result<()> {
    // First what says that the rest is there.
    let _ = fs::remove_file(dir.join(maps::VERSION));
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}

/// The pools that have state and that `wanted` takes, of all network namespaces that share this bpffs.
pub fn directories(wanted: impl Fn(&PoolId) -> bool) -> Result<Vec<(PoolId, PathBuf)>> {
    let entries = match fs::read_dir(kernel::pools_dir()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).context(format!("`{}` cannot be read", kernel::pools_dir().display()));
        }
    };
    let mut pools = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| PoolId::from_dir_name(name.to_str()?));
        pools.extend(id.filter(&wanted).map(|id| (id, path)));
    }
    pools.sort();
    Ok(pools)
}

/// Opens the maps of the pools that `wanted` takes; one that comes or goes at this moment is none, and what another
/// version left in another network namespace is nobody's business here.
pub fn read(wanted: impl Fn(&PoolId) -> bool) -> Result<Vec<(PoolId, PathBuf, Pins)>> {
    let own = kernel::network_namespace()?;
    let mut pools = Vec::new();
    for (id, dir) in directories(wanted)? {
        let opened = Pins::version(&dir).and_then(|version| match version {
            0 => Ok(None),
            VERSION => Pins::open_unchecked(&dir).map(Some),
            _ if id.namespace != own => Ok(None),
            other => Err(pins::version_mismatch(&dir, other).into()),
        });
        match opened {
            Ok(pins) => pools.extend(pins.map(|pins| (id, dir, pins))),
            Err(error) if pins::is_missing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pools)
}

/// The pools of this network namespace that `target` names, all for `None`; refused when there is none.
pub fn named(target: Option<&Target>) -> Result<Vec<(PoolId, PathBuf, Pins)>> {
    let namespace = kernel::network_namespace()?;
    let pools = read(|id| id.namespace == namespace && target.is_none_or(|target| target.names(id)))?;
    if pools.is_empty() {
        let what = target.map_or_else(
            || "there is no pool in this network namespace".into(),
            |target| format!("{} is steered by nobody here", target.in_words()),
        );
        return Err(Refusal::new(what, "`sticky status` lists the pools").into());
    }
    Ok(pools)
}

/// Takes the pool's lock, which the kernel gives back when this process ends, however it does.
pub fn lock(dir: &Path, id: &PoolId) -> Result<OwnedFd> {
    let file = File::open(dir)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(Errno::WOULDBLOCK) => {
            let by =
                owner(dir).map_or_else(|| "another sticky".into(), |pid| format!("sticky, process {pid}"));
            Err(Refusal::new(
                format!("the pool {id} is in use by {by}"),
                "stop that one first, or leave the pool to it; `sticky status` shows what it does",
            )
            .into())
        }
        Err(error) => Err(error).with_context(|| format!("`{}` cannot be locked", dir.display())),
    }
}

/// The process that holds the lock on `dir`.
pub fn owner(dir: &Path) -> Option<u32> {
    let inode = fs::metadata(dir).ok()?.ino().to_string();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // "1: FLOCK  ADVISORY  WRITE 4711 00:1c:4242 0 EOF", proc_locks(5).
    locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let (&pid, place) = (fields.get(4)?, fields.get(5)?);
        (fields.get(1) == Some(&"FLOCK") && place.rsplit(':').next() == Some(&inode))
            .then(|| pid.parse().ok())?
    })
}

fn steer<'a>(program: &'a mut Ebpf, steering: &Steering) -> Result<&'a mut SkReuseport> {
    let name = if steering.trace { "steer_traced" } else { "steer" };
    let program = program.program_mut(name).with_context(|| format!("the object has no program `{name}`"))?;
    Ok(program.try_into()?)
}
