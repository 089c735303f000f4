//! What lies in the kernel's maps: layouts, sizes and names.
//!
//! Each pool has its own set of maps, pinned under `/sys/fs/bpf/sticky/<pool>/` by the names in [`maps`]. Programs of
//! another version may still be attached to what is pinned, so a change to anything here raises [`VERSION`]; the map
//! that holds the version never changes its own layout.

use core::mem::{align_of, offset_of, size_of};

use crate::client::{Client, Masks};
use crate::forwarded::HeaderName;
use crate::hash::Seed;

/// The version of everything in this file.
pub const VERSION: u32 = 2;

/// The most slots a pool can have.
pub const MAX_SLOTS: usize = 256;

/// Entries of the lookup table; a power of two. At [`MAX_SLOTS`] each slot still owns 64 of them.
pub const TABLE_LEN: usize = 1 << 14;

/// A listening socket's stable number in its pool, its index in the socket array.
pub type Slot = u16;

/// The index of the redirect's listening socket in the socket array, behind all slots.
pub const REDIRECT: Slot = MAX_SLOTS as Slot;

/// Entries of the socket array: the slots and the redirect.
pub const SOCKETS: usize = MAX_SLOTS + 1;

/// The most prefixes that can be trusted.
pub const MAX_TRUSTED: usize = 1024;

/// The most connections of the redirect to workers at a time.
pub const MAX_RELAYED: usize = 1 << 16;

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
    /// `LpmTrie<Client, u8>`: the prefixes of trusted proxies, of v4-mapped addresses for IPv4.
    pub const TRUSTED: &str = "TRUSTED";
    /// `HashMap<Source, Relay>`: the redirect's own connections.
    pub const RELAYED: &str = "RELAYED";
    /// `Array<u64>` of [`super::Event::ALL`]: what the redirect did, as it counts itself.
    pub const REDIRECTED: &str = "REDIRECTED";
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
    /// How connections of trusted proxies are treated.
    pub proxies: Proxies,
}

impl Config {
    /// A pool of `slots` slots that uses the first of its lookup tables, and trusts no proxy.
    pub const fn new(slots: u32, seed: Seed, masks: Masks) -> Self {
        Self { slots, table: 0, seed, masks, proxies: Proxies::NONE }
    }
}

/// How connections of trusted proxies are treated.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxies {
    flags: u32,
    /// The header in which they name the client.
    pub header: HeaderName,
}

/// The PROXY protocol of trusted proxies: what becomes of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The worker gets what comes after it.
    Strip,
    /// The worker gets it too.
    Pass,
}

impl Proxies {
    /// Nobody is trusted.
    pub const NONE: Self = Self { flags: 0, header: HeaderName::X_FORWARDED_FOR };

    const TRUSTING: u32 = 1;
    const STRIP: u32 = 2;
    const PASS: u32 = 4;
    const REAL_CLIENT_ADDRESS: u32 = 8;

    /// Whether anybody is trusted, or was. Where not, the program looks into none of the maps for proxies.
    #[inline(always)]
    pub const fn trusting(&self) -> bool {
        self.flags & Self::TRUSTING != 0
    }

    /// Whether their connections begin with a PROXY header.
    pub const fn protocol(&self) -> Option<ProxyProtocol> {
        match self.flags & (Self::STRIP | Self::PASS) {
            0 => None,
            Self::STRIP => Some(ProxyProtocol::Strip),
            _ => Some(ProxyProtocol::Pass),
        }
    }

    /// Whether workers see the client as their peer, instead of the proxy.
    pub const fn real_client_address(&self) -> bool {
        self.flags & Self::REAL_CLIENT_ADDRESS != 0
    }

    /// The same, with somebody trusted.
    pub const fn trusting_somebody(self) -> Self {
        self.with(Self::TRUSTING, Self::TRUSTING)
    }

    /// The same, with another protocol.
    pub const fn with_protocol(self, protocol: Option<ProxyProtocol>) -> Self {
        let flag = match protocol {
            None => 0,
            Some(ProxyProtocol::Strip) => Self::STRIP,
            Some(ProxyProtocol::Pass) => Self::PASS,
        };
        self.with(Self::STRIP | Self::PASS, flag)
    }

