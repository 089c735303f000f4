//! `sticky explain`: which worker a client gets, and why.
//!
//! Runs the library's `steer` on what is pinned, as the program does on the same maps.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Result;
use serde::Serialize;
use sticky_ebpf::abi::Slot;
use sticky_ebpf::client::Client;
use sticky_ebpf::hash::hash;
use sticky_ebpf::lookup;
use sticky_ebpf::steer::steer;

use crate::group::{self, Target};
use crate::kernel;
use crate::listeners;
use crate::pool;
use crate::pool::id::PoolId;
use crate::pool::pins::Pins;
use crate::refusal::Refusal;

/// What one pool does with a client, as `--json` shows it.
#[derive(Serialize)]
pub struct Explanation {
    #[serde(skip)]
    id: PoolId,
    pool: String,
    /// The client: the address under the pool's prefix.
    client: String,
    /// Where in the lookup table the client's hash points.
    entry: usize,
    /// The slot that owns that entry.
    owner: Slot,
    /// The slot that gets the connection; none when it is refused.
    slot: Option<Slot>,
    worker: Option<u32>,
    pid: Option<u32>,
    program: Option<String>,
    /// The outcome that the program counts.
    outcome: &'static str,
    /// The outcome in words.
    because: &'static str,
}

/// Explains `ip` for each pool of this network namespace that `target` names, all for `None`.
pub fn explain(ip: IpAddr, target: Option<&Target>) -> Result<Vec<Explanation>> {
    let namespace = kernel::network_namespace()?;
    let pools = pool::read(|id| {
        let reachable = ip.to_canonical().is_ipv4() || id.address.is_ipv6();
        reachable && id.namespace == namespace && target.is_none_or(|target| target.names(id))
    })?;
    let found = pools.iter().map(|(id, _, pins)| explain_pool(ip, *id, pins)).collect::<Result<Vec<_>>>()?;
    if found.is_empty() {
        return Err(Refusal::new(
            format!("no pool takes connections from {ip}"),
            "`sticky status` lists the pools",
        )
        .into());
    }
    Ok(found)
}

fn explain_pool(ip: IpAddr, id: PoolId, pins: &Pins) -> Result<Explanation> {
    let config = pins.config()?;
    let table = pins.table(&config)?;
    let cookies = pins.cookies()?;
    let client = Client::from(ip);
    let alive = |slot: Slot| cookies.get(usize::from(slot)).is_some_and(Option::is_some);
    let choice = steer(&config, &table, client, alive);
    let slot = choice.map(|choice| choice.slot);
    let (outcome, because) =
        choice.map_or(sticky_ebpf::abi::Outcome::Refused, |choice| choice.outcome).describe();

    let masked = config.masks.apply(client);
    let hash = hash(config.seed, masked);
    let cookie = slot.and_then(|slot| cookies.get(usize::from(slot)).copied().flatten());
    let groups = group::find(id.protocol, |other| *other == id, listeners::processes)?;
    let mut members = groups.iter().flat_map(|group| &group.members);
    let pid = members
        .find(|member| Some(member.listener.cookie) == cookie)
        .and_then(|member| member.holders.first())
        .map(|holder| holder.pid);
    let (ipv4, ipv6) = config.masks.prefixes();
    let prefix = if masked.is_v4() { ipv4 } else { ipv6 };
    Ok(Explanation {
        id,
        pool: id.to_string(),
        client: format!("{}/{prefix}", IpAddr::from(masked)),
        entry: lookup::position(hash, 0),
        owner: lookup::candidate(&table, hash, 0),
        slot,
        worker: slot.map(|slot| u32::from(slot) + 1),
        pid,
        program: pid.map(group::name),
        outcome,
        because,
    })
}

/// The explanations as a person reads them.
pub fn text(ip: IpAddr, explanations: &[Explanation]) -> Result<String> {
    let mut out = String::new();
    for one in explanations {
        let Some(slot) = one.slot else {
            writeln!(out, "{ip} is refused at {}: no worker is alive", one.id)?;
            continue;
        };
        let process = match (&one.program, one.pid) {
            (Some(program), Some(pid)) => format!(", `{program}`, process {pid}"),
            _ => String::new(),
        };
        writeln!(out, "{ip} gets worker {} at {} (slot {slot}{process})", slot + 1, one.id)?;
        writeln!(out, "  client   {}", one.client)?;
        let empty = if one.owner == slot { "" } else { ", which is empty" };
        writeln!(out, "  lookup   entry {} of the table is slot {}'s{empty}", one.entry, one.owner)?;
        writeln!(out, "  outcome  {}", one.because)?;
    }
    Ok(out)
}
