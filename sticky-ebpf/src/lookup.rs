//! The lookup table: hash → order of candidate slots, for clients that have not been seen.
//!
//! Built as in Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4:
//! every slot owns nearly the same number of entries, and adding a slot takes entries from all others alike and
//! moves few between them. The paper wants a prime length so that every step visits the whole table; a power of two
//! with odd steps does too, and turns the kernel's modulo into a mask.

use crate::abi::{MAX_SLOTS, Slot, TABLE_LEN, Table};
use crate::client::Client;
use crate::hash::{Seed, hash};

/// Entries of the lookup table that are tried before all slots are tried in turn.
///
/// With half of the slots gone, one client in 65,536 gets past them.
pub const PROBES: u32 = 16;

/// A number below 65,536 for a client of this `hash` and its `attempt`-th candidate, which takes the client if its share
/// is above that: of the bits that do not lead to the candidate, and in even steps.
#[inline(always)]
pub fn draw(hash: u64, attempt: u32) -> u32 {
    // Weyl's sequence: the fractional part of the golden ratio, in 16 bits.
    ((hash >> 48) as u32 + attempt * 0x9e37) & 0xffff
}

/// The `attempt`-th candidate for a client of this `hash`: the entry the hash points at, then others at a distance of the
/// client's own.
///
/// Not the next entries: steps of the slots' walks that are nearly alike make some slots neighbours all over the table,
/// and one of them would get half of the other's clients.
#[inline(always)]
pub fn candidate(table: &Table, hash: u64, attempt: u32) -> Slot {
    table.entries[position(hash, attempt)]
}

/// Where in the table the `attempt`-th candidate stands.
#[inline(always)]
pub fn position(hash: u64, attempt: u32) -> usize {
    let distance = (hash >> 32) as u32 | 1;
    (hash as u32).wrapping_add(attempt.wrapping_mul(distance)) as usize & (TABLE_LEN - 1)
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

/// Fills `table` for slots `0..slots`.
///
/// The result depends on `slots` and the seed alone, so hosts that share a seed agree. `slots` above [`MAX_SLOTS`]
/// counts as [`MAX_SLOTS`]; with none the table is left as it is.
pub fn build(table: &mut Table, slots: usize, seed: Seed) {
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
        build(&mut table, slots, seed);
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
        fn a_slot_that_is_gone_leaves_its_clients_to_all_others_alike(slots in 2..=16usize, k0: u64, k1: u64) {
            let seed = Seed([k0, k1]);
            let table = built(slots, seed);
            let mut heirs = [[0; 16]; 16];
            let clients = 4000 * slots as u64;
            for client in 0..clients {
                let hash = hash(seed, Client::v6([0, client]));
                let first = candidate(&table, hash, 0);
                let next = (1..PROBES).map(|attempt| candidate(&table, hash, attempt)).find(|next| *next != first);
                heirs[usize::from(first)][usize::from(next.unwrap_or(first))] += 1;
            }
            for (first, heirs) in heirs.iter().enumerate().take(slots) {
                let fair = heirs[..slots].iter().sum::<i32>() / (slots as i32 - 1);
                // Five standard deviations.
                let near = |heir: &i32| (heir - fair).pow(2) < 25 * fair;
                prop_assert!((0..slots).filter(|slot| *slot != first).all(|slot| near(&heirs[slot])), "{heirs:?}");
            }
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
