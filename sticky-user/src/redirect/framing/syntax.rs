//! The characters that parts of a message are made of.

use std::net::Ipv6Addr;

/// Bytes of a token (RFC 9110 section 5.6.2).
const TOKEN: [bool; 256] = table(b"!#$%&'*+-.^_`|~");
/// Bytes of a registered name but percent-encoded ones (RFC 3986 section 3.2.2).
const NAME: [bool; 256] = table(b"-._~!$&'()*+,;=");

/// Letters, digits and these.
const fn table(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

pub fn token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// The length of the token that `bytes` begin with.
pub fn token_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !token(*byte)).unwrap_or(bytes.len())
}

/// What a header's value has (RFC 9110 section 5.5).
pub fn text(byte: u8) -> bool {
    (byte >= b' ') & (byte != 0x7f) | (byte == b'\t')
}

/// Whether all are. Looks at every byte whatever they are, which the compiler turns into a few vector operations.
pub fn all(bytes: &[u8], is: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |all, byte| all & is(*byte))
}

/// Without the spaces and tabs around it (RFC 9110 section 5.6.3).
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether this is `uri-host [ ":" port ]` (RFC 9110 section 7.2); the host may be empty.
pub fn host_and_port(value: &[u8]) -> bool {
    let port = match value {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let address = str::from_utf8(&rest[..end]).unwrap_or_default();
            if address.parse::<Ipv6Addr>().is_err() {
                return false;
            }
            &rest[end + 1..]
        }
        _ => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            if !registered_name(&value[..end]) {
                return false;
            }
            &value[end..]
        }
    };
    match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

fn registered_name(mut name: &[u8]) -> bool {
    loop {
        name = match name {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if NAME[usize::from(*byte)] => rest,
            _ => return false,
        }
    }
}
