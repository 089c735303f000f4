use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::*;
use crate::abi::{Memory, TABLE_LEN};
use crate::client::Masks;
use crate::hash::Seed;
use crate::lookup::build;
use proptest::prelude::*;

/// For how long clients are remembered.
const REMEMBER: u32 = 100;

/// A pool's maps, without a kernel.
struct Pool {
    config: Config,
    table: Table,
    dead: BTreeSet<Slot>,
    standings: Vec<Standing>,
    pins: BTreeMap<[u64; 2], Pin>,
    open: Vec<u64>,
    known: RefCell<BTreeMap<[u64; 2], Known>>,
    moved: RefCell<Vec<(Slot, u64)>>,
    now: Cell<Moment>,
    /// Whether the affinity table is read a moment too early.
    early: Cell<bool>,
}

fn pool(slots: u32) -> Pool {
    let seed = Seed([1, 2]);
    let mut table = Table { entries: [0; TABLE_LEN] };
    build(&mut table, slots as usize, seed);
    let mut config = Config::new(slots, seed, Masks::new(32, 64));
    config.memory = Memory::NONE.with_remember(REMEMBER);
    Pool {
        config,
        table,
        dead: BTreeSet::new(),
        standings: std::vec![Standing::default(); MAX_SLOTS],
        pins: BTreeMap::new(),
        open: std::vec![0; MAX_SLOTS],
        known: RefCell::default(),
        moved: RefCell::default(),
        now: Cell::new(Moment::default().after(1000)),
        early: Cell::default(),
    }
}

impl Maps for Pool {
    fn now(&self) -> Moment {
        self.now.get()
    }
    fn pin(&self, client: Client) -> Option<Pin> {
        self.pins.get(&client.words()).copied()
    }
    fn known(&self, client: Client) -> Known {
        let known = self.known.borrow().get(&client.words()).copied();
        known.filter(|_| !self.early.get()).unwrap_or(Known::NOBODY)
    }
    fn renew(&self, client: Client, old: Known, new: Known) -> Known {
        let mut known = self.known.borrow_mut();
        let says = known.entry(client.words()).or_insert(new);
        if *says == old {
            *says = new;
        }
        *says
    }
    fn standing(&self, slot: Slot) -> Option<&Standing> {
        self.standings.get(usize::from(slot))
    }
    fn open(&self, slot: Slot) -> u64 {
        self.open[usize::from(slot)]
    }
    fn select(&self, slot: Slot) -> bool {
        u32::from(slot) < self.config.slots && !self.dead.contains(&slot)
    }
    fn moved(&self, from: Slot, cause: u64) {
        self.moved.borrow_mut().push((from, cause));
    }
    fn forget(&self, number: u64) -> u64 {
        number
    }
}

impl Pool {
    fn steer(&self, client: Client) -> Option<Choice> {
        steer(&self.config, &self.table, Whom::client(&self.config, client), self)
    }

    fn slot(&self, client: u32) -> Slot {
        self.steer(Client::v4(client)).expect("somebody is alive").slot
    }

    /// Where so many clients are, counted by slot.
    fn takers(&self, clients: core::ops::Range<u32>) -> Vec<u32> {
        let mut takers = std::vec![0; self.config.slots as usize];
        clients.for_each(|client| takers[usize::from(self.slot(client))] += 1);
        takers
    }

