//! What is remembered of clients, and what operators say of slots: the maps above the lookup table.

use core::mem::{align_of, offset_of, size_of};

use super::Slot;

/// A point in time, as the maps have it: `CLOCK_MONOTONIC` of the host in units of 2^30 ns, about a second.
///
/// A shift makes it of the kernel's nanoseconds; it comes round after 146 years.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u32);

impl Moment {
    /// So many nanoseconds after the clock's beginning.
    #[inline(always)]
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self((nanoseconds >> 30) as u32)
    }

    /// How long ago `earlier` was, in the same units; 0 for what lies ahead.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment so many units later.
    #[inline(always)]
    pub const fn after(self, units: u32) -> Self {
        Self(self.0.saturating_add(units))
    }

    /// The moment so many units earlier.
    pub const fn before(self, units: u32) -> Self {
        Self(self.0.saturating_sub(units))
    }
}

/// Which worker a client has, and when it last came.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The slot.
    pub slot: Slot,
    padding: u16,
    /// When its last connection, or request, began.
    pub seen: Moment,
}

impl Known {
    /// Nobody: at no slot.
    pub const NOBODY: Self = Self::new(Slot::MAX, Moment(0));

    /// A client that is at `slot`, and came at `seen`.
    #[inline(always)]
    pub const fn new(slot: Slot, seen: Moment) -> Self {
        Self { slot, padding: 0, seen }
    }

    /// As one word, in which it is read and changed as a whole.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.slot as u64 | (self.seen.0 as u64) << 32
    }

    /// What [`Self::to_word`] made.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self::new(word as Slot, Moment((word >> 32) as u32))
    }
}

/// An operator's rule: the clients of a prefix have this slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The slot.
    pub slot: Slot,
    padding: u16,
    /// When the rule ends; [`Self::FOR_EVER`] for never.
    pub until: Moment,
}

impl Pin {
    /// No end.
    pub const FOR_EVER: Moment = Moment(u32::MAX);

    /// To this slot, until then.
    pub const fn new(slot: Slot, until: Moment) -> Self {
        Self { slot, padding: 0, until }
    }
}

/// How new clients are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// By the lookup table alone.
    Hash,
    /// At the one of two candidates that has fewer connections open.
    Least,
}

/// What is remembered, and how new clients are placed: a part of the pool's configuration.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// For how long clients are remembered after they were last seen, in units of [`Moment`]; 0: not at all.
    pub remember: u32,
    flags: u32,
}

impl Memory {
    /// Nothing is remembered.
    pub const NONE: Self = Self { remember: 0, flags: 0 };

    const PINS: u32 = 1;
    const LEAST: u32 = 2;

    /// Whether there are pins, or were. Where not, the program does not look for any.
    #[inline(always)]
    pub const fn has_pins(&self) -> bool {
        self.flags & Self::PINS != 0
    }

    /// How new clients are placed.
    #[inline(always)]
    pub const fn place(&self) -> Place {
        if self.flags & Self::LEAST == 0 { Place::Hash } else { Place::Least }
    }

    /// The same, with pins.
    pub const fn with_pins(self) -> Self {
        Self { flags: self.flags | Self::PINS, ..self }
    }

    /// The same, with new clients placed so.
    pub const fn with_place(self, place: Place) -> Self {
        let flag = match place {
            Place::Hash => 0,
            Place::Least => Self::LEAST,
        };
        Self { flags: self.flags & !Self::LEAST | flag, ..self }
    }

    /// The same, remembering for so many units of [`Moment`].
    pub const fn with_remember(self, remember: u32) -> Self {
        Self { remember, ..self }
    }
}

/// What a socket carries while connections are counted: that of a slot's listener is copied to its connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The slot.
    pub slot: u32,
    /// Whether this socket is one of the slot's open connections: 1, and 0 if not.
    pub open: u32,
}

impl Counted {
    /// For the listener of `slot`.
    pub const fn listener(slot: Slot) -> Self {
        Self { slot: slot as u32, open: 0 }
    }
}

/// What an operator wants of a slot.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It takes clients.
    Ready = 0,
    /// It takes no new clients; known ones stay.
    Draining = 1,
    /// It takes nobody.
    Maintenance = 2,
}

impl Mode {
    /// The name in `sticky status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }
}

