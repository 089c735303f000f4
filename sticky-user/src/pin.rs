//! Operators' rules, this prefix → this slot: `sticky pin`, `unpin` and `pins`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;
use humantime::format_duration;
use ipnet::IpNet;
use serde::Serialize;
use sticky_ebpf::abi::{Pin, Slot};
use sticky_ebpf::client::Masks;

use crate::clock;
use crate::group::Target;
use crate::known::Clients;
use crate::pool;
use crate::refusal::Refusal;

/// A pin, as `--json` shows it.
#[derive(Serialize)]
pub struct Pinned {
    pool: String,
    prefix: IpNet,
    slot: Slot,
    /// For how many seconds more; `null` for good.
    left: Option<u64>,
}

/// Pins `prefix` to `slot`, for as long as said; what is to be told of it.
pub fn pin(
    at: Option<&Target>,
    prefix: &IpNet,
    slot: Slot,
    time: Option<Duration>,
    dry_run: bool,
) -> Result<String> {
    let mut text = String::new();
    let mut pools = pool::named(at)?;
    for (id, _, pins) in &pools {
        let slots = pins.config()?.slots;
        if u32::from(slot) >= slots {
            return Err(Refusal::new(
                format!("{id} has no slot {slot}: there are {slots}, numbered from 0"),
                "`sticky status` lists the slots; `--at` names one pool of several",
            )
            .into());
        }
    }
    let until = time.map_or(Pin::FOR_EVER, |time| clock::now().after(clock::units(time).max(1)));
    for (id, _, pins) in &mut pools {
        let whole = whole(prefix, pins.config()?.masks);
        if whole.contains(&IpAddr::from(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped())) {
            return Err(Refusal::new(
                format!("{prefix} is a part of {whole}, which is one client, but covers all of IPv4 too"),
                "pin another prefix, or none",
            )
            .into());
        }
        if whole != *prefix {
            text += &format!("{id}: all of {whole} is one client, of which {prefix} is a part\n");
        }
        let prefix = &whole;
        let (known, move_) = Clients::now(pins)?.in_prefix(prefix, slot);
        let time = time.map_or_else(String::new, |time| format!(" for {}", format_duration(time)));
        let would = if dry_run { " (not done: --dry-run)" } else { "" };
        text += &format!(
            "{id}: {prefix} has slot {slot}{time}; of its {known} known clients {move_} move there{would}\n"
        );
        if !dry_run {
            pins.pin(prefix, Pin::new(slot, until))?;
        }
    }
    Ok(text)
}

/// The prefix itself, or that of the client it is a part of.
fn whole(prefix: &IpNet, masks: Masks) -> IpNet {
    let (ipv4, ipv6) = masks.prefixes();
    let client = if prefix.addr().is_ipv4() { ipv4 } else { ipv6 };
    // No prefix is longer than its own kind can be.
    IpNet::new(prefix.addr(), client.min(prefix.prefix_len())).map_or(*prefix, |whole| whole.trunc())
}

/// Pins `prefix` no more, or nothing at all; its clients have the workers again that they had before.
pub fn unpin(at: Option<&Target>, prefix: Option<&IpNet>) -> Result<String> {
    let mut text = String::new();
    for (id, _, mut pins) in pool::named(at)? {
        let masks = pins.config()?.masks;
        for (pinned, _) in pins.pins()? {
            if prefix.is_none_or(|prefix| *prefix == pinned || whole(prefix, masks) == pinned)
                && pins.unpin(&pinned)?
            {
                text += &format!("{id}: {pinned} is pinned no more\n");
            }
        }
    }
    match prefix {
        Some(prefix) if text.is_empty() => {
            let hint = "`sticky pins` lists what is; name it as it stands there";
            Err(Refusal::new(format!("{prefix} is not pinned"), hint).into())
        }
        _ => Ok(text),
    }
}

/// What is pinned.
pub fn list(at: Option<&Target>) -> Result<Vec<Pinned>> {
    let mut found = Vec::new();
    for (id, _, pins) in pool::named(at)? {
        let now = clock::now();
        for (prefix, Pin { slot, until, .. }) in pins.pins()? {
            if until > now {
                let left = (until != Pin::FOR_EVER).then(|| clock::duration(until.since(now)).as_secs());
                found.push(Pinned { pool: id.to_string(), prefix, slot, left });
            }
        }
    }
    Ok(found)
}

/// The list as a person reads it.
pub fn text(pins: &[Pinned]) -> String {
    if pins.is_empty() {
        return "nothing is pinned; `sticky pin CIDR SLOT` does it\n".into();
    }
    let line = |Pinned { pool, prefix, slot, left }: &Pinned| {
        let left = left.map(|left| format!(", for {} more", format_duration(Duration::from_secs(left))));
        format!("{pool}: {prefix} has slot {slot}{}\n", left.unwrap_or_default())
    };
    pins.iter().map(line).collect()
}
