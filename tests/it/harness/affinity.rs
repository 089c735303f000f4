//! Which worker a client belongs to, as the library says it, and `sticky explain`.

use std::net::IpAddr;

use serde_json::Value;
use sticky_ebpf::abi::{Config, Table};
use sticky_ebpf::client::Client;
use sticky_ebpf::steer::{affine, steer};

use super::process::{pids, pool, sticky_ok};

/// The test's pool on port 3000 as it was at some moment: by the function that the kernel's program runs, on the maps
/// that it reads.
pub struct Homes {
    config: Config,
    table: Table,
    pids: Vec<Option<u64>>,
}

impl Homes {
    #[track_caller]
    pub fn now() -> Self {
        let namespace = sticky::kernel::network_namespace().expect("a network namespace");
        let mut pools = sticky::pool::read(|id| id.namespace == namespace && id.address.port() == 3000)
            .expect("what is pinned");
        assert_eq!(pools.len(), 1, "not one pool");
        let (_, _, pins) = pools.remove(0);
        let config = pins.config().expect("the pool's configuration");
        let table = pins.table(&config).expect("the lookup table");
        Self { config, table, pids: pids(&pool("3000")) }
    }

    /// The PID of this client's worker.
    #[track_caller]
    pub fn of(&self, client: IpAddr) -> u64 {
        let hash = affine(&self.config, Client::from(client));
        let choice = steer(&self.config, &self.table, hash, |slot| self.pids[usize::from(slot)].is_some());
        self.pids[usize::from(choice.expect("a live worker").slot)].expect("a PID")
    }
}

/// The PID that `sticky explain` names, given these arguments.
#[track_caller]
pub fn explained(arguments: &[&str]) -> u64 {
    let text = sticky_ok(&[&["explain"], arguments, &["3000", "--json"]].concat());
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer[0]["pid"].as_u64().unwrap_or_else(|| panic!("no PID: {text}"))
}
