//! Steering: the order in which a connection's slot is looked for.
//!
//! One function for the kernel, where trying a slot selects its socket, and for `sticky explain`, where it looks
//! whether the slot has one.

use crate::abi::{Config, MAX_SLOTS, Outcome, Slot, Table};
use crate::client::Client;
use crate::hash::hash;
use crate::lookup::{PROBES, candidate, fallback, in_turn};

/// The slot a client gets, and how it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The slot.
    pub slot: Slot,
    /// Which rule found it: [`Outcome::Table`], [`Outcome::Next`] or [`Outcome::Fallback`].
    pub outcome: Outcome,
}

/// What places a client: every connection of it the same.
#[inline(always)]
pub fn affine(config: &Config, client: Client) -> u64 {
    hash(config.seed, config.masks.apply(client))
}

/// What places a connection of a proxy whose clients nobody looks for: each by itself, since its address alone would
/// place all of them alike. `port` is the proxy's.
#[inline(always)]
pub fn spread(config: &Config, proxy: Client, port: u16) -> u64 {
    let [high, low] = proxy.words();
    hash(config.seed, Client::v6([high ^ (port as u64) << 48, low]))
}

/// The first candidate for `hash` that `alive` takes, or `None` when no slot is alive.
#[inline(always)]
pub fn steer(
    config: &Config,
    table: &Table,
    hash: u64,
    mut alive: impl FnMut(Slot) -> bool,
) -> Option<Choice> {
    let slot = candidate(table, hash, 0);
    if alive(slot) {
        return Some(Choice { slot, outcome: Outcome::Table });
    }
    for attempt in 1..PROBES {
        let slot = candidate(table, hash, attempt);
        if alive(slot) {
            return Some(Choice { slot, outcome: Outcome::Next });
        }
    }
    let start = fallback(config.slots, hash);
    for attempt in 0..MAX_SLOTS {
        let slot = in_turn(start, attempt);
        if alive(slot) {
            return Some(Choice { slot, outcome: Outcome::Fallback });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::TABLE_LEN;
    use crate::client::Masks;
    use crate::hash::Seed;
    use crate::lookup::build;
    use proptest::prelude::*;

    fn pool(slots: u32) -> (Config, Table) {
        let seed = Seed([1, 2]);
        let mut table = Table { entries: [0; TABLE_LEN] };
        build(&mut table, slots as usize, seed);
        (Config::new(slots, seed, Masks::new(32, 64)), table)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn one_worker_gone_moves_only_its_clients(gone in 0u16..8, address: u32) {
            let (config, table) = pool(8);
            let client = Client::v4(address);
            let before = steer(&config, &table, affine(&config, client), |_| true).expect("all are alive");
            let after = steer(&config, &table, affine(&config, client), |slot| slot != gone).expect("seven are alive");
            prop_assert_eq!(before.outcome, Outcome::Table);
            if before.slot == gone {
                prop_assert!(after.slot != gone && after.outcome != Outcome::Table);
            } else {
                prop_assert_eq!(before, after);
            }
        }

        #[test]
        fn the_last_worker_alive_is_always_found(slots in 1u32..=MAX_SLOTS as u32, pick: u16, words: [u64; 2]) {
            let (config, table) = pool(slots);
            let last = pick % slots as u16;
            let found = steer(&config, &table, affine(&config, Client::v6(words)), |slot| slot == last);
            prop_assert_eq!(found.map(|choice| choice.slot), Some(last));
        }

        #[test]
        fn nobody_alive_is_nobody(words: [u64; 2]) {
            let (config, table) = pool(4);
            prop_assert_eq!(steer(&config, &table, affine(&config, Client::v6(words)), |_| false), None);
        }
    }

    #[test]
    fn a_dead_workers_clients_spread_over_the_others() {
        let (config, table) = pool(4);
        let mut takers = [0u32; 4];
        for n in 0..4000u32 {
            let client = Client::v4(n);
            if steer(&config, &table, affine(&config, client), |_| true).map(|c| c.slot) == Some(2) {
                let next = steer(&config, &table, affine(&config, client), |slot| slot != 2)
                    .expect("three are alive");
                takers[usize::from(next.slot)] += 1;
            }
        }
        assert_eq!(takers[2], 0);
        assert!(takers.iter().enumerate().all(|(slot, &n)| slot == 2 || n > 200), "{takers:?}");
    }
}
