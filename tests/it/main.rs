//! End-to-end tests: the real kernel, real workers, real servers; each test in a network namespace of its own.
//!
//! A test that lacks something fails and names it; `cargo xtask setup` installs what is needed.
#![expect(unsafe_code, reason = "leaving the network namespace, and taking processes along")]

mod addresses;
mod attach;
mod change;
mod crash;
mod faults;
mod gate;
mod guard;
mod harness;
mod kernels;
mod limits;
mod malformed;
mod manual;
mod memory;
mod place;
mod presence;
mod proxies;
mod redirect;
mod refusals;
mod run;
mod slots;
mod socketio;
mod state;
mod steering;
mod trust;
