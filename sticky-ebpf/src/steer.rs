//! Steering: the order in which a connection's slot is looked for.
//!
//! A pin of the client's prefix, the affinity table's entry for the client, the lookup table's candidates, all slots in
//! turn: the first that yields a live socket wins. One function for the kernel, where trying a slot selects its socket,
//! and for the redirect and `sticky explain`, where it looks whether the slot has one.

use crate::abi::{Cause, Config, Known, MAX_SLOTS, Moment, Outcome, Pin, Place, Slot, Standing, Table};
use crate::client::Client;
use crate::hash::hash;
use crate::lookup::{PROBES, candidate, draw, fallback, in_turn};

/// The slot a client gets, and how it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The slot.
    pub slot: Slot,
    /// Which rule found it: [`Outcome::Pinned`], [`Outcome::Known`], [`Outcome::Table`], [`Outcome::Next`],
    /// [`Outcome::Least`] or [`Outcome::Fallback`].
    pub outcome: Outcome,
}

/// What steering reads of a pool, and changes: the kernel's maps, or what user space read from them.
pub trait Maps {
    /// This moment.
    fn now(&self) -> Moment;
    /// The pin of the longest prefix that covers the client.
    fn pin(&self, client: Client) -> Option<Pin>;
    /// What the affinity table says of a client; [`Known::NOBODY`] when it says nothing.
    fn known(&self, client: Client) -> Known;
    /// Has it say `new` if it still says `old`; what it says then.
    fn renew(&self, client: Client, old: Known, new: Known) -> Known;
    /// Has it say that a client of which it said `before` came `now`.
    #[inline(always)]
    fn seen(&self, client: Client, before: Known, now: Moment) {
        self.renew(client, before, Known::new(before.slot, now));
    }
    /// How a slot stands.
    fn standing(&self, slot: Slot) -> Option<&Standing>;
    /// How many connections a slot has open.
    fn open(&self, slot: Slot) -> u64;
    /// Selects a slot's socket; false when there is none.
    fn select(&self, slot: Slot) -> bool;
    /// A known client moved away from a slot.
    fn moved(&self, from: Slot, cause: u64);
    /// The same number, of which a verifier knows nothing any more: it goes on once instead of once for each value.
    fn forget(&self, number: u64) -> u64;
}

/// Whom a connection is steered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whom {
    key: Client,
    lasting: bool,
}

impl Whom {
    /// A client: every connection of it gets the same slot.
    #[inline(always)]
    pub const fn client(config: &Config, client: Client) -> Self {
        Self { key: config.masks.apply(client), lasting: true }
    }

    /// A connection of a proxy whose clients nobody looks for: each by itself, since its address alone would place all of
    /// them alike. `port` is the proxy's.
    #[inline(always)]
    pub const fn connection(proxy: Client, port: u16) -> Self {
        let [high, low] = proxy.words();
        Self { key: Client::v6([high ^ (port as u64) << 48, low]), lasting: false }
    }
}

/// The slot for a connection; `None` when no slot is alive.
#[inline(always)]
pub fn steer<M: Maps>(config: &Config, table: &Table, whom: Whom, maps: &M) -> Option<Choice> {
    let now = maps.now();
    let client = whom.key;
    if whom.lasting
        && config.memory.has_pins()
        && let Some(pin) = maps.pin(client)
        && pin.until > now
        && maps.select(pin.slot)
    {
        return Some(Choice { slot: pin.slot, outcome: Outcome::Pinned });
    }
    let remembers = whom.lasting && config.memory.remember != 0;
    let before = if remembers { maps.known(client) } else { Known::NOBODY };
    let mut leaves = None;
    if before.slot != Known::NOBODY.slot && now.since(before.seen) < config.memory.remember {
        let keeps = maps.standing(before.slot).map_or(Ok(()), |standing| standing.keeps(before.seen, now));
        if keeps.is_ok() && maps.select(before.slot) {
            if before.seen != now {
                maps.seen(client, before, now);
            }
            return Some(Choice { slot: before.slot, outcome: Outcome::Known });
        }
        leaves = Some(keeps.err().unwrap_or(Cause::Gone));
    }
    let before = Known::from_word(maps.forget(before.to_word()));
    let leaves = maps.forget(leaves.map_or(0, |cause| 1 + cause as u64));
    let remembers = maps.forget(u64::from(remembers)) != 0;
    let choice = place(config, table, hash(config.seed, client), now, maps)?;
    if !remembers {
        return Some(choice);
    }
    let says = maps.renew(client, before, Known::new(choice.slot, now));
    // Another connection of this client was a moment faster, and may have come elsewhere.
    let elsewhere = says.slot != choice.slot && (leaves == 0 || says.slot != before.slot);
    if elsewhere && maps.select(says.slot) {
        return Some(Choice { slot: says.slot, outcome: Outcome::Known });
    }
    if leaves != 0 && before.slot != choice.slot {
        maps.moved(before.slot, leaves - 1);
    }
    Some(choice)
}

/// Places a client that is not known, by its hash; or, of the first two candidates, at the one that has less to do.
#[inline(always)]
fn place<M: Maps>(config: &Config, table: &Table, hash: u64, now: Moment, maps: &M) -> Option<Choice> {
    let mut first = Slot::MAX;
    for attempt in 0..PROBES {
        let slot = candidate(table, hash, attempt);
        // In this order: without CAP_PERFMON the verifier also follows what a processor may guess, which goes round a loop
        // for ever unless there is a call on the way.
        if !takes(maps, slot, hash, attempt, now) || slot == first {
            continue;
        }
        if first == Slot::MAX {
            if maps.select(slot) {
                if config.memory.place() == Place::Hash {
                    let outcome = if attempt == 0 { Outcome::Table } else { Outcome::Next };
                    return Some(Choice { slot, outcome });
                }
                first = slot;
            }
        } else {
            if load(maps, slot, now) < load(maps, first, now) && maps.select(slot) {
                first = slot;
            }
            break;
        }
    }
    if first != Slot::MAX {
        return Some(Choice { slot: first, outcome: Outcome::Least });
    }
    let start = fallback(config.slots, hash);
    let mut last = Slot::MAX;
    for attempt in 0..MAX_SLOTS {
        let slot = in_turn(start, attempt);
        if maps.select(slot) {
            last = slot;
            if maps.standing(slot).is_none_or(Standing::is_ready) {
                break;
            }
        }
    }
    // Rather one that takes no new clients than none: nobody is refused while a worker lives.
    (last != Slot::MAX).then_some(Choice { slot: last, outcome: Outcome::Fallback })
}

/// How much a slot has to do, for its share: comparable, and nothing else.
#[inline(always)]
fn load<M: Maps>(maps: &M, slot: Slot, now: Moment) -> u64 {
    (maps.open(slot) << 16) / u64::from(share(maps, slot, now)).max(1)
}

/// A slot's share of new clients, of [`Standing::FULL`].
#[inline(always)]
fn share<M: Maps>(maps: &M, slot: Slot, now: Moment) -> u32 {
    maps.standing(slot).map_or(Standing::FULL, |standing| standing.share(now))
}

/// Whether a slot takes a new client: as many as its share says.
#[inline(always)]
fn takes<M: Maps>(maps: &M, slot: Slot, hash: u64, attempt: u32, now: Moment) -> bool {
    u64::from(draw(hash, attempt)) < maps.forget(u64::from(share(maps, slot, now)))
}

#[cfg(test)]
mod tests;
