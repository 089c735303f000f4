//! Connections that workers have, told apart by the cgroup their sockets belong to.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use netlink_packet_core::Nla as _;
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{InetResponse, StateFlags};

use crate::pool::id::Protocol;
use crate::sock_diag::{self, Family};

/// `INET_DIAG_CGROUP_ID`: the cgroup in which a socket was made; a connection has its listener's. Since Linux 5.9.
const CGROUP_ID: u16 = 21;

/// How many connections there are at these local ports, by the id of their cgroup. Those in an accept queue count.
///
/// One that moved from a closed listener to another worker's keeps its first cgroup, and is counted there.
pub fn by_cgroup(ports: &BTreeSet<u16>) -> Result<HashMap<u64, usize>> {
    let mut counts = HashMap::new();
    for (&port, family) in ports.iter().flat_map(|port| [(port, Family::V4), (port, Family::V6)]) {
        let states = StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT;
        sock_diag::dump(Protocol::Tcp, family, states, port, |connection| {
            if let Some(cgroup) = cgroup_id(connection) {
                *counts.entry(cgroup).or_default() += 1;
            }
        })
        .context("the kernel's list of connections (`sock_diag`) cannot be read")?;
    }
    Ok(counts)
}

fn cgroup_id(connection: &InetResponse) -> Option<u64> {
    let attribute = connection.nlas.iter().find(|nla| nla.kind() == CGROUP_ID)?;
    let Nla::Other(attribute) = attribute else { return None };
    let mut bytes = [0; 8];
    (attribute.value_len() == bytes.len()).then(|| {
        attribute.emit_value(&mut bytes);
        u64::from_ne_bytes(bytes)
    })
}
