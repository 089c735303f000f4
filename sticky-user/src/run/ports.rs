//! The ports that the workers of a run listen on: each becomes a pool.

use std::collections::{BTreeMap, HashMap};
use std::iter::repeat;

use anyhow::Result;
use sticky_ebpf::abi::Slot;

use super::Plan;
use super::worker::Worker;
use crate::events::{self, Ledger};
use crate::group::{self, Member};
use crate::kernel;
use crate::listeners::{self, LastLook};
use crate::pool::Pool;
use crate::pool::id::{PoolId, Protocol};
use crate::pool::slots::{Change, Slots, Wish};
use crate::redirect::close;
use crate::say::{ready, say};
use crate::watch::Told;

/// The pools of a run.
pub struct Ports<'a> {
    plan: &'a Plan,
    pools: BTreeMap<PoolId, Port>,
    last: LastLook,
}

struct Port {
    pool: Pool,
    slots: Slots,
    complete: bool,
    ledger: Ledger,
}

impl<'a> Ports<'a> {
    /// No pools yet.
    pub fn new(plan: &'a Plan) -> Self {
        Self { plan, pools: BTreeMap::new(), last: LastLook::default() }
    }

    /// Looks at what the workers listen on and brings the pools up to date; true when any of them is served.
    pub fn sync(&mut self, workers: &[Worker], told: &Told) -> Result<bool> {
        self.pools.values_mut().for_each(|port| port.pool.guard(told));
        for (id, port) in &mut self.pools {
            events::log(id, &port.pool.pins, &mut port.ledger)?;
        }
        let listening = listeners::cookies(Protocol::Tcp, kernel::network_namespace()?, |_| true)?;
        if self.last.suffices(&listening) && !self.lacks_redirect() {
            return Ok(self.is_served());
        }
        let mut owners = HashMap::new();
        let groups = group::find(
            Protocol::Tcp,
            |_| true,
            || {
                let processes =
                    |worker: &Worker| worker.cgroup.processes().into_iter().zip(repeat(worker.number));
                owners = workers.iter().flat_map(processes).collect();
                owners.keys().copied()
            },
        )?;
        for group in &groups {
            let ours = group.members.iter().any(|member| !member.holders.is_empty());
            if !self.pools.contains_key(&group.id) && ours && shares_port(&group.members)? {
                let mut pool = Pool::open(group.id, &self.plan.steering)?;
                pool.grow(self.plan.workers)?;
                self.pools.insert(
                    group.id,
                    Port { pool, slots: Slots::default(), complete: false, ledger: Ledger::default() },
                );
            }
        }
        for (id, port) in &mut self.pools {
            let members = groups.iter().find(|group| group.id == *id).map_or(&[][..], |group| &group.members);
            port.sync(members, &owners, self.plan.workers)?;
        }
        self.last.done(listening);
        Ok(self.is_served())
    }

    fn is_served(&self) -> bool {
        self.pools.values().any(|port| port.slots.live() > 0)
    }

    /// Whether some pool began to trust proxies.
    fn lacks_redirect(&self) -> bool {
        self.pools.values().any(|port| port.pool.lacks_redirect())
    }

    /// Takes no more connections of proxies, and returns when those that are there have ended.
    pub async fn close_redirects(&mut self) {
        close(self.pools.values_mut().filter_map(|port| port.pool.take_redirect()).collect()).await;
    }

    /// Forgets the pools, once the workers are gone.
    pub fn remove(&mut self) -> Result<()> {
        while let Some((_, port)) = self.pools.pop_first() {
            port.pool.remove()?;
        }
        Ok(())
    }
}

impl Port {
    fn sync(&mut self, members: &[Member], owners: &HashMap<u32, usize>, workers: usize) -> Result<()> {
        let id = self.pool.id;
        let worker = |member: &Member| member.holders.iter().find_map(|holder| owners.get(&holder.pid));
        let cookies = self.pool.pins.cookies()?;
        let changes = self.slots.sync(&mut self.pool, members, |member| {
            let Some(number) = worker(member) else {
                return Wish::None("no worker of this run has it open".into());
            };
            // A worker's first socket gets the worker's slot, also from what was left of the worker before; a second
            // one, say of another thread, gets a slot behind all workers'.
            let first = cookies.get(number - 1).copied().flatten().is_none_or(|sitting| {
                !members.iter().any(|other| other.listener.cookie == sitting && worker(other) == Some(number))
            });
            if first { Wish::Slot((number - 1) as Slot) } else { Wish::EmptyFrom(workers) }
        })?;
        for change in changes {
            match change {
                Change::Joined(..) | Change::Left(..) => {}
                Change::Outside(member, why) => {
                    let holders = listeners::holders(listeners::processes()).remove(&member.listener.inode);
                    let who = Member { holders: holders.unwrap_or_default(), ..member }.programs();
                    say(format_args!("{id} is also listened on by {who}, which gets no connections: {why}"));
                }
            }
        }
        self.pool.serve_proxies(members)?;
        let complete = (0..workers).all(|slot| self.slots.has(slot as Slot));
        if complete && !self.complete {
            say(format_args!("{id} is complete: {workers} workers listen"));
            ready();
        }
        self.complete = complete;
        Ok(())
    }
}

/// Whether the sockets of a group can be told to share the port: a worker's port 0 cannot, and stays its own.
fn shares_port(members: &[Member]) -> Result<bool> {
    let Some(ours) = members.iter().find(|member| !member.holders.is_empty()) else { return Ok(false) };
    match ours.fetch() {
        Ok(socket) => Ok(rustix::net::sockopt::socket_reuseport(&socket)?),
        Err(error) if group::is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
