//! What `cargo xtask bench` asks the kernel about sticky's program and its slots.

use std::collections::HashSet;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, SkReuseport, loaded_programs};
use aya::sys::{Stats, enable_stats};
use clap::Parser;
use sticky::clock;
use sticky::group::{self, Target};
use sticky::kernel;
use sticky::pool::{self, pins::Pins};
use sticky_ebpf::abi::{Known, Slot};
use sticky_ebpf::client::Client;

/// How long a new socket may take to get its slot.
const LIMIT: Duration = Duration::from_secs(10);

/// Ask the kernel about sticky
#[derive(Parser)]
enum Question {
    /// The runs of the pool's program, and nanoseconds spent in them, while standard input is open
    Steer {
        /// The pool
        target: Target,
    },
    /// The same of a program that does nothing, put on a group that is not steered
    Empty {
        /// The group
        target: Target,
    },
    /// The same of the program that counts its connections
    Count {
        /// The pool
        target: Target,
    },
    /// Have the pool know the clients at 10.1.0.1 and the addresses that follow
    Fill {
        /// The pool
        target: Target,
        /// How many clients
        clients: u32,
    },
    /// Microseconds from a worker's `listen` to its socket in a slot, for each of some workers started one by one
    Join {
        /// The pool, which a sticky process must follow
        target: Target,
        /// The worker
        worker: PathBuf,
        /// How often
        times: u32,
    },
}

fn main() -> Result<()> {
    match Question::parse() {
        Question::Steer { target } => {
            let pin = the_pool(&target)?.0.join("steer");
            meter(|| Ok(ProgramInfo::from_pin(&pin)?))
        }
        Question::Empty { target } => empty(&target),
        Question::Count { target } => {
            let link = FdLink::from(PinnedLink::from_pin(the_pool(&target)?.0.join("count"))?);
            let id = link.info()?.program_id();
            meter(|| loaded_programs().flatten().find(|info| info.id() == id).context("the program is gone"))
        }
        Question::Fill { target, clients } => fill(&mut the_pool(&target)?.1, clients),
        Question::Join { target, worker, times } => {
            let (_, pins) = the_pool(&target)?;
            (0..times).try_for_each(|n| {
                let took = join(&pins, &target, &worker)?;
                writeln!(io::stdout(), "{}", took.as_micros())?;
                // Long after sticky looked for the last time because of an event, and at another phase each time.
                sleep(Duration::from_millis(200 + u64::from(n) * 37 % 100));
                Ok(())
            })
        }
    }
}

/// Says that it begins, then what `info`'s program did until standard input ends.
fn meter(info: impl Fn() -> Result<ProgramInfo>) -> Result<()> {
    // Off again when this is dropped, or the process gone.
    let _on = enable_stats(Stats::RunTime)?;
    let before = info()?;
    writeln!(io::stdout(), "ready")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    let after = info()?;
    let (runs, time) = (after.run_count() - before.run_count(), after.run_time() - before.run_time());
    Ok(writeln!(io::stdout(), "{runs} {}", time.as_nanos())?)
}

fn empty(target: &Target) -> Result<()> {
    let mut object: Ebpf = kernel::load(&mut kernel::loader(false))?;
    let program = object.program_mut("empty").context("the object has no program `empty`")?;
    let program: &mut SkReuseport = program.try_into()?;
    program.load()?;
    let groups = group::named(target)?;
    let member = groups.iter().flat_map(|group| &group.members).next().context("the group is gone")?;
    let socket = member.fetch()?;
    program.attach(&socket)?;
    let metered = meter(|| Ok(program.info()?));
    pool::detach(&socket)?;
    metered
}

fn fill(pins: &mut Pins, clients: u32) -> Result<()> {
    let (config, now) = (pins.config()?, clock::now());
    let first = u32::from(Ipv4Addr::new(10, 1, 0, 1));
    for n in 0..clients {
        let client = config.masks.apply(Client::from(IpAddr::from(Ipv4Addr::from(first + n))));
        pins.remember(client, Known::new((n % config.slots) as Slot, now))?;
    }
    Ok(())
}

/// From the `listen` of a new worker to its slot; the worker is gone again afterwards.
fn join(pins: &Pins, target: &Target, worker: &Path) -> Result<Duration> {
    let before = live(pins)?;
    let mut child =
        Running(Command::new(worker).arg(target.port().to_string()).stdout(Stdio::piped()).spawn()?);
    until(|| Ok(!live(pins)?.is_subset(&before)))?;
    let joined = SystemTime::now();
    let listening = SystemTime::UNIX_EPOCH + child.first_number()?;
    drop(child);
    until(|| Ok(live(pins)? == before))?;
    Ok(joined.duration_since(listening).unwrap_or_default())
}

/// The cookies of the sockets in slots.
fn live(pins: &Pins) -> Result<HashSet<u64>> {
    Ok(pins.cookies()?.into_iter().flatten().collect())
}

/// Looks often, yet leaves the processor to those it watches.
fn until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    const PAUSE: Duration = Duration::from_micros(20);
    let begin = Instant::now();
    while !done()? {
        if begin.elapsed() > LIMIT {
            bail!("the slots did not change within {LIMIT:?}");
        }
        sleep(PAUSE);
    }
    Ok(())
}

/// A process that ends with its owner.
struct Running(Child);

impl Running {
    /// The nanoseconds on the process's first line.
    fn first_number(&mut self) -> Result<Duration> {
        let mut text = [0; 64];
        let length = self.0.stdout.as_mut().context("standard output is a pipe")?.read(&mut text)?;
        let nanoseconds: u64 = str::from_utf8(&text[..length])?.trim_end().parse()?;
        Ok(Duration::from_nanos(nanoseconds))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The folder and the maps of the pool.
fn the_pool(target: &Target) -> Result<(PathBuf, Pins)> {
    let pools = pool::read(|id| target.names(id))?;
    let (_, dir, pins) = pools.into_iter().next().with_context(|| format!("{target} is not steered"))?;
    Ok((dir, pins))
}
