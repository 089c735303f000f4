//! What lies in the kernel's maps: layouts, sizes and names.
//!
//! Each pool has its own set of maps, pinned under `/sys/fs/bpf/sticky/<pool>/` by the names in [`maps`]. Programs of
//! another version may still be attached to what is pinned, so a change to anything here raises [`VERSION`]; the map
//! that holds the version never changes its own layout.

use core::mem::{align_of, offset_of, size_of};

use crate::client::{Client, Masks};
use crate::hash::Seed;

mod counters;
mod guard;
mod memory;
mod proxies;

pub use counters::{
    COUNTERS, Event, Outcome, REDIRECTED, moved_counter, redirect_moved_counter, slot_counter,
};
pub use guard::{Observer, Repair, Tampering};
pub use memory::{Cause, Counted, Known, Memory, Mode, Moment, Pin, Place, Standing};
pub use proxies::{Gate, Proxies, ProxyProtocol, Sharing};

/// The version of everything in this file.
pub const VERSION: u32 = 4;

/// The most slots a pool can have.
pub const MAX_SLOTS: usize = 256;

/// Entries of the lookup table; a power of two. At [`MAX_SLOTS`] each slot still owns 64 of them.
pub const TABLE_LEN: usize = 1 << 14;

/// A listening socket's stable number in its pool, its index in the socket array.
pub type Slot = u16;

/// The index of the redirect's listening socket in the socket array, behind all slots.
pub const REDIRECT: Slot = MAX_SLOTS as Slot;

/// The index of the gate's listening socket, which answers SYNs with cookies.
pub const GATE: Slot = REDIRECT + 1;

/// The index of the sink's, which swallows segments that nothing can be made of yet.
pub const SINK: Slot = REDIRECT + 2;

/// The index of a new worker's socket while it is asked whether it is ready, before it has a slot.
pub const CHECKED: Slot = REDIRECT + 3;

/// Entries of the socket array: the slots, and sockets of our own.
pub const SOCKETS: usize = MAX_SLOTS + 4;

/// The most prefixes that can be trusted.
pub const MAX_TRUSTED: usize = 1024;

/// The most pins.
pub const MAX_PINS: usize = 4096;

/// How many clients are remembered, if nobody says otherwise: the map takes 11 MiB then.
pub const KNOWN: usize = 1 << 17;

/// The most connections of the redirect to workers at a time.
pub const MAX_RELAYED: usize = 1 << 16;

/// The most connections whose client is remembered after the gate sent them to a worker: those that may last, and all where
/// workers are to see their clients. The oldest are forgotten.
pub const MAX_GATED: usize = 1 << 14;

/// Places for the numbers by which connections to the gate were just opened: one for each port of an address.
pub const MAX_OPENED: usize = 1 << 16;

/// Names of maps and programs: in the object, and as files of the pool's directory.
pub mod maps {
    use super::{Client, Config, Counted, Known, Pin, Relay, Source, Standing, Table};

    /// `Array<u32>` of one: [`super::VERSION`].
    pub const VERSION: &str = "VERSION";
    /// `Array<Config>` of one.
    pub const CONFIG: &str = "CONFIG";
    /// `Array<Table>` of two: the current lookup table and the one that will replace it.
    pub const TABLES: &str = "TABLES";
    /// Socket array, slot → listening socket. Read from user space it gives the socket's cookie.
    pub const SOCKETS: &str = "SOCKETS";
    /// `LpmTrie<Client, u8>`: the prefixes of trusted proxies, of v4-mapped addresses for IPv4.
    pub const TRUSTED: &str = "TRUSTED";
    /// `LruHashMap<Client, Known>`, the affinity table: clients under the pool's masks, and the slots they have.
    pub const KNOWN: &str = "KNOWN";
    /// `LpmTrie<Client, Pin>`: prefixes of clients, of v4-mapped addresses for IPv4, and the slots they are to have.
    pub const PINS: &str = "PINS";
    /// `Array<Standing>` of [`super::MAX_SLOTS`].
    pub const STANDINGS: &str = "STANDINGS";
    /// `Array<u64>` of [`super::MAX_SLOTS`]: connections that are open, while they are counted.
    pub const OPEN: &str = "OPEN";
    /// Storage of sockets, `i32` → [`Counted`]: what is counted in [`OPEN`].
    pub const COUNTED: &str = "COUNTED";
    /// `HashMap<Source, Relay>`: the redirect's own connections.
    pub const RELAYED: &str = "RELAYED";
    /// `LruHashMap<Source, Client>`: connections that the gate sent to workers, and their clients.
    pub const GATED: &str = "GATED";
    /// By which number connections to the gate were just opened; not pinned.
    pub const OPENED: &str = "OPENED";
    /// Program array of one: the program that reads a first segment, while there is a gate; not pinned.
    pub const READER: &str = "READER";
    /// `Array<u64>` of [`super::REDIRECTED`]: what the redirect did, as it counts itself.
    pub const REDIRECTED: &str = "REDIRECTED";
    /// `PerCpuArray<u64>` of [`super::COUNTERS`].
    pub const COUNTERS: &str = "COUNTERS";

