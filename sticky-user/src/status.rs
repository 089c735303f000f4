//! `sticky status`: pools, slots, who sits in them, and what the program decided.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;
use serde::Serialize;
use sticky_ebpf::abi::{
    Cause, Event, GATE, Gate, MAX_SLOTS, Outcome, Place, REDIRECT, Repair, Slot, Standing,
};

use crate::clock;
use crate::group::{self, Group, Member, Target};
use crate::kernel;
use crate::known::Clients;
use crate::listeners;
use crate::pool;
use crate::pool::id::PoolId;
use crate::pool::pins::Pins;
use crate::standing::countdown;
use crate::trust::List;

/// One pool, as `--json` shows it.
#[derive(Serialize)]
pub struct PoolStatus {
    #[serde(skip)]
    id: PoolId,
    protocol: String,
    address: String,
    network_namespace: u64,
    /// The sticky process that follows the pool, if one does.
    followed_by: Option<u32>,
    ipv4_prefix: u8,
    ipv6_prefix: u8,
    slots: Vec<SlotStatus>,
    memory: Memory,
    /// The prefixes of trusted proxies.
    trusted: Vec<IpNet>,
    gate: GateStatus,
    redirect: RedirectStatus,
    repaired: RepairStatus,
    outcomes: serde_json::Map<String, serde_json::Value>,
}

/// What is remembered of clients.
#[derive(Serialize)]
struct Memory {
    /// For how many seconds; 0: nobody is.
    remember: u64,
    /// Clients that are known.
    known: usize,
    /// Clients there is room for.
    room: u32,
    /// How new clients are placed.
    place: &'static str,
    /// Prefixes that are pinned.
    pins: usize,
    /// Known clients that moved to another slot, by cause.
    moved: BTreeMap<&'static str, u64>,
}

/// How often the pool was put right after somebody had meddled with it.
#[derive(Serialize)]
struct RepairStatus {
    /// The program was attached again.
    attached: u64,
    /// Missing files were pinned again.
    pinned: u64,
}

/// The gate, which has the kernel wait for the requests of trusted proxies.
#[derive(Serialize)]
struct GateStatus {
    /// Whether it is open.
    open: bool,
    /// Why it is not, and what helps.
    why: Option<&'static str>,
    /// Connections that got no SYN cookie, and were redirected.
    recurred: u64,
    /// Connections in TIME_WAIT that were ended for the next ones of their ports.
    reaped: u64,
}

/// The redirect, which takes trusted proxies' connections.
#[derive(Serialize)]
struct RedirectStatus {
    /// Whether it is there.
    listening: bool,
    /// Connections it took.
    connections: u64,
    /// Those that are open.
    open: u64,
    requests: u64,
    /// Connections that carried more than one client.
    shared: u64,
    /// Messages refused as malformed, too large or too slow.
    malformed: u64,
    /// Requests that no worker answered.
    unserved: u64,
    /// Requests sent to another worker, or once more.
    retried: u64,
    tunnels: u64,
}

/// One slot.
#[derive(Serialize)]
struct SlotStatus {
    slot: Slot,
    worker: u32,
    state: &'static str,
    /// What an operator wants of it: `ready`, `draining` or `maintenance`.
    mode: &'static str,
    /// Its share of new clients at this moment, in per cent of a full one.
    share: u32,
    /// For how many seconds it may still drain, if there is a limit.
    left: Option<u64>,
    /// Known clients that it has.
    known: usize,
    /// The processes that hold the slot's socket; empty also when this one may not see them.
    pids: Vec<u32>,
    program: Option<String>,
    /// Connections in the accept queue (UDP: bytes in the receive queue).
    waiting: Option<u32>,
    /// Connections that are open, while they are counted: with `--place least`.
    open: Option<u64>,
    /// Connections (UDP: datagrams) steered here.
    connections: u64,
}

/// The pools that `target` names, all for `None`.
pub fn pools(target: Option<&Target>) -> Result<Vec<PoolStatus>> {
    let mut found = Vec::new();
    for (id, dir, pins) in pool::read(|id| target.is_none_or(|target| target.names(id)))? {
        let group = group::find(id.protocol, |other| *other == id, listeners::processes)?.into_iter().next();
        found.push(pool_status(id, &pins, group.as_ref(), pool::owner(&dir))?);
    }
    Ok(found)
}

