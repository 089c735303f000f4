//! Lists of prefixes, as `--trust` takes them.

use std::net::{IpAddr, Ipv6Addr};

pub struct Prefixes(Vec<(u128, u32)>);

impl Prefixes {
    /// The prefixes of a list with spaces between them.
    pub fn new(list: &str) -> Self {
        Self(list.split_whitespace().map(prefix).collect())
    }

    /// Whether one of them covers this address.
    pub fn contain(&self, ip: IpAddr) -> bool {
        let bits = mapped(ip).to_bits();
        self.0.iter().any(|&(prefix, host)| (bits ^ prefix).checked_shr(host).unwrap_or(0) == 0)
    }
}

/// A prefix as an address, and how many bits are the host's.
fn prefix(text: &str) -> (u128, u32) {
    let (ip, length) = text.split_once('/').expect("a prefix has a length");
    let ip: IpAddr = ip.parse().expect("a prefix starts with an address");
    let length: u32 = length.parse().expect("a prefix's length is a number");
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    (mapped(ip).to_bits(), bits - length)
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}