    /// The same, with workers that see the client or the proxy as their peer.
    pub const fn with_real_client_address(self, real: bool) -> Self {
        self.with(Self::REAL_CLIENT_ADDRESS, if real { Self::REAL_CLIENT_ADDRESS } else { 0 })
    }

    const fn with(self, mask: u32, flag: u32) -> Self {
        Self { flags: self.flags & !mask | flag, ..self }
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
    /// A trusted proxy's connection, sent to the redirect.
    Redirected = 6,
    /// The redirect's own connection, sent to the slot that it is for.
    Relayed = 7,
    /// A trusted proxy's connection without a redirect to take it: chosen by the proxy's address and port.
    Unredirected = 8,
}

impl Outcome {
    /// All outcomes, in the order of their counters.
    pub const ALL: [Self; 9] = [
        Self::Table,
        Self::Next,
        Self::Fallback,
        Self::Migrated,
        Self::Refused,
        Self::NoAddress,
        Self::Redirected,
        Self::Relayed,
        Self::Unredirected,
    ];

    /// The name in `sticky status`, and what it means.
    pub const fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Table => ("table", "chosen by the lookup table"),
            Self::Next => ("next", "chosen as the next candidate, the first one's slot being empty"),
            Self::Fallback => ("fallback", "chosen in turn, all candidates' slots being empty"),
            Self::Migrated => ("migrated", "moved from the queue of a worker that went away"),
            Self::Refused => ("refused", "refused, no worker being alive"),
            Self::Redirected => ("redirected", "from trusted proxies, sent to the redirect"),
            Self::Relayed => ("relayed", "from the redirect, sent to the worker of its clients"),
            Self::Unredirected => (
                "unredirected",
                "from trusted proxies, chosen by their address and port for want of a redirect",
            ),
            Self::NoAddress => ("no_address", "steered without a source address"),
        }
    }
}

/// The counters of outcomes come first, then one for each slot: connections (UDP: datagrams) that it got.
pub const COUNTERS: usize = 16 + MAX_SLOTS;

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
    16 + slot as u32
}

/// What the redirect counts.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A proxy's connection was taken.
    Connection = 0,
    /// A proxy's connection ended.
    Closed = 1,
    /// A request was forwarded, or answered for want of a worker.
    Request = 2,
    /// A connection carried its second client.
    Shared = 3,
    /// A message was refused since it was malformed, too large or too slow.
    Malformed = 4,
    /// A request or a connection got no answer from any worker.
    Unserved = 5,
    /// A request was sent to another worker, or once more, since the first one went away.
    Retried = 6,
    /// A connection became a tunnel.
    Tunnel = 7,
}

impl Event {
    /// All events, in the order of their counters.
    pub const ALL: [Self; 8] = [
        Self::Connection,
        Self::Closed,
        Self::Request,
        Self::Shared,
        Self::Malformed,
        Self::Unserved,
        Self::Retried,
        Self::Tunnel,
    ];
}

const _: () = {
    assert!(TABLE_LEN.is_power_of_two());
    assert!(MAX_SLOTS.is_power_of_two() && MAX_SLOTS <= Slot::MAX as usize);
    assert!(size_of::<Masks>() == 32 && align_of::<Masks>() == 8);
    assert!(size_of::<Config>() == 104 && align_of::<Config>() == 8);
    assert!(offset_of!(Config, proxies) == 56);
    assert!(size_of::<Proxies>() == 48 && offset_of!(Proxies, header) == 4);
    assert!(size_of::<Client>() == 16);
    assert!(size_of::<Source>() == 24 && offset_of!(Source, port) == 16);
    assert!(size_of::<Relay>() == 24 && offset_of!(Relay, shown_port) == 16 && offset_of!(Relay, slot) == 18);
    assert!(offset_of!(Config, table) == 4);
    assert!(offset_of!(Config, seed) == 8);
    assert!(offset_of!(Config, masks) == 24);
    assert!(size_of::<Table>() == 2 * TABLE_LEN);
    assert!(Outcome::ALL.len() <= 16);
};
