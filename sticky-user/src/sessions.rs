//! The affinity table as text: `sticky sessions export` and `import`, to move a pool to another host.
//!
//! A line of JSON that says what follows, and one for each client; times are told as ages, since no clock is the same
//! elsewhere.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use sticky_ebpf::abi::{Known, Slot};
use sticky_ebpf::client::Client;

use crate::clock;
use crate::group::Target;
use crate::known::Clients;
use crate::pool;
use crate::pool::id::PoolId;
use crate::pool::pins::Pins;
use crate::refusal::Refusal;

/// The form of what is written here.
const FORM: u32 = 1;

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    sticky_sessions: u32,
    pool: String,
    slots: u32,
    ipv4_prefix: u8,
    ipv6_prefix: u8,
    clients: usize,
}

/// Each other line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    client: IpAddr,
    slot: Slot,
    /// Seconds since it last came.
    gone: u64,
}

/// The known clients of the pool that `at` names.
pub fn export(at: Option<&Target>) -> Result<String> {
    let (id, pins) = one(at)?;
    let config = pins.config()?;
    let clients = Clients::now(&pins)?;
    let now = clock::now();
    let (ipv4_prefix, ipv6_prefix) = config.masks.prefixes();
    let header = Header {
        sticky_sessions: FORM,
        pool: id.to_string(),
        slots: config.slots,
        ipv4_prefix,
        ipv6_prefix,
        clients: clients.all().len(),
    };
    let mut out = serde_json::to_string(&header)? + "\n";
    for (client, known) in clients.all() {
        let gone = clock::duration(now.since(known.seen)).as_secs();
        let session = Session { client: (*client).into(), slot: known.slot, gone };
        writeln!(out, "{}", serde_json::to_string(&session)?)?;
    }
    Ok(out)
}

/// Has the pool that `at` names know the clients of `text`, all or none; what is to be told of it.
///
/// Of a client that is known here already, whoever saw it last is right.
pub fn import(at: Option<&Target>, text: &str) -> Result<String> {
    let (id, mut pins) = one(at)?;
    let sessions = read(&id, &pins, text)?;
    let (config, now) = (pins.config()?, clock::now());
    let (mut taken, mut newer, mut late) = (0u64, 0u64, 0u64);
    for Session { client, slot, gone } in sessions {
        let units = clock::units(std::time::Duration::from_secs(gone));
        let client = config.masks.apply(Client::from(client));
        let known = Known::new(slot, now.before(units));
        let there = pins.known(client)?;
        let fresh = |known: &Known| now.since(known.seen) < config.memory.remember;
        if units >= config.memory.remember {
            late += 1;
        } else if there != Known::NOBODY && fresh(&there) && there.seen >= known.seen {
            newer += 1;
        } else {
            pins.remember(client, known)?;
            taken += 1;
        }
    }
    let mut out = format!("{id}: {taken} clients are known now");
    if newer > 0 {
        write!(out, "; {newer} came here later than there, and stay where they are")?;
    }
    if late > 0 {
        write!(out, "; {late} have not come for longer than clients are remembered")?;
    }
    Ok(out + "\n")
}

/// Reads and checks all of it, before anything is changed.
fn read(id: &PoolId, pins: &Pins, text: &str) -> Result<Vec<Session>> {
    let (config, room) = (pins.config()?, pins.room()?);
    if config.memory.remember == 0 {
        let hint = "start sticky with `--remember 1h`, say, and import again";
        return Err(Refusal::new(format!("{id} remembers nobody"), hint).into());
    }
    let broken = |line: usize, why: String| {
        let hint = "export it once more with `sticky sessions export`; nothing was changed";
        Refusal::new(format!("line {line} is not what `sticky sessions export` writes: {why}"), hint)
    };
    let mut lines = text.lines().zip(1..);
    let first = lines.next().map_or("", |(line, _)| line);
    let header: Header = serde_json::from_str(first).map_err(|error| broken(1, error.to_string()))?;
    if header.sticky_sessions != FORM {
        return Err(
            broken(1, format!("its form is {}, this sticky reads {FORM}", header.sticky_sessions)).into()
        );
    }
    if (header.ipv4_prefix, header.ipv6_prefix) != config.masks.prefixes() {
        let (ipv4, ipv6) = config.masks.prefixes();
        let (theirs4, theirs6) = (header.ipv4_prefix, header.ipv6_prefix);
        return Err(Refusal::new(
            format!("clients are /{theirs4} and /{theirs6} there, but /{ipv4} and /{ipv6} at {id}"),
            format!("start sticky with `--ipv4-prefix {theirs4} --ipv6-prefix {theirs6}`"),
        )
        .into());
    }
    let mut sessions = Vec::new();
    for (line, number) in lines {
        let session: Session =
            serde_json::from_str(line).map_err(|error| broken(number, error.to_string()))?;
        if u32::from(session.slot) >= config.slots {
            return Err(Refusal::new(
                format!(
                    "line {number}: there is no slot {} at {id}, which has {}",
                    session.slot, config.slots
                ),
                format!(
                    "start as many workers as there were ({}), and import again; nothing was changed",
                    header.slots
                ),
            )
            .into());
        }
        sessions.push(session);
    }
    if sessions.len() != header.clients {
        let why = format!("{} clients are announced, {} follow", header.clients, sessions.len());
        return Err(broken(1, why).into());
    }
    if sessions.len() > room as usize {
        return Err(Refusal::new(
            format!("{} clients are more than the {room} that {id} remembers", sessions.len()),
            format!("start sticky with `--remember-clients {}`; nothing was changed", sessions.len()),
        )
        .into());
    }
    Ok(sessions)
}

fn one(at: Option<&Target>) -> Result<(PoolId, Pins)> {
    let mut pools = pool::named(at)?;
    if pools.len() > 1 {
        let names: Vec<_> = pools.iter().map(|(id, ..)| id.to_string()).collect();
        return Err(Refusal::new(
            format!("there are {} pools: {}", names.len(), names.join(", ")),
            format!("say which one with `--at {}`", names[0]),
        )
        .into());
    }
    let (id, _, pins) = pools.remove(0);
    Ok((id, pins))
}
