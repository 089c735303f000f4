//! What lies in the kernel's maps: layouts, sizes and names.
//!
//! Each pool has its own set of maps, pinned under `/sys/fs/bpf/sticky/<pool>/` by the names in [`maps`]. Programs of
//! another version may still be attached to what is pinned, so a change to anything here raises [`VERSION`]; the map
//! that holds the version never changes its own layout.

use core::mem::{align_of, offset_of, size_of};

use crate::client::Masks;
use crate::hash::Seed;

/// The version of everything in this file.
pub const VERSION: u32 = 1;

/// The most slots a pool can have.
pub const MAX_SLOTS: usize = 256;

/// Entries of the lookup table; a power of two. At [`MAX_SLOTS`] each slot still owns 64 of them.
pub const TABLE_LEN: usize = 1 << 14;

/// A listening socket's stable number in its pool, its index in the socket array.
pub type Slot = u16;

/// Names of maps and programs: in the object, and as files of the pool's directory.
pub mod maps {
    /// `Array<u32>` of one: [`super::VERSION`].
    pub const VERSION: &str = "VERSION";
    /// `Array<Config>` of one.
    pub const CONFIG: &str = "CONFIG";
    /// `Array<Table>` of two: the current lookup table and the one that will replace it.
    pub const TABLES: &str = "TABLES";
    /// Socket array, slot → listening socket. Read from user space it gives the socket's cookie.
    pub const SOCKETS: &str = "SOCKETS";
    /// `PerCpuArray<u64>` of [`super::COUNTERS`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of `u32`, the new TCP state of a socket that began or ceased to listen; not pinned.
    pub const LISTEN_EVENTS: &str = "LISTEN_EVENTS";
}

/// How a pool is steered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Slots in use, dead ones included: those below this number.
    pub slots: u32,
    /// Which of the two lookup tables is current: 0 or 1. Writing this word swaps the tables.
    pub table: u32,
    /// The key of the hash.
    pub seed: Seed,
    /// What tells clients apart.
    pub masks: Masks,
}

impl Config {
    /// A pool of `slots` slots that uses the first of its lookup tables.
    pub const fn new(slots: u32, seed: Seed, masks: Masks) -> Self {
        Self { slots, table: 0, seed, masks }
    }
}

/// A lookup table: see [`crate::lookup`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// The slot that owns each entry.
    pub entries: [Slot; TABLE_LEN],
}

/// How the program decided about one connection or datagram.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The lookup table's entry for the client.
    Table = 0,
    /// A later entry of the lookup table, since the first one's slot had no socket.
    Next = 1,
    /// The slots tried in turn, since all of the table's candidates were gone.
    Fallback = 2,
    /// A connection moved here from the queue of a listener that closed.
    Migrated = 3,
    /// No slot had a socket: refused.
    Refused = 4,
    /// The packet's source address could not be read; steered as the client `::`, besides its own outcome.
    NoAddress = 5,
}

impl Outcome {
    /// All outcomes, in the order of their counters.
    pub const ALL: [Self; 6] =
        [Self::Table, Self::Next, Self::Fallback, Self::Migrated, Self::Refused, Self::NoAddress];

    /// The name in `sticky status`, and what it means.
    pub const fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Table => ("table", "chosen by the lookup table"),
            Self::Next => ("next", "chosen as the next candidate, the first one's slot being empty"),
            Self::Fallback => ("fallback", "chosen in turn, all candidates' slots being empty"),
            Self::Migrated => ("migrated", "moved from the queue of a worker that went away"),
            Self::Refused => ("refused", "refused, no worker being alive"),
            Self::NoAddress => ("no_address", "steered without a source address"),
        }
    }
}

/// The counters of outcomes come first, then one for each slot: connections (UDP: datagrams) that it got.
pub const COUNTERS: usize = 8 + MAX_SLOTS;

impl Outcome {
    /// Where the outcome is counted.
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        self as u32
    }
}

/// Where a slot's connections are counted.
#[inline(always)]
pub const fn slot_counter(slot: Slot) -> u32 {
    8 + slot as u32
}

const _: () = {
    assert!(TABLE_LEN.is_power_of_two());
    assert!(MAX_SLOTS.is_power_of_two() && MAX_SLOTS <= Slot::MAX as usize);
    assert!(size_of::<Masks>() == 32 && align_of::<Masks>() == 8);
    assert!(size_of::<Config>() == 56 && align_of::<Config>() == 8);
    assert!(offset_of!(Config, table) == 4);
    assert!(offset_of!(Config, seed) == 8);
    assert!(offset_of!(Config, masks) == 24);
    assert!(size_of::<Table>() == 2 * TABLE_LEN);
    assert!(Outcome::ALL.len() <= 8);
};
