//! The ports that the workers of a run listen on: each becomes a pool.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::repeat;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::Result;
use sticky_ebpf::abi::Slot;

use super::Plan;
use super::worker::{Name, Worker};
use crate::detach;
use crate::events::{self, Ledger};
use crate::group::{self, Group, Member};
use crate::inherit;
use crate::kernel;
use crate::known::Clients;
use crate::listeners::{self, LastLook};
use crate::pool::Pool;
use crate::pool::id::{PoolId, Protocol};
use crate::pool::pins::Pins;
use crate::pool::slots::{Change, Slots, Wish};
use crate::redirect::{self, Redirect};
use crate::say::{ready, say};
use crate::watch::Told;

/// The pools of a run.
pub struct Ports<'a> {
    plan: &'a Plan,
    pools: BTreeMap<PoolId, Port>,
    last: LastLook,
    /// Whether an earlier sticky had more workers than there are now.
    surplus: bool,
}

/// The slots that a worker has, or is to have, by pool. Where it has several sockets, its own number's slot comes first.
pub type Seats = BTreeMap<PoolId, Vec<Slot>>;

/// Whose process holds a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The worker of this number, who serves.
    Worker(usize),
    /// One that does not serve yet, or no more.
    Aside,
}

struct Port {
    pool: Pool,
    slots: Slots,
    complete: bool,
    ledger: Ledger,
}

impl<'a> Ports<'a> {
    /// No pools yet.
    pub fn new(plan: &'a Plan, surplus: bool) -> Self {
        Self { plan, pools: BTreeMap::new(), last: LastLook::default(), surplus }
    }

