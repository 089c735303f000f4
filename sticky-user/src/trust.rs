//! Trusted proxies: the peers whose forwarding header is believed. What a user types for them, and `sticky trust`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;
use sticky_ebpf::abi::REDIRECT;

use crate::group::Target;
use crate::pool::id::{PoolId, Protocol};
use crate::pool::pins::Pins;
use crate::pool::{self, socket};
use crate::refusal::Refusal;

/// What is trusted with one word: a prefix, an address, or a named set of prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted(Vec<IpNet>);

impl Trusted {
    /// The prefixes.
    pub fn prefixes(&self) -> &[IpNet] {
        &self.0
    }
}

impl FromStr for Trusted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named: &[&str] = match text {
            // RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.3.
            "loopback" => &["127.0.0.0/8", "::1/128"],
            // RFC 1918, RFC 4193.
            "private" => &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
            // RFC 3927, RFC 4291 section 2.5.6.
            "linklocal" => &["169.254.0.0/16", "fe80::/10"],
            one => &[one],
        };
        let prefixes = named.iter().map(|text| prefix(text)).collect::<Result<_, _>>();
        prefixes
            .map(Self)
            .map_err(|error| format!("{error}; `loopback`, `private` and `linklocal` name some"))
    }
}

/// A prefix or an address, without the bits that do not count; v4-mapped ones become IPv4.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    let prefix = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "expected a prefix (`10.0.0.0/8`) or an address".to_owned())?;
    let IpNet::V6(six) = prefix else { return Ok(prefix.trunc()) };
    match (six.addr().to_ipv4_mapped(), six.prefix_len().checked_sub(96)) {
        (Some(four), Some(length)) => {
            Ok(Ipv4Net::new(four, length).map_err(|error| error.to_string())?.trunc().into())
        }
        _ if six.trunc().addr().is_unspecified() && six.prefix_len() < 96 => {
            Err("this prefix covers all of IPv4 too; `2000::/3` is all of IPv6 that is in use".into())
        }
        _ => Ok(prefix.trunc()),
    }
}

/// Prefixes as a sentence has them.
pub struct List<'a>(pub &'a [IpNet]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nobody");
        }
        for (at, prefix) in self.0.iter().enumerate() {
            write!(f, "{}{prefix}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// What one pool trusts, as `--json` shows it.
#[derive(Serialize)]
pub struct PoolTrust {
    pool: String,
    trusted: Vec<IpNet>,
}

/// What the TCP pools of this network namespace that `target` names trust.
pub fn list(target: Option<&Target>) -> Result<Vec<PoolTrust>> {
    let told =
        |(id, _, pins): &(PoolId, _, Pins)| Ok(PoolTrust { pool: id.to_string(), trusted: pins.trusted()? });
    pools(target)?.iter().map(told).collect()
}

/// The lists as a person reads them.
pub fn text(lists: &[PoolTrust]) -> String {
    lists.iter().map(|one| format!("{} trusts {}\n", one.pool, List(&one.trusted))).collect()
}

/// How long the process that follows a pool may take to notice.
const NOTICED: Duration = Duration::from_secs(5);

/// Trusts `what` from now on, and returns once the redirect is there to take their connections.
pub fn add(target: Option<&Target>, what: &[Trusted]) -> Result<Vec<PoolTrust>> {
    let mut pools = pools(target)?;
    if let Some((id, ..)) = pools.iter().find(|(_, dir, _)| pool::owner(dir).is_none()) {
        return Err(Refusal::new(
            format!("no sticky process follows {id}, so nobody would take the proxies' connections"),
            format!("`sticky attach {}` follows it; give it `--trust`", id.address.port()),
        )
        .into());
    }
    pools.iter().try_for_each(|(id, ..)| socket::reachable(id))?;
    for prefix in what.iter().flat_map(Trusted::prefixes) {
        pools.iter_mut().try_for_each(|(_, _, pins)| pins.trust(prefix))?;
    }
    let begin = Instant::now();
    for (id, _, pins) in &pools {
        while !pins.config()?.proxies.trusting() || pins.cookie(REDIRECT)?.is_none() {
            if begin.elapsed() > NOTICED {
                anyhow::bail!(
                    "{id} has no redirect after {NOTICED:?}: see what the process that follows it says"
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    list(target)
}

/// Trusts `what` no more. Connections that are there already go on.
pub fn remove(target: Option<&Target>, what: &[Trusted]) -> Result<Vec<PoolTrust>> {
    let mut pools = pools(target)?;
    for prefix in what.iter().flat_map(Trusted::prefixes) {
        let mut found = false;
        for (_, _, pins) in &mut pools {
            found |= pins.distrust(prefix)?;
        }
        if !found {
            return Err(Refusal::new(
                format!("{prefix} is not trusted"),
                "`sticky trust list` shows what is; name it as it stands there",
            )
            .into());
        }
    }
    list(target)
}

fn pools(target: Option<&Target>) -> Result<Vec<(PoolId, PathBuf, Pins)>> {
    let mut pools = pool::named(target)?;
    pools.retain(|(id, ..)| id.protocol == Protocol::Tcp);
    if pools.is_empty() {
        let what = "there is no TCP pool, and a datagram has no header that names another client";
        return Err(Refusal::new(what, "`sticky status` lists the pools").into());
    }
    Ok(pools)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_addresses_and_names() {
        let parse = |text: &str| text.parse::<Trusted>().map(|trusted| List(trusted.prefixes()).to_string());
        for (text, prefixes) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("loopback", "127.0.0.0/8, ::1/128"),
            ("linklocal", "169.254.0.0/16, fe80::/10"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2000::/3", "2000::/3"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(prefixes), "{text}");
        }
        for wrong in ["", "10.0.0.0/33", "localhost", "10.0.0.0/-1", "::/0", "::/95", "fe80::1%eth0"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
