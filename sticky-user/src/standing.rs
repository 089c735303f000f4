//! How slots stand: `sticky drain`, `maintenance`, `ready` and `weight`, written where the program reads it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use humantime::format_duration;
use sticky_ebpf::abi::{Config, Mode, Moment, Slot, Standing};

use crate::clock;
use crate::group::{self, Target};
use crate::known::Clients;
use crate::pool;
use crate::pool::id::PoolId;
use crate::pool::pins::Pins;
use crate::refusal::Refusal;
use crate::say::say;

/// The shortest time after which a client is gone: within a shorter one, who is there could be missed between two looks.
pub const SHORTEST: Duration = Duration::from_secs(3);
/// How often to look whether a slot is drained.
const LOOK: Duration = Duration::from_millis(500);
/// How often to say how far it is, at most.
const TELL: Duration = Duration::from_secs(5);

/// Which slots are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This one.
    Slot(Slot),
    /// All that this process holds the sockets of.
    Process(u32),
}

/// How slots are to stand.
pub enum Change {
    /// Without new clients, until the others are gone.
    Drain {
        /// How long a client must not have come to be gone; 0: none is.
        idle: Duration,
        /// How long it may take.
        deadline: Option<Duration>,
    },
    /// Without clients.
    Maintenance,
    /// With clients.
    Ready {
        /// How long their share of new clients takes to grow.
        slow_start: Duration,
    },
    /// With such a share of new clients, of 100.
    Weight(u8),
}

/// A change of some slots.
pub struct Plan {
    /// Which slots.
    pub who: Vec<Who>,
    /// At which pool.
    pub at: Option<Target>,
    /// How they are to stand.
    pub change: Change,
    /// Whether only to say what would happen.
    pub dry_run: bool,
    /// Whether to wait until no client would stay.
    pub wait: bool,
}

/// Does what `plan` says; what is to be told of it.
pub fn change(plan: &Plan) -> Result<String> {
    let mut text = String::new();
    let mut changed = Vec::new();
    for (id, _, mut pins) in pools(plan)? {
        let slots = plan.slots(&id, &pins)?;
        let clients = Clients::now(&pins)?;
        for slot in &slots {
            text += &plan.tell(&id, *slot, &pins.config()?, &clients);
        }
        if !plan.dry_run {
            pins.set_standings(slots.iter().copied(), |standing| plan.change.of(standing, clock::now()))?;
        }
        if !plan.dry_run && !slots.is_empty() && nobody_takes_clients(&pins)? {
            text += &format!("{id}: no live slot takes new clients; until one does, all of them do\n");
        }
        changed.push((id, pins, slots));
    }
    if changed.iter().all(|(_, _, slots)| slots.is_empty()) {
        let hint = "`sticky status` lists the processes of each slot";
        return Err(Refusal::new("no slot's socket is held by that process", hint).into());
    }
    if plan.wait && !plan.dry_run {
        // What was changed is told at once, not after hours.
        say(text.trim_end());
        for (id, pins, slots) in &changed {
            wait(id, pins, slots)?;
        }
        text = "no client stays any more\n".into();
    }
    Ok(text)
}

/// The pools that are meant: by a slot's number, one alone.
fn pools(plan: &Plan) -> Result<Vec<(PoolId, PathBuf, Pins)>> {
    let pools = pool::named(plan.at.as_ref())?;
    let by_slot = plan.who.iter().any(|who| matches!(who, Who::Slot(_)));
    if by_slot && pools.len() > 1 {
        let names: Vec<_> = pools.iter().map(|(id, ..)| id.to_string()).collect();
        return Err(Refusal::new(
            format!("there are {} pools, each with slots of its own: {}", pools.len(), names.join(", ")),
            format!("say which one with `--at {}`, or name a process: `pid:PID`", names[0]),
        )
        .into());
    }
    Ok(pools)
}