fn pool_status(
    id: PoolId,
    pins: &Pins,
    group: Option<&Group>,
    followed_by: Option<u32>,
) -> Result<PoolStatus> {
    let members = group.map_or(&[] as &[Member], |group| &group.members);
    let clients = Clients::now(pins)?;
    let known = clients.kept_by_slot();
    let counts = pins.counts()?;
    let slots = pins.cookies()?.into_iter().zip(0..).map(|(cookie, slot): (_, Slot)| {
        let member = members.iter().find(|member| Some(member.listener.cookie) == cookie);
        let pids: Vec<_> =
            member.map_or_else(Vec::new, |member| member.holders.iter().map(|h| h.pid).collect());
        let standing = pins.standing(slot)?;
        Ok(SlotStatus {
            slot,
            worker: u32::from(slot) + 1,
            state: if cookie.is_some() { "live" } else { "empty" },
            mode: standing.mode().name(),
            share: (standing.share(clock::now()) * 100).div_ceil(Standing::FULL),
            left: countdown(&standing).map(|left| left.as_secs()),
            known: known[usize::from(slot)],
            program: pids.first().map(|&pid| group::name(pid)),
            pids,
            waiting: member.map(|member| member.listener.waiting),
            open: if counts { Some(pins.open_connections(slot)?) } else { None },
            connections: pins.connections(slot)?,
        })
    });
    let (ipv4_prefix, ipv6_prefix) = pins.config()?.masks.prefixes();
    let outcomes =
        Outcome::ALL.map(|outcome| Ok((outcome.describe().0.to_owned(), pins.outcome(outcome)?.into())));
    Ok(PoolStatus {
        id,
        protocol: id.protocol.to_string(),
        address: id.address.to_string(),
        network_namespace: id.namespace,
        followed_by,
        ipv4_prefix,
        ipv6_prefix,
        slots: slots.collect::<Result<_>>()?,
        memory: memory(pins, &clients)?,
        trusted: pins.trusted()?,
        gate: gate_status(pins)?,
        redirect: redirect_status(pins)?,
        repaired: RepairStatus {
            attached: pins.repaired(Repair::Attached)?,
            pinned: pins.repaired(Repair::Pinned)?,
        },
        outcomes: outcomes.into_iter().collect::<Result<_>>()?,
    })
}

fn memory(pins: &Pins, clients: &Clients) -> Result<Memory> {
    let config = pins.config()?;
    let moved = Cause::ALL.map(|cause| {
        // Also from slots that are no more in use.
        let moved = (0..MAX_SLOTS as Slot).map(|slot| pins.moved(slot, cause)).sum::<Result<_>>()?;
        Ok((cause.describe().0, moved))
    });
    Ok(Memory {
        remember: clock::duration(config.memory.remember).as_secs(),
        known: clients.all().len(),
        room: pins.room()?,
        place: match config.memory.place() {
            Place::Hash => "hash",
            Place::Least => "least",
        },
        pins: pins.pins()?.len(),
        moved: moved.into_iter().collect::<Result<_>>()?,
    })
}

fn gate_status(pins: &Pins) -> Result<GateStatus> {
    let gate = pins.config()?.proxies.gate();
    let state = if pins.cookie(GATE)?.is_some() || gate != Gate::Open { gate } else { Gate::Closed };
    Ok(GateStatus {
        open: state == Gate::Open,
        why: match state {
            Gate::Open => None,
            Gate::Closed => Some("no sticky process has opened it"),
            Gate::Useless => Some(
                "all connections are to be redirected, as `--proxy-connections shared` or `--proxy-protocol strip` says",
            ),
            Gate::NoCookies => Some(
                "the kernel makes no SYN cookies: `sysctl net.ipv4.tcp_syncookies=1`, then start sticky anew",
            ),
            Gate::NoReader => Some(
                "the kernel does not take the program that reads requests: it needs Linux 5.17 or later, and CAP_PERFMON",
            ),
            Gate::NoSockets => Some("its sockets could not be opened; sticky said why when it started"),
        },
        recurred: pins.redirected(Event::Recurred)?,
        reaped: pins.redirected(Event::Reaped)?,
    })
}

fn redirect_status(pins: &Pins) -> Result<RedirectStatus> {
    let listening = pins.cookie(REDIRECT)?.is_some();
    let connections = pins.redirected(Event::Connection)?;
    let open = connections.saturating_sub(pins.redirected(Event::Closed)?);
    Ok(RedirectStatus {
        listening,
        connections,
        open: if listening { open } else { 0 },
        requests: pins.redirected(Event::Request)?,
        shared: pins.redirected(Event::Shared)?,
        malformed: pins.redirected(Event::Malformed)?,
        unserved: pins.redirected(Event::Unserved)?,
        retried: pins.redirected(Event::Retried)?,
        tunnels: pins.redirected(Event::Tunnel)?,
    })
}

