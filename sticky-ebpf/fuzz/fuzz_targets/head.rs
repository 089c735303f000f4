//! Whatever a head holds, what it is taken for is what a plain reading of the rules comes to.
//!
//! In `sticky-ebpf`: `cargo +nightly fuzz run head -- -dict=fuzz/head.dict -max_len=2048 -max_total_time=600`
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use sticky_ebpf::client::Client;
use sticky_ebpf::forwarded::HeaderName;
use sticky_ebpf::head::{Verdict, verdict};

#[path = "../../tests/head/reference.rs"]
mod reference;

/// 10.0.0.0/8 is trusted.
fn trusted(client: Client) -> bool {
    matches!(IpAddr::from(client), IpAddr::V4(ip) if ip.octets()[0] == 10)
}

fuzz_target!(|bytes: &[u8]| {
    let (header, peer) = (HeaderName::X_FORWARDED_FOR, reference::client("10.0.0.1"));
    let found = verdict(&header, peer, bytes, trusted);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|end| end + 4);
    match (found, end.and_then(|end| std::str::from_utf8(&bytes[..end]).ok())) {
        // What it is not sure of, it leaves to the redirect.
        (Verdict::Incomplete | Verdict::TooLong | Verdict::Http2 | Verdict::Strange, None) => {}
        // Strange, but too short for the scan to see.
        (Verdict::Incomplete, Some(head)) => {
            assert_eq!(reference::verdict(&header, peer, head, trusted), Verdict::Strange, "{head:?}");
        }
        (found, Some(head)) => assert_eq!(found, reference::verdict(&header, peer, head, trusted), "{head:?}"),
        // Not text, which the reference does not read; or without an end.
        (Verdict::Client(_) | Verdict::Shared(_), None) => assert!(end.is_some(), "a head without an end"),
    }
});
