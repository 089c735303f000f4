//! The kernel programs: thin entry points over the logic in the library.
//!
//! - `steer` runs for each new connection of a pool and selects the worker's socket;
//! - `reader` does so for one of a trusted proxy, once its first request is there;
//! - `sink` drops what is to be as good as lost until then;
//! - `bind4` and `bind6` give the sockets of `sticky run`'s workers `SO_REUSEPORT`;
//! - `peer4` and `peer6` show workers the proxy or its client as the peer of the redirect's connections;
//! - `listening` tells user space that a socket began or ceased to listen;
//! - `guard` tells it that somebody changes the program of a reuseport group;
//! - `count` counts the connections that each slot has open, where clients are placed by that;
//! - `empty` does nothing: the bench's zero point.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod bind;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod guard;
#[cfg(target_arch = "bpf")]
mod listening;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod memory;
#[cfg(target_arch = "bpf")]
mod opened;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod peer;
#[cfg(target_arch = "bpf")]
mod reader;
#[cfg(target_arch = "bpf")]
mod sink;
#[cfg(target_arch = "bpf")]
mod steer;

/// Lets `cargo clippy --all-features` build this file for the host.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// Never runs: an endless loop makes the verifier reject any program that could panic.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// `bpf_sk_select_reuseport` is open to GPL-compatible programs only; this project's MIT licence is one of those.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
