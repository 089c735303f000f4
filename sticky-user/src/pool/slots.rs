//! Who sits in a pool's slots, and the changes that are worth a word.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use sticky_ebpf::abi::{MAX_SLOTS, Mode, Slot};

use super::Pool;
use crate::clock;
use crate::group::{self, Member};

/// Which slot a new socket is to get.
pub enum Wish {
    /// This one; a socket that sits there gives way.
    Slot(Slot),
    /// The lowest empty one from this on.
    EmptyFrom(usize),
    /// None, for the reason given: the socket does not belong to us.
    None(String),
}

/// What became of a slot, or of a socket without one.
pub enum Change {
    /// A socket was put into the slot; connections reach it.
    Joined(Slot, Member),
    /// The slot's socket is gone. Who had it.
    Left(Slot, String),
    /// A socket of the group gets no connections, and why.
    Outside(Member, String),
}

/// The occupants of a pool's slots, as last seen.
#[derive(Default)]
pub struct Slots {
    occupants: BTreeMap<Slot, (u64, String)>,
    /// Sockets that have been reported as outside, by cookie.
    outside: HashSet<u64>,
}

impl Slots {
    /// Brings the slots up to date with `members`, the group's sockets: new ones are placed as `wish` says.
    ///
    /// The kernel empties a slot by itself when its socket closes.
    pub fn sync(
        &mut self,
        pool: &mut Pool,
        members: &[Member],
        mut wish: impl FnMut(&Member) -> Wish,
    ) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        let cookies = pool.pins.cookies()?;
        self.occupants.retain(|&slot, (cookie, who)| {
            let stays = cookies.get(usize::from(slot)).is_some_and(|now| *now == Some(*cookie));
            if !stays {
                changes.push(Change::Left(slot, std::mem::take(who)));
            }
            stays
        });
        self.outside.retain(|cookie| members.iter().any(|member| member.listener.cookie == *cookie));
        for member in members {
            let cookie = member.listener.cookie;
            if pool.is_own(cookie) {
                continue;
            }
            if let Some(slot) = cookies.iter().position(|now| *now == Some(cookie)) {
                if let Entry::Vacant(unknown) = self.occupants.entry(slot as Slot)
                    && !member.holders.is_empty()
                {
                    // Placed by an earlier sticky, whose program ours replaces.
                    match member.fetch() {
                        Ok(socket) => pool.take_over(slot as Slot, socket)?,
                        Err(error) if group::is_gone(&error) => continue,
                        Err(error) => return Err(error),
                    }
                    unknown.insert((cookie, member.programs()));
                }
                continue;
            }
            match admit(pool, member, wish(member)) {
                Ok(Some(slot)) => {
                    self.outside.remove(&cookie);
                    self.occupants.insert(slot, (cookie, member.programs()));
                    changes.push(Change::Joined(slot, member.clone()));
                }
                // Its process ended while we looked.
                Ok(None) => {}
                Err(why) => {
                    if self.outside.insert(cookie) {
                        changes.push(Change::Outside(member.clone(), format!("{why:#}")));
                    }
                }
            }
        }
        pool.watch_over(members.iter().filter(|member| self.sits(member.listener.cookie)));
        Ok(changes)
    }

    fn sits(&self, socket: u64) -> bool {
        self.occupants.values().any(|(cookie, _)| *cookie == socket)
    }

    /// How many slots have a socket.
    pub fn live(&self) -> usize {
        self.occupants.len()
    }

    /// Whether this slot has a socket.
    pub fn has(&self, slot: Slot) -> bool {
        self.occupants.contains_key(&slot)
    }
}

impl Pool {
    /// A slot that drains takes clients again as soon as another socket has it.
    pub(super) fn end_drain(&mut self, slot: Slot) -> Result<()> {
        if usize::from(slot) < MAX_SLOTS && self.pins.standing(slot)?.mode() == Mode::Draining {
            self.pins.set_standings([slot].into_iter(), |standing| standing.ready(clock::now(), 0))?;
        }
        Ok(())
    }
}

/// Puts a member into the slot it is to get; `None` when nobody holds the socket any more.
fn admit(pool: &mut Pool, member: &Member, wish: Wish) -> Result<Option<Slot>> {
    let slot = match wish {
        Wish::None(why) => anyhow::bail!(why),
        Wish::Slot(slot) => Some(slot),
        Wish::EmptyFrom(from) => pool.empty_slot(from)?,
    };
    let Some(slot) = slot else {
        anyhow::bail!("all {MAX_SLOTS} slots are taken");
    };
    let socket = match member.fetch() {
        Ok(socket) => socket,
        Err(error) if group::is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !rustix::net::sockopt::socket_reuseport(&socket)? {
        anyhow::bail!("it has no SO_REUSEPORT");
    }
    pool.show_peers(std::slice::from_ref(member));
    pool.place(slot, &socket)?;
    Ok(Some(slot))
}
