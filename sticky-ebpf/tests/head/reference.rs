//! The same rules with the standard library, for a head that is all there.

use std::net::IpAddr;

use sticky_ebpf::client::Client;
use sticky_ebpf::forwarded::{self, HeaderName};
use sticky_ebpf::head::Verdict;

/// What the complete head `head`, with its empty line, says of a connection from `peer`.
pub fn verdict(header: &HeaderName, peer: Client, head: &str, trusted: fn(Client) -> bool) -> Verdict {
    let other = if head.starts_with("PRI * HT") { Verdict::Http2 } else { Verdict::Strange };
    read(header, peer, head, trusted).unwrap_or(other)
}

fn read(header: &HeaderName, peer: Client, head: &str, trusted: fn(Client) -> bool) -> Option<Verdict> {
    let mut lines = head.strip_suffix("\r\n\r\n")?.split("\r\n");
    let http_1_0 = request(lines.next()?)?;
    let fields: Vec<_> = lines.map(field).collect::<Option<_>>()?;
    let values = |name: &str| {
        let called = move |(other, _): &&(&str, &str)| other.eq_ignore_ascii_case(name);
        fields.iter().filter(called).map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let (hosts, lengths) = (values("host"), values("content-length"));
    let wrong = hosts.len() > 1
        || (hosts.is_empty() && !http_1_0)
        || !hosts.iter().all(|value| host(value.trim_start_matches(' ')))
        || lengths.len() > 1
        || !lengths.iter().all(|value| digits(value.trim_start_matches(' '), 15))
        || !values("transfer-encoding").is_empty()
        || fields.len() > 100;
    if wrong {
        return None;
    }
    let options: Vec<String> = values("connection")
        .iter()
        .flat_map(|value| value.split(','))
        .map(|option| option.replace([' ', '\t'], "").to_ascii_lowercase())
        .collect();
    let has = |option: &str| options.iter().any(|other| other == option);
    if has("close") && has("keep-alive") || options.iter().any(|option| !option.is_ascii()) {
        return None;
    }
    let client = forwarded::client(header.kind(), peer, values(header.as_str()), trusted);
    let alone = has("close") || has("upgrade") || (http_1_0 && !has("keep-alive"));
    Some(if alone { Verdict::Client(client) } else { Verdict::Shared(client) })
}

/// Whether a request line that is in order is HTTP/1.0's.
fn request(line: &str) -> Option<bool> {
    let [method, target, version] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    let known = ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"].contains(&method);
    let path = target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    match version {
        "HTTP/1.0" if known && path => Some(true),
        "HTTP/1.1" if known && path => Some(false),
        _ => None,
    }
}

fn field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let ordinary = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let text = value.bytes().all(|byte| !byte.is_ascii_control() || byte == b'\t');
    (!name.is_empty() && name.bytes().all(ordinary) && text).then_some((name, value))
}

fn host(value: &str) -> bool {
    let (name, port) = value.split_once(':').unwrap_or((value, ""));
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
        && port.bytes().all(|byte| byte.is_ascii_digit())
        // No space after the first letter, or after a colon that nothing comes before.
        && !value.contains(' ')
}

fn digits(value: &str, most: usize) -> bool {
    (1..=most).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit())
}

/// An address.
pub fn client(text: &str) -> Client {
    text.parse::<IpAddr>().expect("an address").into()
}