/// Whether new clients go to slots that should take none, for want of others.
fn nobody_takes_clients(pins: &Pins) -> Result<bool> {
    for (slot, cookie) in (0..).zip(pins.cookies()?) {
        if cookie.is_some() && pins.standing(slot)?.is_ready() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Plan {
    fn slots(&self, id: &PoolId, pins: &Pins) -> Result<BTreeSet<Slot>> {
        let cookies = pins.cookies()?;
        let mut slots = BTreeSet::new();
        for who in &self.who {
            match *who {
                Who::Slot(slot) if usize::from(slot) < cookies.len() => _ = slots.insert(slot),
                Who::Slot(slot) => {
                    return Err(Refusal::new(
                        format!("{id} has no slot {slot}; it has {}", numbers(cookies.len())),
                        "`sticky status` lists the slots",
                    )
                    .into());
                }
                Who::Process(pid) => {
                    let groups = group::find(id.protocol, |found| found == id, || [pid])?;
                    let members = groups.iter().flat_map(|group| &group.members);
                    let held = members.filter(|member| !member.holders.is_empty());
                    let held: Vec<_> = held.map(|member| Some(member.listener.cookie)).collect();
                    let theirs = (0..).zip(&cookies).filter(|(_, cookie)| held.contains(cookie));
                    slots.extend(theirs.map(|(slot, _): (Slot, _)| slot));
                }
            }
        }
        Ok(slots)
    }

    fn tell(&self, id: &PoolId, slot: Slot, config: &Config, clients: &Clients) -> String {
        let known = clients.by_slot()[usize::from(slot)];
        let remembers = config.memory.remember != 0;
        let what = match &self.change {
            Change::Drain { .. } if !remembers => {
                "takes no new clients; as the pool remembers nobody, all are new".into()
            }
            Change::Drain { idle, deadline } => {
                let idle = match idle.is_zero() {
                    true => "for good".into(),
                    false => format!("until they have had no connection for {}", format_duration(*idle)),
                };
                let limit = deadline
                    .map_or_else(String::new, |limit| format!(", {} at most", format_duration(limit)));
                format!("takes no new clients; its {known} known ones stay {idle}{limit}")
            }
            Change::Maintenance => format!("takes nobody; its {known} known clients move"),
            Change::Ready { slow_start } if slow_start.is_zero() => "takes clients".into(),
            Change::Ready { slow_start } => {
                format!("takes clients, more and more of them for {}", format_duration(*slow_start))
            }
            Change::Weight(percent) => format!("takes {percent} new clients where others take 100"),
        };
        let would = if self.dry_run { " (not done: --dry-run)" } else { "" };
        format!("{id}: slot {slot} {what}{would}\n")
    }
}

/// Slots as a sentence has them.
fn numbers(slots: usize) -> String {
    match slots {
        0 => "none".into(),
        1 => "slot 0 alone".into(),
        many => format!("{many}, from 0 to {}", many - 1),
    }
}

impl Change {
    fn of(&self, standing: Standing, now: Moment) -> Standing {
        match self {
            Self::Drain { idle, deadline } => {
                let over = deadline.map_or(0, |deadline| clock::units(deadline).max(1));
                standing.draining(now, over, clock::units(*idle))
            }
            Self::Maintenance => standing.maintenance(now),
            Self::Ready { slow_start } => standing.ready(now, clock::units(*slow_start)),
            Self::Weight(percent) => standing.with_weight(Standing::FULL * u32::from(*percent) / 100),
        }
    }
}

/// Waits until none of the slots keeps a client, or drains any more.
fn wait(id: &PoolId, pins: &Pins, slots: &BTreeSet<Slot>) -> Result<()> {
    let (mut told, mut at) = (None, None::<std::time::Instant>);
    loop {
        let kept = Clients::now(pins)?.kept_by_slot();
        let (mut left, mut longest) = (0, None);
        for slot in slots {
            let standing = pins.standing(*slot)?;
            if standing.mode() == Mode::Draining {
                left += kept[usize::from(*slot)];
                longest = longest.max(countdown(&standing));
            }
        }
        if left == 0 {
            return Ok(());
        }
        if told != Some(left) && at.is_none_or(|at| at.elapsed() >= TELL) {
            (told, at) = (Some(left), Some(std::time::Instant::now()));
            let most =
                longest.map_or_else(String::new, |most| format!(", for {} at most", format_duration(most)));
            let stay = if left == 1 { "1 client stays".into() } else { format!("{left} clients stay") };
            say(format_args!("{id}: {stay}{most}"));
        }
        std::thread::sleep(LOOK);
    }
}

/// How long a slot may still drain, if there is a limit.
pub fn countdown(standing: &Standing) -> Option<Duration> {
    let limited = standing.mode() == Mode::Draining && standing.over != 0;
    let been = clock::now().since(standing.since);
    limited.then(|| clock::duration(standing.over.saturating_sub(been)))
}
