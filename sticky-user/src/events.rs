//! What happens at a pool, found by comparing what is pinned with what was: for the log, and for `sticky events`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use sticky_ebpf::abi::{Cause, Mode, Slot};

use crate::group::{self, Member, Target};
use crate::known::Clients;
use crate::listeners;
use crate::pool;
use crate::pool::id::PoolId;
use crate::pool::pins::Pins;
use crate::say::say;

/// How often `sticky events` looks.
const LOOK: Duration = Duration::from_millis(500);

/// Something that happened to a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// The slot.
    pub slot: Slot,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen to a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// It has a worker.
    Up,
    /// It has none any more.
    Down,
    /// It has another one.
    Replaced,
    /// It takes clients again.
    Ready,
    /// It takes no new clients.
    Draining,
    /// It takes nobody.
    Maintenance,
    /// It drains, and no known client would stay any more.
    Drained,
    /// Known clients moved away from it.
    Moved {
        /// So many.
        clients: u64,
        /// For this cause.
        cause: &'static str,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.slot;
        match &self.what {
            What::Up => write!(f, "slot {slot} has a worker"),
            What::Down => write!(f, "slot {slot} has no worker any more"),
            What::Replaced => write!(f, "slot {slot} has another worker"),
            What::Ready => write!(f, "slot {slot} takes clients"),
            What::Draining => write!(f, "slot {slot} drains: it takes no new clients"),
            What::Maintenance => write!(f, "slot {slot} is in maintenance: it takes nobody"),
            What::Drained => write!(f, "slot {slot} is drained: no known client would stay"),
            What::Moved { clients, cause } => {
                let meaning = Cause::ALL.map(Cause::describe).into_iter().find(|(name, _)| name == cause);
                let clients = match clients {
                    1 => "1 known client".into(),
                    many => format!("{many} known clients"),
                };
                write!(
                    f,
                    "{clients} moved away from slot {slot}: {}",
                    meaning.map_or("", |(_, meaning)| meaning)
                )
            }
        }
    }
}

/// A slot, as it was.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    cookie: Option<u64>,
    mode: Mode,
    drained: bool,
    moved: [u64; Cause::ALL.len()],
}

/// What a pool was like at the last look.
#[derive(Default)]
pub struct Ledger(Option<Vec<Seen>>);

impl Ledger {
    /// What happened since the last look; nothing at the first one.
    pub fn look(&mut self, pins: &Pins) -> Result<Vec<Event>> {
        let mut cookies = pins.cookies()?;
        // From slots that are no more in use clients still move away.
        cookies.resize(cookies.len().max(self.0.as_ref().map_or(0, Vec::len)), None);
        let modes = (0..cookies.len() as Slot).map(|slot| Ok(pins.standing(slot)?.mode()));
        let modes = modes.collect::<Result<Vec<_>>>()?;
        let kept =
            if modes.contains(&Mode::Draining) { Clients::now(pins)?.kept_by_slot() } else { Vec::new() };
        let mut now = Vec::new();
        for (slot, (cookie, mode)) in cookies.into_iter().zip(modes).enumerate() {
            let mut moved = [0; Cause::ALL.len()];
            for (moved, cause) in moved.iter_mut().zip(Cause::ALL) {
                *moved = pins.moved(slot as Slot, cause)?;
            }
            let drained = mode == Mode::Draining && kept.get(slot) == Some(&0);
            now.push(Seen { cookie, mode, drained, moved });
        }
        let Some(old) = self.0.replace(now.clone()) else { return Ok(Vec::new()) };
        let nobody = Seen { cookie: None, mode: Mode::Ready, drained: false, moved: [0; Cause::ALL.len()] };
        let mut events = Vec::new();
        for (at, is) in now.iter().enumerate() {
            compare(at as Slot, old.get(at).unwrap_or(&nobody), is, &mut events);
        }
        Ok(events)
    }
}

/// Has the log tell what happened since the last look, but for workers that come and go, of whom more is told elsewhere.
pub fn log(id: &PoolId, pins: &Pins, ledger: &mut Ledger) -> Result<()> {
    for event in ledger.look(pins)? {
        if !matches!(event.what, What::Up | What::Down | What::Replaced) {
            say(format_args!("{id}: {event}"));
        }
    }
    Ok(())
}

fn compare(slot: Slot, was: &Seen, is: &Seen, events: &mut Vec<Event>) {
    let mut happened = |what| events.push(Event { slot, what });
    match (was.cookie, is.cookie) {
        (None, Some(_)) => happened(What::Up),
        (Some(_), None) => happened(What::Down),
        (Some(was), Some(is)) if was != is => happened(What::Replaced),
        _ => {}
    }
    if was.mode != is.mode {
        happened(match is.mode {
            Mode::Ready => What::Ready,
            Mode::Draining => What::Draining,
            Mode::Maintenance => What::Maintenance,
        });
    }
    if is.drained && !was.drained {
        happened(What::Drained);
    }
    for ((was, is), cause) in was.moved.iter().zip(is.moved).zip(Cause::ALL) {
        let clients = is.saturating_sub(*was);
        if clients > 0 {
            happened(What::Moved { clients, cause: cause.describe().0 });
        }
    }
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    pool: String,
    #[serde(flatten)]
    event: &'a Event,
    /// The process that has the slot, if it can be seen.
    pid: Option<u32>,
}

/// Tells what happens at the pools that `target` names, all of this network namespace for `None`, until it is stopped.
pub fn follow(target: Option<&Target>, json: bool) -> Result<()> {
    // Refused when there is none to begin with; later ones are taken in as they come.
    pool::named(target)?;
    let mut ledgers: BTreeMap<PoolId, Ledger> = BTreeMap::new();
    let namespace = crate::kernel::network_namespace()?;
    loop {
        let named = |id: &PoolId| id.namespace == namespace && target.is_none_or(|target| target.names(id));
        for (id, _, pins) in pool::read(named)? {
            // A pool that is being given back is none.
            let Ok(events) = ledgers.entry(id).or_default().look(&pins) else { continue };
            for event in &events {
                match tell(&id, &pins, event, json) {
                    // Whoever reads has seen enough.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    told => told?,
                }
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn tell(id: &PoolId, pins: &Pins, event: &Event, json: bool) -> io::Result<()> {
    let has_one = matches!(event.what, What::Up | What::Replaced);
    let member = if has_one { member(id, pins, event.slot).unwrap_or_default() } else { None };
    let mut out = io::stdout();
    if json {
        let pid = member.and_then(|member| member.holders.first().map(|holder| holder.pid));
        let line = serde_json::to_string(&Line { pool: id.to_string(), event, pid })?;
        return writeln!(out, "{line}");
    }
    match member {
        Some(member) => writeln!(out, "{id}: {event}: {}", member.programs()),
        None => writeln!(out, "{id}: {event}"),
    }
}

/// Who has a slot.
fn member(id: &PoolId, pins: &Pins, slot: Slot) -> Result<Option<Member>> {
    let cookie = pins.cookie(slot)?;
    let groups = group::find(id.protocol, |found| found == id, listeners::processes)?;
    let mut members = groups.into_iter().flat_map(|group| group.members);
    Ok(members.find(|member| Some(member.listener.cookie) == cookie))
}
