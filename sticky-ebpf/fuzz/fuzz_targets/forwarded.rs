//! Whatever the header holds, the client is the one that the rules name.
//!
//! The first byte chooses the header, line feeds end its lines. In `sticky-ebpf`:
//! `cargo +nightly fuzz run forwarded -- -dict=fuzz/forwarded.dict -max_total_time=600`
#![no_main]

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use sticky_ebpf::client::Client;
use sticky_ebpf::forwarded::{ClientHeader, client};

#[path = "../../tests/forwarded/prefixes.rs"]
mod prefixes;
#[path = "../../tests/forwarded/reference.rs"]
mod reference;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fuzz_target!(|input: &[u8]| {
    let [header, lines @ ..] = input else { return };
    let header = match header % 3 {
        0 => ClientHeader::XForwardedFor,
        1 => ClientHeader::Forwarded,
        _ => ClientHeader::Single,
    };
    let lines: Vec<&[u8]> = lines.split(|&byte| byte == b'\n').collect();
    let prefixes = prefixes::Prefixes::new("10.0.0.0/8 1::/16 ::1:0/112");

    let asked = Cell::new(0);
    let found = client(header, PEER.into(), &lines, |client: Client| {
        asked.set(asked.get() + 1);
        prefixes.contain(client.into())
    });
    let expected = reference::client(header, PEER, &lines, |ip| prefixes.contain(ip));
    assert_eq!(IpAddr::from(found), expected, "{header:?}");

    // Once for the peer, and once for what stands before each comma and each line's end.
    let entries = lines.len() + lines.concat().iter().filter(|&&byte| byte == b',').count();
    assert!(asked.get() <= 1 + entries, "{header:?}: trust was asked {} times", asked.get());
});