    /// What is pinned: each map's name, and its sizes of a key and a value. What has another size was left by another
    /// version.
    pub const PINNED: [(&str, usize, usize); 15] = [
        (VERSION, 4, 4),
        (CONFIG, 4, size_of::<Config>()),
        (TABLES, 4, size_of::<Table>()),
        (SOCKETS, 4, 8),
        (COUNTERS, 4, 8),
        (TRUSTED, 4 + size_of::<Client>(), 1),
        (KNOWN, size_of::<Client>(), size_of::<Known>()),
        (PINS, 4 + size_of::<Client>(), size_of::<Pin>()),
        (STANDINGS, 4, size_of::<Standing>()),
        (OPEN, 4, 8),
        (COUNTED, 4, size_of::<Counted>()),
        (RELAYED, size_of::<Source>(), size_of::<Relay>()),
        (GATED, size_of::<Source>(), size_of::<Client>()),
        (REDIRECTED, 4, 8),
        (REPAIRED, 4, 8),
    ];

    /// `Array<u64>` of [`super::Repair::ALL`]: how often the pool was repaired, as whoever follows it counts.
    pub const REPAIRED: &str = "REPAIRED";
    /// Ring buffer: a `u32`, the new TCP state of a socket that began or ceased to listen, or a
    /// [`super::Tampering`]; not pinned.
    pub const CHANGES: &str = "CHANGES";
    /// A constant, not a map: the [`super::Observer`] of the changes to groups' programs.
    pub const OBSERVER: &str = "OBSERVER";
}

/// How a pool is steered. A new version adds fields at the end, so that it can take over what an older one left.
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
    /// How connections of trusted proxies are treated.
    pub proxies: Proxies,
    /// What is remembered of clients.
    pub memory: Memory,
}

impl Config {
    /// A pool of `slots` slots that uses the first of its lookup tables, remembers nobody and trusts no proxy.
    pub const fn new(slots: u32, seed: Seed, masks: Masks) -> Self {
        Self { slots, table: 0, seed, masks, proxies: Proxies::NONE, memory: Memory::NONE }
    }
}

/// What version 3 had for a [`Config`]: its beginning.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ConfigOf3 {
    slots: u32,
    table: u32,
    seed: Seed,
    masks: Masks,
    proxies: Proxies,
}

impl From<ConfigOf3> for Config {
    fn from(ConfigOf3 { slots, table, seed, masks, proxies }: ConfigOf3) -> Self {
        Self { slots, table, seed, masks, proxies, memory: Memory::NONE }
    }
}

/// Where a connection of the redirect to a worker comes from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    address: Client,
    /// The two bytes of network byte order as a number, widened: an array of padding would be filled by `memset`, in
    /// which the verifier finds a loop.
    port: u64,
}

impl Source {
    /// A connection from this address and `port`, in network byte order.
    #[inline(always)]
    pub const fn new(address: Client, port: u16) -> Self {
        Self { address, port: port as u64 }
    }
}

/// What a connection of the redirect is for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay {
    /// The address that the worker sees as its peer's.
    pub shown: Client,
    /// The port that goes with it, in network byte order.
    pub shown_port: u16,
    /// The slot whose worker gets the connection.
    pub slot: Slot,
    padding: u32,
}

impl Relay {
    /// A connection to `slot` that seems to come from `shown` and its port, in network byte order.
    pub const fn new(slot: Slot, shown: Client, shown_port: u16) -> Self {
        Self { shown, shown_port, slot, padding: 0 }
    }
}

/// A lookup table: see [`crate::lookup`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// The slot that owns each entry.
    pub entries: [Slot; TABLE_LEN],
}

const _: () = {
    assert!(TABLE_LEN.is_power_of_two());
    assert!(MAX_SLOTS.is_power_of_two() && MAX_SLOTS <= Slot::MAX as usize);
    assert!(size_of::<Masks>() == 32 && align_of::<Masks>() == 8);
    assert!(size_of::<Config>() == 128 && align_of::<Config>() == 8);
    assert!(offset_of!(Config, proxies) == 56 && offset_of!(Config, memory) == 120);
    assert!(size_of::<ConfigOf3>() == 120 && size_of::<Client>() == 16);
    assert!(size_of::<Source>() == 24 && offset_of!(Source, port) == 16);
    assert!(size_of::<Relay>() == 24 && offset_of!(Relay, shown_port) == 16 && offset_of!(Relay, slot) == 18);
    assert!(offset_of!(Config, table) == 4);
    assert!(offset_of!(Config, seed) == 8);
    assert!(offset_of!(Config, masks) == 24);
    assert!(size_of::<Table>() == 2 * TABLE_LEN);
};