    /// Looks at what the workers listen on and brings the pools up to date; true when any of them is served. Who stands
    /// `aside` gets no slot.
    pub fn sync(&mut self, workers: &[Worker], aside: &[&Worker], told: &Told) -> Result<bool> {
        self.pools.values_mut().for_each(|port| port.pool.guard(told));
        for (id, port) in &mut self.pools {
            port.pool.see_present()?;
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
                    |worker: &Worker, owner| worker.cgroup.processes().into_iter().zip(repeat(owner));
                owners = aside.iter().flat_map(|worker| processes(worker, Owner::Aside)).collect();
                for worker in workers {
                    owners.extend(processes(worker, Owner::Worker(worker.name.number)));
                }
                owners.keys().copied()
            },
        )?;
        // What goes wrong at one pool is not to keep the others from theirs.
        let mut synced = Ok(());
        for group in &groups {
            let serves = |member: &Member| matches!(owner(&owners, member), Some(Owner::Worker(_)));
            let ours = group.members.iter().any(serves);
            if !self.pools.contains_key(&group.id) && ours && shares_port(&group.members)? {
                match self.open(group.id, workers.len()) {
                    Ok(port) => _ = self.pools.insert(group.id, port),
                    Err(error) => synced = synced.and(Err(error)),
                }
            }
        }
        for (id, port) in &mut self.pools {
            let members = groups.iter().find(|group| group.id == *id).map_or(&[][..], |group| &group.members);
            synced = synced.and(port.sync(members, &owners, workers.len()));
        }
        synced?;
        self.last.done(listening);
        Ok(self.is_served())
    }

    fn open(&self, id: PoolId, workers: usize) -> Result<Port> {
        let mut pool = Pool::open(id, &self.plan.steering)?;
        if self.surplus {
            pool.shrink(workers)?;
        }
        pool.grow(workers)?;
        Ok(Port { pool, slots: Slots::default(), complete: false, ledger: Ledger::default() })
    }

    /// The slots that this worker has.
    pub fn seats(&self, worker: &Worker) -> Result<Seats> {
        let mut seats = Seats::new();
        for group in held(worker)? {
            let Some(port) = self.pools.get(&group.id) else { continue };
            let cookies = port.pool.pins.cookies()?;
            let has = |cookie: &Option<u64>| {
                group.members.iter().any(|member| Some(member.listener.cookie) == *cookie)
            };
            let slots = (0..).zip(&cookies).filter(|(_, cookie)| has(cookie)).map(|(slot, _)| slot);
            seats.insert(group.id, slots.collect());
        }
        Ok(seats)
    }

    /// The slots of this name in each pool that all workers serve.
    pub fn seats_for(&self, name: Name) -> Seats {
        let complete = self.pools.iter().filter(|(_, port)| port.complete);
        complete.map(|(id, _)| (*id, vec![name.slot()])).collect()
    }

    /// What this worker does not listen on that has `seats` for it; `None` when it may have them.
    pub fn lacks(&self, worker: &Worker, seats: &Seats) -> Result<Option<String>> {
        let held = held(worker)?;
        for (id, slots) in seats {
            let has = held.iter().find(|group| group.id == *id).map_or(0, |group| group.members.len());
            match (slots.len(), has) {
                (wanted, has) if has >= wanted => {}
                (_, 0) => return Ok(Some(format!("it does not listen on {id}"))),
                (wanted, has) => {
                    return Ok(Some(format!(
                        "it listens on {id} with {has} sockets, where there are {wanted}"
                    )));
                }
            }
        }
        Ok(held.is_empty().then(|| "it listens on no port that can be shared".to_owned()))
    }

    /// Puts the sockets of `worker` into the slots of `seats`; those that it has beyond them into empty ones behind all
    /// `workers`, and sockets in slots that it does not need out of them.
    pub fn seat(&mut self, worker: &Worker, mut seats: Seats, workers: usize) -> Result<()> {
        for group in held(worker)? {
            let Some(Port { pool, .. }) = self.pools.get_mut(&group.id) else { continue };
            let mut slots = seats.remove(&group.id).unwrap_or_else(|| vec![worker.name.slot()]).into_iter();
            pool.show_peers(&group.members);
            for member in &group.members {
                let slot = match slots.next() {
                    Some(slot) => Some(slot),
                    None => pool.empty_slot(workers)?,
                };
                if let Some(slot) = slot {
                    pool.place(slot, member.fetch()?)?;
                }
            }
            slots.try_for_each(|slot| pool.pins.withdraw(slot))?;
        }
        self.last = LastLook::default();
        Ok(())
    }

    /// Has the next look be a thorough one.
    pub fn look_anew(&mut self) {
        self.last = LastLook::default();
    }

    /// Leaves slots for this many workers: nobody new is sent to the others.
    pub fn shrink(&mut self, workers: usize) -> Result<()> {
        self.last = LastLook::default();
        self.pools.values_mut().try_for_each(|port| port.pool.shrink(workers))
    }

    /// The pool whose workers are asked whether they are ready, at this port or the lowest, and what `worker` listens
    /// there with.
    pub fn asked(&mut self, worker: &Worker, port: Option<u16>) -> Result<Option<(&mut Pool, Member)>> {
        let held = held(worker)?;
        let at = |id: &PoolId| port.is_none_or(|port| id.address.port() == port);
        let group = held.into_iter().filter(|group| self.pools.contains_key(&group.id) && at(&group.id));
        let Some(mut group) = group.min_by_key(|group| group.id.address.port()) else { return Ok(None) };
        let pool = self.pools.get_mut(&group.id).map(|port| &mut port.pool);
        Ok(pool.map(|pool| (pool, group.members.remove(0))))
    }

    /// The pools' locks.
    pub fn locks(&self) -> Vec<(PathBuf, &OwnedFd)> {
        self.pools.values().map(|port| port.pool.lock()).collect()
    }

    /// Has this process named as the one that follows the pools.
    pub fn sign(&self) -> Result<()> {
        self.pools.values().try_for_each(|port| inherit::sign(port.pool.lock().1))
    }

    /// Takes the pools back, after another process tried to take them over.
    pub fn reclaim(&mut self) -> Result<()> {
        self.last = LastLook::default();
        self.pools.values_mut().try_for_each(|port| {
            // Adopted anew, each socket gets this process's program.
            port.slots = Slots::default();
            port.pool.reclaim()
        })
    }

    /// The pools' redirects, whose gates are closed.
    pub fn take_redirects(&mut self) -> Vec<Redirect> {
        self.pools.values_mut().filter_map(|port| port.pool.take_redirect()).collect()
    }

    /// The ports that are served.
    pub fn numbers(&self) -> BTreeSet<u16> {
        self.pools.keys().map(|id| id.address.port()).collect()
    }

    /// The pools' names.
    pub fn names(&self) -> Vec<String> {
        self.pools.keys().map(PoolId::to_string).collect()
    }

    /// How many known clients have slots beyond those of so many workers.
    pub fn known_beyond(&self, workers: usize) -> Result<usize> {
        let known =
            |port: &Port| Ok(Clients::now(&port.pool.pins)?.by_slot().iter().skip(workers).sum::<usize>());
        self.pools.values().map(known).sum()
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
        redirect::close(self.take_redirects()).await;
    }

    /// Forgets the pools, once the workers are gone. Who else listens there is the kernel's to serve.
    pub fn remove(&mut self) -> Result<()> {
        while let Some((id, port)) = self.pools.pop_first() {
            let others = group::find(id.protocol, |found| *found == id, listeners::processes);
            let released = others.and_then(|others| others.iter().try_for_each(detach::release));
            released.unwrap_or_else(|error| {
                say(format_args!(
                    "{id}: what else listens there cannot be given back to the kernel: {error:#}"
                ));
            });
            port.pool.remove()?;
        }
        Ok(())
    }
}

impl Port {
    fn sync(&mut self, members: &[Member], owners: &HashMap<u32, Owner>, workers: usize) -> Result<()> {
        let id = self.pool.id;
        let members: Vec<_> =
            members.iter().filter(|member| owner(owners, member) != Some(Owner::Aside)).cloned().collect();
        let members = members.as_slice();
        let worker = |member: &Member| match owner(owners, member) {
            Some(Owner::Worker(number)) => Some(number),
            Some(Owner::Aside) | None => None,
        };
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

fn owner(owners: &HashMap<u32, Owner>, member: &Member) -> Option<Owner> {
    member.holders.iter().find_map(|holder| owners.get(&holder.pid).copied())
}

/// What a worker listens on that others may listen on too.
fn held(worker: &Worker) -> Result<Vec<Group>> {
    let mut found = Vec::new();
    for mut group in group::find(Protocol::Tcp, |_| true, || worker.cgroup.processes())? {
        group.members.retain(|member| !member.holders.is_empty());
        if shares_port(&group.members)? {
            found.push(group);
        }
    }
    Ok(found)
}

/// Whether one of this worker's sockets is in its slot, of any pool that is pinned.
pub fn is_seated(worker: &Worker) -> Result<bool> {
    for group in held(worker)? {
        let Ok(pins) = Pins::open(&kernel::pools_dir().join(group.id.dir_name())) else { continue };
        let seated = pins.cookie(worker.name.slot())?;
        if group.members.iter().any(|member| Some(member.listener.cookie) == seated) {
            return Ok(true);
        }
    }
    Ok(false)
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