/// How a slot stands: what an operator wants of it, and its share of new clients. All zero: ready, with a full share.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    mode: u32,
    /// Of [`Self::FULL`] new clients, so many are sent on to their next candidate.
    withheld: u32,
    /// Since when.
    pub since: Moment,
    /// Ready: how long its share of new clients takes to grow, in units of [`Moment`]. Draining: how long it takes at
    /// most; 0 for as long as clients stay.
    pub over: u32,
    /// Draining: known clients that were gone for so long move, in units of [`Moment`]; 0: none do.
    pub idle: u32,
}

impl Standing {
    /// A full share of new clients.
    pub const FULL: u32 = 1 << 16;

    /// At the beginning of a drain nobody moves for so long, in units of [`Moment`]: time for whoever follows the pool to
    /// tell who has a connection open.
    const SETTLING: u32 = 2;

    /// What an operator wants.
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        match self.mode {
            0 => Mode::Ready,
            1 => Mode::Draining,
            _ => Mode::Maintenance,
        }
    }

    /// Whether it takes new clients.
    #[inline(always)]
    pub const fn is_ready(&self) -> bool {
        self.mode == Mode::Ready as u32
    }

    /// The same slot with another share of new clients, at most [`Self::FULL`].
    pub const fn with_weight(self, weight: u32) -> Self {
        Self { withheld: Self::FULL - if weight > Self::FULL { Self::FULL } else { weight }, ..self }
    }

    /// The same slot, ready from `now` on; its share of new clients grows `over` so many units.
    pub const fn ready(self, now: Moment, over: u32) -> Self {
        Self { mode: Mode::Ready as u32, since: now, over, idle: 0, ..self }
    }

    /// The same slot, draining from `now` on, `over` so many units at most, of clients that are gone for `idle`.
    pub const fn draining(self, now: Moment, over: u32, idle: u32) -> Self {
        Self { mode: Mode::Draining as u32, since: now, over, idle, ..self }
    }

    /// The same slot, in maintenance from `now` on.
    pub const fn maintenance(self, now: Moment) -> Self {
        Self { mode: Mode::Maintenance as u32, since: now, over: 0, idle: 0, ..self }
    }

    /// The share of new clients that it has at this moment, of [`Self::FULL`].
    #[inline(always)]
    pub fn share(&self, now: Moment) -> u32 {
        if !self.is_ready() {
            return 0;
        }
        let full = Self::FULL.wrapping_sub(self.withheld);
        let been = now.since(self.since);
        if been >= self.over {
            return full;
        }
        // Both fit 32 bits as long as nobody wants it to take a day: FULL is 17 bits.
        ((full as u64 * (been as u64 + 1)) / (self.over as u64 + 1)) as u32
    }

    /// Whether a client that it has, and that last came at `seen`, stays; and if not, why.
    #[inline(always)]
    pub fn keeps(&self, seen: Moment, now: Moment) -> Result<(), Cause> {
        match self.mode() {
            Mode::Ready => Ok(()),
            Mode::Maintenance => Err(Cause::Maintenance),
            Mode::Draining if self.over != 0 && now.since(self.since) >= self.over => Err(Cause::Drained),
            Mode::Draining if now.since(self.since) < Self::SETTLING => Ok(()),
            Mode::Draining if self.idle != 0 && now.since(seen) >= self.idle => Err(Cause::Drained),
            Mode::Draining => Ok(()),
        }
    }
}

/// Why a known client moved to another slot.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its slot had no socket.
    Gone = 0,
    /// Its slot was draining, and its time was over.
    Drained = 1,
    /// Its slot was in maintenance.
    Maintenance = 2,
}

impl Cause {
    /// All causes, in the order of their counters.
    pub const ALL: [Self; 3] = [Self::Gone, Self::Drained, Self::Maintenance];

    /// The name in `sticky status`, and what it means.
    pub const fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Gone => ("gone", "its worker is gone"),
            Self::Drained => ("drained", "it was drained"),
            Self::Maintenance => ("maintenance", "it is in maintenance"),
        }
    }
}

const _: () = {
    assert!(size_of::<Known>() == 8 && align_of::<Known>() == 8 && offset_of!(Known, seen) == 4);
    assert!(size_of::<Pin>() == 8 && offset_of!(Pin, until) == 4);
    assert!(size_of::<Memory>() == 8);
    assert!(size_of::<Counted>() == 8 && offset_of!(Counted, open) == 4);
    assert!(size_of::<Standing>() == 20 && offset_of!(Standing, since) == 8);
};
