//! The contract between sticky's kernel programs and its user space, and the logic both run.
//!
//! A connection's way through this crate: [`client`] turns its source address into the client that affinity is kept
//! for, [`hash`] turns the client into a number, [`lookup`] turns the number into an order of candidate slots, and
//! [`steer`] takes the first candidate that is alive. When the source is a trusted proxy, [`forwarded`] finds the
//! client in the header where the proxy names it, or [`proxy_protocol`] in what its connection begins with. [`abi`] is
//! what lies in the kernel's maps.
//!
//! Everything here is compiled twice, for the kernel and for the host, so that what `sticky explain` says is what
//! the program does. The kernel programs themselves, in `src/programs`, only read their context and the maps.
#![no_std]
#![deny(unsafe_code)]

pub mod abi;
pub mod client;
pub mod forwarded;
pub mod hash;
pub mod head;
pub mod lookup;
pub mod proxy_protocol;
pub mod steer;

#[cfg(feature = "user")]
mod pod;
#[cfg(test)]
extern crate std;
