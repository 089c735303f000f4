//! Which worker a client belongs to, as the library says it, and `sticky explain`.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::Value;
use sticky::pool::view::Snapshot;
use sticky_ebpf::abi::{Known, Moment, Pin, Slot, Standing};
use sticky_ebpf::client::Client;
use sticky_ebpf::steer::{Maps, Whom, steer};

use super::process::{pids, pool, sticky_ok};

/// The test's pool on port 3000 as it was at some moment: by the function that the kernel's program runs, on the maps
/// that it reads.
pub struct Homes {
    snapshot: Snapshot,
    known: HashMap<Client, Known>,
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
        let snapshot = Snapshot::read(&pins, None).expect("the pool");
        let known = pins.clients().expect("the affinity table").into_iter().collect();
        Self { snapshot, known, pids: pids(&pool("3000")) }
    }

    /// The PID of this client's worker.
    #[track_caller]
    pub fn of(&self, client: IpAddr) -> u64 {
        let Snapshot { config, table, .. } = &self.snapshot;
        let choice = steer(config, table, Whom::client(config, Client::from(client)), self);
        self.pids[usize::from(choice.expect("a live worker").slot)].expect("a PID")
    }
}

impl Maps for Homes {
    fn now(&self) -> Moment {
        sticky::clock::now()
    }
    fn pin(&self, _: Client) -> Option<Pin> {
        None
    }
    fn known(&self, client: Client) -> Known {
        self.known.get(&client).copied().unwrap_or(Known::NOBODY)
    }
    fn renew(&self, _: Client, _: Known, new: Known) -> Known {
        new
    }
    fn standing(&self, slot: Slot) -> Option<&Standing> {
        self.snapshot.standings.get(usize::from(slot))
    }
    fn open(&self, _: Slot) -> u64 {
        0
    }
    fn select(&self, slot: Slot) -> bool {
        self.pids.get(usize::from(slot)).is_some_and(Option::is_some)
    }
    fn moved(&self, _: Slot, _: u64) {}
    fn forget(&self, number: u64) -> u64 {
        number
    }
}

/// The PID that `sticky explain` names, given these arguments.
#[track_caller]
pub fn explained(arguments: &[&str]) -> u64 {
    let text = sticky_ok(&[&["explain"], arguments, &["3000", "--json"]].concat());
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer[0]["pid"].as_u64().unwrap_or_else(|| panic!("no PID: {text}"))
}
