//! sticky: kernel-level session affinity for a pool of worker processes.
//!
//! The way of a command: [`cli`] is what was typed; [`run`] supervises workers and [`attach`] follows those that run
//! already. Both find [`listeners`], see in a [`group`] which belong together, and put them into the slots of a
//! [`pool`], whose program steers every connection from then on. Of trusted proxies' connections, those that come through
//! the [`gate`] the program decides as well, and the [`redirect`] has the others. [`status`] and [`explain`] read what is
//! pinned.
#![deny(unsafe_code)]

pub mod attach;
pub mod cgroup;
pub mod cli;
pub mod clock;
pub mod connections;
pub mod control;
pub mod detach;
pub mod events;
pub mod explain;
pub mod gate;
pub mod group;
pub mod inherit;
pub mod kernel;
pub mod known;
pub mod listeners;
pub mod pin;
pub mod pool;
pub mod redirect;
pub mod refusal;
pub mod run;
pub mod say;
pub mod sessions;
pub mod sock_diag;
pub mod standing;
pub mod status;
pub mod stop;
pub mod sys;
pub mod trust;
pub mod watch;