/// The pools as a person reads them.
pub fn text(pools: &[PoolStatus]) -> Result<String> {
    let own = kernel::network_namespace()?;
    let mut out = String::new();
    if pools.is_empty() {
        writeln!(out, "no pools; `sticky run -- COMMAND` or `sticky attach PORT` makes one")?;
    }
    for (n, pool) in pools.iter().enumerate() {
        if n > 0 {
            writeln!(out)?;
        }
        let live = pool.slots.iter().filter(|slot| slot.state == "live").count();
        let elsewhere = if pool.id.namespace == own { "" } else { ", in another network namespace" };
        let followed = match pool.followed_by {
            Some(pid) => format!("followed by process {pid}"),
            None => "steered by the kernel alone".into(),
        };
        writeln!(
            out,
            "{}  {live} of {} slots live, clients are /{} and /{}, {followed}{elsewhere}",
            pool.id,
            pool.slots.len(),
            pool.ipv4_prefix,
            pool.ipv6_prefix,
        )?;
        writeln!(
            out,
            "  SLOT  WORKER  STATE        PID       PROGRAM        WAITING    OPEN  CONNECTIONS  CLIENTS"
        )?;
        for slot in &pool.slots {
            let pid = slot.pids.first().map_or_else(|| "-".into(), u32::to_string);
            let more = if slot.pids.len() > 1 { format!("+{}", slot.pids.len() - 1) } else { String::new() };
            writeln!(
                out,
                "  {:<4}  {:<6}  {:<11}  {:<8}  {:<13}  {:>7}  {:>6}  {:>11}  {:>7}",
                slot.slot,
                slot.worker,
                if slot.state == "live" { slot.mode } else { slot.state },
                pid + &more,
                slot.program.as_deref().unwrap_or("-"),
                slot.waiting.map_or_else(|| "-".into(), |n| n.to_string()),
                slot.open.map_or_else(|| "-".into(), |n| n.to_string()),
                slot.connections,
                slot.known,
            )?;
        }
        out.push_str(&memory_text(pool)?);
        for outcome in Outcome::ALL {
            let (name, meaning) = outcome.describe();
            let count = pool.outcomes.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
            if count > 0 {
                writeln!(out, "  {count:>8}  {meaning}")?;
            }
        }
        for (count, meaning) in [
            (pool.repaired.attached, "times the program was attached again, as somebody had taken it off"),
            (pool.repaired.pinned, "times files of the pool were made again, as somebody had removed them"),
        ] {
            if count > 0 {
                writeln!(out, "  {count:>8}  {meaning}")?;
            }
        }
        if !pool.trusted.is_empty() {
            out.push_str(&redirect_text(pool)?);
        }
    }
    Ok(out)
}

fn memory_text(pool: &PoolStatus) -> Result<String> {
    let mut out = String::new();
    let memory = &pool.memory;
    if memory.remember != 0 {
        let time = humantime::format_duration(Duration::from_secs(memory.remember));
        writeln!(out, "  knows {} clients, of at most {}, each for {time}", memory.known, memory.room)?;
    }
    for slot in &pool.slots {
        if let Some(left) = slot.left {
            let left = humantime::format_duration(Duration::from_secs(left));
            writeln!(out, "  slot {} drains for {left} at most", slot.slot)?;
        }
        if slot.mode == "ready" && slot.share < 100 {
            writeln!(out, "  slot {} takes {} new clients where others take 100", slot.slot, slot.share)?;
        }
    }
    if memory.pins > 0 {
        writeln!(out, "  {} prefixes are pinned; `sticky pins` lists them", memory.pins)?;
    }
    for cause in Cause::ALL {
        let (name, meaning) = cause.describe();
        let count = memory.moved.get(name).copied().unwrap_or(0);
        if count > 0 {
            writeln!(out, "  {count:>8}  known clients moved away from a slot: {meaning}")?;
        }
    }
    Ok(out)
}

fn redirect_text(pool: &PoolStatus) -> Result<String> {
    let mut out = String::new();
    let redirect = &pool.redirect;
    let how = match redirect.listening {
        true => format!("{} of their connections are open", redirect.open),
        false => "there is NO redirect for their connections, as no sticky process follows the pool".into(),
    };
    writeln!(out, "  trusts {}; {how}", List(&pool.trusted))?;
    match pool.gate.why {
        None => writeln!(out, "  the gate is open: the kernel reads their requests")?,
        Some(why) => writeln!(out, "  there is no gate: {why}")?,
    }
    for (count, meaning) in [
        (pool.gate.reaped, "ended in TIME_WAIT for the next ones of their ports"),
        (pool.gate.recurred, "redirected, as an earlier one of their port was in TIME_WAIT"),
        (redirect.connections, "connections taken by the redirect"),
        (redirect.shared, "of them carried more than one client"),
        (redirect.tunnels, "of them became tunnels"),
        (redirect.requests, "requests"),
        (redirect.retried, "sent once more, or to another worker, as a worker had gone"),
        (redirect.unserved, "answered by no worker"),
        (redirect.malformed, "refused: malformed, too large or too slow"),
    ] {
        if count > 0 {
            writeln!(out, "  {count:>8}  {meaning}")?;
        }
    }
    Ok(out)
}
