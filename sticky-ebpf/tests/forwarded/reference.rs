//! The rules of `sticky_ebpf::forwarded` once more, as they are told: from the right, over a list, with std's parsers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr as _;

use sticky_ebpf::forwarded::ClientHeader;

/// An entry of the list: an address, or something else.
type Entry = Option<IpAddr>;

/// The client of a connection from `peer`.
pub fn client(
    header: ClientHeader,
    peer: IpAddr,
    lines: &[impl AsRef<[u8]>],
    trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    if !trusted(peer) {
        return peer;
    }
    let lines = lines.iter().map(AsRef::as_ref);
    let entries: Vec<Entry> = match header {
        ClientHeader::XForwardedFor => lines.flat_map(x_forwarded_for).collect(),
        ClientHeader::Forwarded => lines.flat_map(forwarded).collect(),
        ClientHeader::Single => {
            let lines: Vec<&[u8]> = lines.collect();
            let [line] = lines[..] else { return peer };
            vec![address(trim(line))]
        }
    };
    let mut client = peer;
    for entry in entries.into_iter().rev() {
        let Some(ip) = entry else { break };
        client = ip;
        if !trusted(ip) {
            break;
        }
    }
    client
}

fn x_forwarded_for(line: &[u8]) -> Vec<Entry> {
    line.split(|&byte| byte == b',').map(trim).filter(|entry| !entry.is_empty()).map(address).collect()
}

fn forwarded(line: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut rest = Some(line);
    while let Some(text) = rest {
        let end = text.iter().position(|&byte| byte == b',').unwrap_or(text.len());
        if trim(&text[..end]).is_empty() {
            rest = text.get(end + 1..);
            continue;
        }
        let (entry, after) = element(text);
        entries.push(entry);
        rest = after;
    }
    entries
}

/// An element of `Forwarded`, and what follows its comma.
fn element(text: &[u8]) -> (Entry, Option<&[u8]>) {
    let mut nodes = Vec::new();
    let mut rest = text;
    loop {
        let parameter = match parameter(rest) {
            Ok(parameter) => parameter,
            Err(after) => return (None, after),
        };
        if parameter.name.eq_ignore_ascii_case(b"for") {
            nodes.push(parameter.value);
        }
        match parameter.after {
            [b';', after @ ..] => rest = after,
            [b',', after @ ..] => return (node(&nodes), Some(after)),
            _ => return (node(&nodes), None),
        }
    }
}

fn node(nodes: &[Vec<u8>]) -> Entry {
    let [node] = nodes else { return None };
    address(node)
}

struct Parameter<'a> {
    name: &'a [u8],
    value: Vec<u8>,
    /// Empty, or from the semicolon or comma.
    after: &'a [u8],
}

/// The parameter at the start of `text`; if there is none, what follows the next comma.
fn parameter(text: &[u8]) -> Result<Parameter<'_>, Option<&[u8]>> {
    let end = text.iter().position(|byte| b";,\"".contains(byte)).unwrap_or(text.len());
    let (before, after) = text.split_at(end);
    let before = trim(before);
    let malformed = Err(after_comma(after));
    if before.iter().any(|&byte| is_blank(byte)) {
        return malformed;
    }
    let equals = before.iter().position(|&byte| byte == b'=');
    let Some(quoted) = after.strip_prefix(b"\"") else {
        let (name, value) = equals.map_or((before, &[][..]), |at| (&before[..at], &before[at + 1..]));
        // `for` alone is no node, and neither is `for=`.
        let name = if equals.is_some() { name } else { b"" };
        return Ok(Parameter { name, value: value.to_vec(), after });
    };
    // The quote must stand right behind the first equals sign.
    if equals.map(|at| at + 1) != Some(before.len()) || text.get(end - 1) != Some(&b'=') {
        return malformed;
    }
    let Some((value, after)) = unquote(quoted) else { return Err(None) };
    let blanks = after.iter().take_while(|&&byte| is_blank(byte)).count();
    let after = &after[blanks..];
    if matches!(after, [] | [b';' | b',', ..]) {
        Ok(Parameter { name: &before[..before.len() - 1], value, after })
    } else {
        Err(after_comma(after))
    }
}

/// The value of a quoted string whose first quote is gone, and what follows the last one.
fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut bytes = text.iter();
    loop {
        match bytes.next()? {
            b'"' => return Some((value, bytes.as_slice())),
            b'\\' => value.push(*bytes.next()?),
            &byte => value.push(byte),
        }
    }
}

fn after_comma(text: &[u8]) -> Option<&[u8]> {
    let comma = text.iter().position(|&byte| byte == b',')?;
    Some(&text[comma + 1..])
}

/// An address with at most a port.
pub fn address(text: &[u8]) -> Entry {
    let text = std::str::from_utf8(text).ok()?;
    let ip = if let Some(bracketed) = text.strip_prefix('[') {
        let (ip, after) = bracketed.split_once(']')?;
        if !after.is_empty() && !is_port(after.strip_prefix(':')?) {
            return None;
        }
        ipv6(ip)?
    } else if let Ok(ip) = Ipv4Addr::from_str(text) {
        ip.into()
    } else if let Some((Ok(ip), port)) = text.split_once(':').map(|(ip, port)| (Ipv4Addr::from_str(ip), port))
    {
        if !is_port(port) {
            return None;
        }
        ip.into()
    } else {
        ipv6(text)?
    };
    let ip = ip.to_canonical();
    (!ip.is_unspecified()).then_some(ip)
}

fn ipv6(text: &str) -> Option<IpAddr> {
    let (ip, zone) = text.split_once('%').map_or((text, None), |(ip, zone)| (ip, Some(zone)));
    if zone.is_some_and(|zone| zone.is_empty() || !zone.chars().all(|c| is_obfuscated(c) || "~%".contains(c)))
    {
        return None;
    }
    Ipv6Addr::from_str(ip).ok().map(IpAddr::V6)
}

fn is_port(text: &str) -> bool {
    if let Some(name) = text.strip_prefix('_') {
        return !name.is_empty() && name.chars().all(is_obfuscated);
    }
    text.len() <= 5 && text.chars().all(|c| c.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn is_obfuscated(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}
