//! End-to-end tests: the real kernel, real workers, real servers; each test in a network namespace of its own.
//!
//! A test that lacks something fails and names it; `cargo xtask setup` installs what is needed.
#![expect(unsafe_code, reason = "leaving the network namespace")]

mod addresses;
mod attach;
mod crash;
mod faults;
mod gate;
mod harness;
mod kernels;
mod limits;
mod malformed;
mod manual;
mod place;
mod proxies;
mod redirect;
mod refusals;
mod run;
mod socketio;
mod state;
mod steering;
mod trust;
