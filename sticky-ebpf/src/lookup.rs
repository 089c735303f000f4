//! The lookup table: hash → order of candidate slots, for clients that have not been seen.
//!
//! Built as in Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4:
//! every slot owns nearly the same number of entries, and adding a slot takes entries from all others alike and
//! moves few between them. The paper wants a prime length so that every step visits the whole table; a power of two
//! with odd steps does too, and turns the kernel's modulo into a mask.

use crate::abi::{MAX_SLOTS, Slot, TABLE_LEN, Table};
use crate::client::Client;
use crate::hash::{Seed, hash};

/// Entries of the lookup table that are tried before all slots are tried in turn, whether they take new clients or not.
///
/// With half of the slots gone, one client in 65,536 gets past them. Slots that take no new clients are not in the table,
/// unless there are no others.
pub const PROBES: u32 = 16;

/// A number below 65,536 for a client of this `hash` and its `attempt`-th candidate, which takes the client if its share
/// is above that: of the bits that do not lead to the candidate, and in even steps.
#[inline(always)]
pub fn draw(hash: u64, attempt: u32) -> u32 {
    // Weyl's sequence: the fractional part of the golden ratio, in 16 bits.
    ((hash >> 48) as u32 + attempt * 0x9e37) & 0xffff
}

/// The `attempt`-th candidate for a client of this `hash`: the entry the hash points at, then those behind it.
#[inline(always)]
pub fn candidate(table: &Table, hash: u64, attempt: u32) -> Slot {
    table.entries[position(hash, attempt)]
}

/// Where in the table the `attempt`-th candidate stands.
#[inline(always)]
pub fn position(hash: u64, attempt: u32) -> usize {
    (hash as u32).wrapping_add(attempt) as usize & (TABLE_LEN - 1)
}

/// Where a client starts to try slots in turn, once the table's candidates are all gone: among the `slots` in use.
#[inline(always)]
pub fn fallback(slots: u32, hash: u64) -> usize {
    (((hash >> 32) * slots as u64) >> 32) as usize
}

/// The `attempt`-th slot in turn from `start` on, of all that a pool can have.
///
/// Slots that are not in use are tried too: a check of each against the number in use would cost the verifier more
/// than they cost a connection that is about to be refused.
#[inline(always)]
pub fn in_turn(start: usize, attempt: usize) -> Slot {
    (start.wrapping_add(attempt) & (MAX_SLOTS - 1)) as Slot
}

/// Fills `table` for slots `0..slots`; the entries of slots that are `closed` go to whoever has the next ones, as if those
/// had been tried and found empty, so that nobody else's client moves.
///
/// The result depends on these and the seed alone, so hosts that share a seed agree. `slots` above [`MAX_SLOTS`]
/// counts as [`MAX_SLOTS`]; with none the table is left as it is.
pub fn build(table: &mut Table, slots: usize, seed: Seed, closed: impl Fn(Slot) -> bool) {
    const FREE: Slot = Slot::MAX;
    let slots = slots.min(MAX_SLOTS);
    if slots == 0 {
        return;
    }
    let mut walks = [Walk { at: 0, step: 0 }; MAX_SLOTS];
    for (slot, walk) in walks.iter_mut().enumerate().take(slots) {
        *walk = Walk::new(seed, slot as u64);
    }
    table.entries = [FREE; TABLE_LEN];
    let mut filled = 0;
    while filled < TABLE_LEN {
        for (slot, walk) in walks.iter_mut().enumerate().take(slots) {
            while table.entries[walk.at] != FREE {
                walk.next();
            }
            table.entries[walk.at] = slot as Slot;
            filled += 1;
            if filled == TABLE_LEN {
                break;
            }
        }
    }
    let Some(mut next) = table.entries.iter().copied().find(|slot| !closed(*slot)) else { return };
    for entry in table.entries.iter_mut().rev() {
        if closed(*entry) {
            *entry = next;
        }
        next = *entry;
    }
}

/// A slot's permutation of the table's positions.
#[derive(Clone, Copy)]
struct Walk {
    at: usize,
    step: usize,
}

impl Walk {
    fn new(seed: Seed, slot: u64) -> Self {
        let hash = hash(seed, Client::v6([slot, 0]));
        Self { at: position(hash, 0), step: ((hash >> 32) as usize | 1) & (TABLE_LEN - 1) }
    }

    fn next(&mut self) {
        self.at = (self.at + self.step) & (TABLE_LEN - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn built(slots: usize, seed: Seed) -> Table {
        let mut table = Table { entries: [0; TABLE_LEN] };
        build(&mut table, slots, seed, |_| false);
        table
    }

    fn shares(table: &Table) -> [usize; MAX_SLOTS] {
        let mut shares = [0; MAX_SLOTS];
        for slot in table.entries {
            shares[usize::from(slot)] += 1;
        }
        shares
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_slot_owns_its_share(slots in 1..=MAX_SLOTS, k0: u64, k1: u64) {
            let shares = shares(&built(slots, Seed([k0, k1])));
            let fair = TABLE_LEN / slots;
            prop_assert!(shares[..slots].iter().all(|&share| share == fair || share == fair + 1));
            prop_assert!(shares[slots..].iter().all(|&share| share == 0));
        }

        #[test]
        fn a_new_slot_takes_little_from_the_others(slots in 1..64usize, k0: u64, k1: u64) {
            let seed = Seed([k0, k1]);
            let (before, after) = (built(slots, seed), built(slots + 1, seed));
            let moved = before.entries.iter().zip(&after.entries).filter(|(was, is)| was != is).count();
            let needed = TABLE_LEN / (slots + 1);
            // The paper's figure 12: a few per cent move without need; half the table would by a modulo.
            prop_assert!(moved <= needed + TABLE_LEN / 8, "{moved} moved, {needed} had to");
        }

        #[test]
        fn closed_slots_are_those_that_would_be_passed_over(slots in 2..=MAX_SLOTS, k0: u64, k1: u64, hash: u64, every in 2..5u16) {
            let seed = Seed([k0, k1]);
            let closed = |slot: Slot| slot.is_multiple_of(every);
            let (all, mut open) = (built(slots, seed), built(slots, seed));
            build(&mut open, slots, seed, closed);
            let first = (0..TABLE_LEN as u32).map(|at| candidate(&all, hash, at)).find(|slot| !closed(*slot));
            prop_assert_eq!(Some(candidate(&open, hash, 0)), first);
            build(&mut open, slots, seed, |_| true);
            prop_assert_eq!(open.entries, all.entries);
        }

        #[test]
        fn the_fallback_tries_every_slot_once(slots in 1..=MAX_SLOTS as u32, hash: u64) {
            let start = fallback(slots, hash);
            prop_assert!(start < slots as usize);
            let mut seen = [false; MAX_SLOTS];
            for attempt in 0..MAX_SLOTS {
                let slot = usize::from(in_turn(start, attempt));
                prop_assert!(!seen[slot]);
                seen[slot] = true;
            }
        }
    }
}