    fn pass(&self, units: u32) {
        self.now.set(self.now.get().after(units));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_worker_gone_moves_only_its_clients(gone in 0u16..8, address: u32, remember: bool) {
        let mut pool = pool(8);
        pool.config.memory = Memory::NONE.with_remember(if remember { REMEMBER } else { 0 });
        let client = Client::v4(address);
        let before = pool.steer(client).expect("all are alive");
        prop_assert_eq!(before.outcome, Outcome::Table);
        pool.dead.insert(gone);
        let after = pool.steer(client).expect("seven are alive");
        if before.slot == gone {
            prop_assert!(after.slot != gone && after.outcome == Outcome::Next);
            prop_assert_eq!(pool.moved.borrow().len(), usize::from(remember));
        } else {
            prop_assert_eq!(after.slot, before.slot);
            prop_assert_eq!(pool.moved.borrow().len(), 0);
        }
        // Back again: who moved stays where it is, if it is known there.
        pool.dead.clear();
        let back = pool.steer(client).expect("all are alive");
        prop_assert_eq!(back.slot, if remember { after.slot } else { before.slot });
        prop_assert_eq!(back.outcome, if remember { Outcome::Known } else { Outcome::Table });
    }

    #[test]
    fn the_last_worker_alive_is_always_found(slots in 1u32..=MAX_SLOTS as u32, pick: u16, words: [u64; 2], mode in 0..3) {
        let mut pool = pool(slots);
        let last = pick % slots as u16;
        pool.dead = (0..slots as Slot).filter(|slot| *slot != last).collect();
        let now = pool.now();
        let standing = &mut pool.standings[usize::from(last)];
        *standing = match mode {
            0 => standing.ready(now, 0),
            1 => standing.draining(now, 0, 0),
            _ => standing.maintenance(now),
        };
        for _ in 0..2 {
            let found = pool.steer(Client::v6(words));
            prop_assert_eq!(found.map(|choice| choice.slot), Some(last));
        }
    }

    #[test]
    fn nobody_alive_is_nobody(words: [u64; 2]) {
        let mut pool = pool(4);
        pool.dead.extend(0..4);
        prop_assert_eq!(pool.steer(Client::v6(words)), None);
    }

    #[test]
    fn known_clients_stay_when_slots_are_added(from in 1u32..32, to in 32u32..64) {
        let mut pool = pool(from);
        let homes: Vec<_> = (0..200).map(|client| pool.slot(client)).collect();
        pool.config.slots = to;
        build(&mut pool.table, to as usize, pool.config.seed);
        for (client, home) in (0..).zip(homes) {
            prop_assert_eq!(pool.slot(client), home);
        }
        prop_assert!(pool.takers(1000..3000).iter().skip(from as usize).any(|taken| *taken > 0));
    }
}

#[test]
fn a_dead_workers_clients_spread_over_the_others() {
    let mut pool = pool(4);
    let first = pool.takers(0..4000);
    pool.dead.insert(2);
    let then = pool.takers(0..4000);
    assert_eq!(then[2], 0);
    assert!([0, 1, 3].iter().all(|&slot| then[slot] > first[slot] + 200), "{first:?} {then:?}");
}

#[test]
fn clients_are_forgotten_after_their_time() {
    let mut pool = pool(4);
    pool.dead.extend([0, 1, 2]);
    assert_eq!(pool.takers(0..100), [0, 0, 0, 100]);
    pool.dead.clear();
    pool.pass(REMEMBER - 1);
    assert_eq!(pool.takers(0..50), [0, 0, 0, 50]);
    pool.pass(REMEMBER - 1);
    assert_eq!(pool.takers(0..50), [0, 0, 0, 50], "each connection begins the time anew");
    assert!(pool.takers(50..100)[3] < 40, "who did not come is placed anew");
    assert!(pool.moved.borrow().is_empty(), "nobody was known who moved");
}

#[test]
fn a_draining_slot_keeps_whom_it_has_until_they_are_gone() {
    let mut pool = pool(4);
    let homes: Vec<_> = (0..400).map(|client| pool.slot(client)).collect();
    pool.standings[1] = pool.standings[1].draining(pool.now(), 0, 10);
    assert_eq!(pool.takers(1000..2000)[1], 0, "no new clients");
    pool.pass(9);
    let at_1: Vec<u32> = (0..400).filter(|client| homes[*client as usize] == 1).collect();
    let (come, gone) = at_1.split_at(at_1.len() / 2);
    assert!(come.iter().all(|client| pool.slot(*client) == 1));
    pool.pass(9);
    assert!(come.iter().all(|client| pool.slot(*client) == 1));
    assert!(gone.iter().all(|client| pool.slot(*client) != 1));
    assert_eq!(*pool.moved.borrow(), std::vec![(1, Cause::Drained as u64); gone.len()]);
    // A limit ends it for all.
    pool.standings[1] = pool.standings[1].draining(pool.now(), 5, 0);
    pool.pass(4);
    assert!(come.iter().all(|client| pool.slot(*client) == 1));
    pool.pass(1);
    assert!(come.iter().all(|client| pool.slot(*client) != 1));
}

#[test]
fn the_last_slot_that_takes_new_clients_is_always_found() {
    let mut pool = pool(64);
    let now = pool.now();
    for slot in (0..64).filter(|slot| *slot != 5) {
        pool.standings[slot] = pool.standings[slot].draining(now, 0, 0);
    }
    assert_eq!(pool.takers(0..500)[5], 500);
    assert_eq!(pool.steer(Client::v4(0)).map(|choice| choice.outcome), Some(Outcome::Known));
    pool.standings[5] = pool.standings[5].draining(now, 0, 0);
    assert!(
        pool.takers(1000..1500).iter().all(|taken| *taken < 50),
        "nobody is refused, nor do all go to one"
    );
}

#[test]
fn maintenance_moves_everybody_and_ready_takes_back_nobody() {
    let mut pool = pool(4);
    let homes: Vec<_> = (0..400).map(|client| pool.slot(client)).collect();
    pool.standings[2] = pool.standings[2].maintenance(pool.now());
    let then: Vec<_> = (0..400).map(|client| pool.slot(client)).collect();
    for (was, is) in homes.iter().zip(&then) {
        assert!(*is != 2 && (*was == 2 || was == is));
    }
    let moved = homes.iter().filter(|slot| **slot == 2).count();
    assert_eq!(*pool.moved.borrow(), std::vec![(2, Cause::Maintenance as u64); moved]);
    pool.standings[2] = pool.standings[2].ready(pool.now(), 0);
    assert!((0..400).zip(then).all(|(client, slot)| pool.slot(client) == slot));
}

#[test]
fn shares_are_those_of_weights_and_of_time() {
    let mut pool = pool(4);
    pool.config.memory = Memory::NONE;
    let clients = 0..20_000;
    let share = |pool: &Pool| {
        let takers = pool.takers(clients.clone());
        f64::from(takers[3]) / f64::from(takers.iter().sum::<u32>())
    };
    let near =
        |share: f64, expected: f64| assert!((share - expected).abs() < 0.02, "{share}, not {expected}");
    near(share(&pool), 0.25);
    pool.standings[3] = pool.standings[3].with_weight(Standing::FULL / 2);
    near(share(&pool), 0.5 / 3.5);
    pool.standings[3] = pool.standings[3].with_weight(Standing::FULL).ready(pool.now(), 99);
    near(share(&pool), 0.01 / 3.01);
    pool.pass(49);
    near(share(&pool), 0.5 / 3.5);
    pool.pass(50);
    near(share(&pool), 0.25);
    // Whom a growing share takes, it keeps.
    pool.standings[3] = pool.standings[3].with_weight(0);
    near(share(&pool), 0.0);
}

#[test]
fn pins_come_before_all_else_until_they_end() {
    let mut pool = pool(4);
    let client = Client::v4(7);
    let home = pool.slot(7);
    let other = (home + 1) % 4;
    pool.pins.insert(client.words(), Pin::new(other, pool.now().after(10)));
    assert_eq!(pool.slot(7), home, "without the flag nobody looks for pins");
    pool.config.memory = pool.config.memory.with_pins();
    assert_eq!(pool.steer(client), Some(Choice { slot: other, outcome: Outcome::Pinned }));
    pool.dead.insert(other);
    assert_eq!(pool.slot(7), home, "a pin to nobody is none");
    pool.dead.clear();
    pool.pass(10);
    assert_eq!(pool.slot(7), home);
    pool.pins.insert(client.words(), Pin::new(other, Pin::FOR_EVER));
    assert_eq!(pool.slot(7), other);
}

#[test]
fn of_two_connections_at_once_the_later_goes_where_the_first_went() {
    let mut pool = pool(4);
    pool.config.memory = pool.config.memory.with_place(Place::Least);
    let homes: Vec<_> = (0..200).map(|client| pool.slot(client)).collect();
    pool.early.set(true);
    // Each would be placed elsewhere by now.
    for (client, home) in (0..).zip(&homes) {
        pool.open.iter_mut().for_each(|open| *open = 0);
        pool.open[usize::from(*home)] = 1000;
        let choice = pool.steer(Client::v4(client)).expect("all are alive");
        assert_eq!(choice, Choice { slot: *home, outcome: Outcome::Known });
    }
    // Unless nobody is there any more.
    pool.dead.insert(homes[0]);
    assert!(pool.slot(0) != homes[0]);
}

#[test]
fn the_less_loaded_of_two_is_taken() {
    let mut pool = pool(4);
    pool.config.memory = pool.config.memory.with_place(Place::Least);
    pool.open[0] = 1000;
    let takers = pool.takers(0..1000);
    assert_eq!(takers[0], 0, "{takers:?}");
    // Half as many connections at a quarter of the share are more.
    pool.open = std::vec![100; MAX_SLOTS];
    pool.open[1] = 50;
    pool.standings[1] = pool.standings[1].with_weight(Standing::FULL / 4);
    assert!(pool.takers(1000..3000)[1] < 20);
    pool.open[1] = 20;
    assert!(pool.takers(3000..5000)[1] > 200);
    // Alone among the living, it is taken whatever it has.
    pool.dead.extend([1, 2, 3]);
    assert_eq!(pool.slot(9999), 0);
}
