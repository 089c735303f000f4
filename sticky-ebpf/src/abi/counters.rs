//! What is counted: how the program decided, and what the redirect did.

use super::{Cause, MAX_SLOTS, Slot};

/// How the program decided about one connection or datagram.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The lookup table's entry for the client.
    Table = 0,
    /// A later entry of the lookup table, since the first one's slot had no socket, or takes no more new clients.
    Next = 1,
    /// The slots tried in turn, since that held for all of the table's candidates.
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
    /// A trusted proxy's connection, sent to the worker of the client that its first segment names.
    Gated = 9,
    /// A trusted proxy's connection that ended without a byte: chosen by the proxy's address and port.
    Silent = 10,
    /// Redirected, besides its own outcome, as another client's request may follow.
    Shared = 11,
    /// The same, as the first segment holds no complete head, or PROXY header.
    Unfinished = 12,
    /// The same, as the head is longer than what is looked at.
    TooLong = 13,
    /// The same, as it is HTTP/2.
    Http2 = 14,
    /// The same, as it is neither HTTP/1 nor HTTP/2, or a head that is not quite ordinary; or no ordinary PROXY header,
    /// where there is to be one.
    Strange = 15,
    /// The slot that the affinity table has for the client.
    Known = 16,
    /// The slot that a pin has for the client.
    Pinned = 17,
    /// Besides its own outcome: a client could not be remembered.
    Unremembered = 18,
    /// That of the lookup table's first two candidates that has fewer connections open.
    Least = 19,
}

impl Outcome {
    /// All outcomes, in the order of their counters.
    pub const ALL: [Self; 20] = [
        Self::Table,
        Self::Next,
        Self::Fallback,
        Self::Migrated,
        Self::Refused,
        Self::NoAddress,
        Self::Redirected,
        Self::Relayed,
        Self::Unredirected,
        Self::Gated,
        Self::Silent,
        Self::Shared,
        Self::Unfinished,
        Self::TooLong,
        Self::Http2,
        Self::Strange,
        Self::Known,
        Self::Pinned,
        Self::Unremembered,
        Self::Least,
    ];

    /// The name in `sticky status`, and what it means.
    pub const fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Known => ("known", "chosen as the worker that the client has"),
            Self::Pinned => ("pinned", "chosen by a pin"),
            Self::Least => ("least", "chosen as the one of two candidates that has fewer connections"),
            Self::Unremembered => ("unremembered", "whose client could not be remembered"),
            Self::Table => ("table", "chosen by the lookup table"),
            Self::Next => ("next", "chosen as the next candidate, as the first one's slot takes nobody"),
            Self::Fallback => ("fallback", "chosen in turn, as no candidate's slot takes anybody"),
            Self::Migrated => ("migrated", "moved from the queue of a worker that went away"),
            Self::Refused => ("refused", "refused, no worker being alive"),
            Self::Redirected => ("redirected", "from trusted proxies, sent to the redirect"),
            Self::Relayed => ("relayed", "from the redirect, sent to the worker of its clients"),
            Self::Unredirected => (
                "unredirected",
                "from trusted proxies, chosen by their address and port for want of a redirect",
            ),
            Self::NoAddress => ("no_address", "steered without a source address"),
            Self::Gated => ("gated", "from trusted proxies, sent to the worker of the client that they name"),
            Self::Silent => ("silent", "from trusted proxies, closed without a byte (health checks)"),
            Self::Shared => {
                ("shared", "redirected, as another client's request may follow on the connection")
            }
            Self::Unfinished => {
                ("unfinished", "redirected, as their first segment holds no complete head or PROXY header")
            }
            Self::TooLong => ("too_long", "redirected, as their head is longer than what the program reads"),
            Self::Http2 => ("http2", "redirected, as they speak HTTP/2"),
            Self::Strange => {
                ("strange", "redirected, as they do not begin with an ordinary HTTP request, or PROXY header")
            }
        }
    }
}

/// Counters of outcomes, more than there are.
const OUTCOMES: usize = 32;

/// The counters of outcomes come first, then one for each slot: connections (UDP: datagrams) that it got; then, for each
/// cause, one for each slot: known clients that it lost.
pub const COUNTERS: usize = OUTCOMES + (1 + Cause::ALL.len()) * MAX_SLOTS;

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
    OUTCOMES as u32 + slot as u32
}

/// Where known clients are counted that moved away from a slot.
#[inline(always)]
pub const fn moved_counter(from: Slot, cause: u32) -> u32 {
    OUTCOMES as u32 + (1 + cause) * MAX_SLOTS as u32 + from as u32
}

/// Events that the redirect may count, more than there are.
const EVENTS: usize = 32;

/// The redirect's counters: of events, and then of known clients that a slot lost, for each cause, by its decision.
pub const REDIRECTED: usize = EVENTS + Cause::ALL.len() * MAX_SLOTS;

/// Where the redirect counts known clients that moved away from a slot.
pub const fn redirect_moved_counter(from: Slot, cause: u32) -> u32 {
    EVENTS as u32 + cause * MAX_SLOTS as u32 + from as u32
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
    /// Of the connections, one came in through the gate: the kernel made no cookie for it, as its addresses and ports
    /// are those of a connection in TIME_WAIT.
    Recurred = 8,
    /// A connection in TIME_WAIT was ended, so that the next one of its addresses and ports gets a cookie.
    Reaped = 9,
}

impl Event {
    /// All events, in the order of their counters.
    pub const ALL: [Self; 10] = [
        Self::Connection,
        Self::Closed,
        Self::Request,
        Self::Shared,
        Self::Malformed,
        Self::Unserved,
        Self::Retried,
        Self::Tunnel,
        Self::Recurred,
        Self::Reaped,
    ];
}

const _: () = assert!(Outcome::ALL.len() <= OUTCOMES && Event::ALL.len() <= EVENTS);
