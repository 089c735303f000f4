//! Whatever a connection begins with, who is sure of its client comes to the same as the library that the redirect uses.
//!
//! In `sticky-ebpf`:
//! `cargo +nightly fuzz run proxy_protocol -- -dict=fuzz/proxy_protocol.dict -max_len=512 -max_total_time=600`
#![no_main]

use libfuzzer_sys::fuzz_target;
use sticky_ebpf::proxy_protocol::verdict;

#[path = "../../tests/proxy_protocol/reference.rs"]
mod reference;

fuzz_target!(|bytes: &[u8]| {
    let found = verdict(bytes);
    assert!(reference::agrees(found, bytes), "{found:?}, not {:?}", reference::verdict(bytes));
});
