//! The PROXY header (versions 1 and 2) that a connection begins with, looked through for the connection's client.
//!
//! Made for the kernel, like [`head`](crate::head), and as careful: it knows only ordinary headers, and of any other it
//! says so. The redirect, which reads them with a library of its own, then takes the connection; so what this takes for
//! a header, the redirect takes for the same one.
//!
//! | written | taken for |
//! |---|---|
//! | `PROXY TCP4`, `PROXY TCP6`, two addresses, two ports | the first address, where the standard library takes both, in 107 bytes |
//! | `PROXY UNKNOWN` and anything up to the line's end | the peer (version 1, section 2.1) |
//! | ports with a sign, or of more than five digits | not ordinary |
//! | PROXY over IPv4 or IPv6, of TCP or UDP | the source address (version 2, section 2.2) |
//! | PROXY over Unix sockets or what is not specified | the peer |
//! | LOCAL | the peer, whatever addresses it has |
//! | `0.0.0.0`, `::`, `::ffff:0.0.0.0` | the peer |
//! | extensions of version 2 | nothing, whatever they hold |
//! | a version 2 header of more than [`LONGEST`] bytes | not ordinary |
//!
//! Sections are those of <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>.

use crate::client::Client;
use crate::forwarded::Address;
use crate::head::Bytes;

/// The longest header that is read; version 2 carries certificates and the like.
pub const LONGEST: usize = 16 * 1024;

/// The longest header of version 1: section 2.1.
const LONGEST_LINE: u32 = 107;

/// The shortest headers, `PROXY UNKNOWN` and what version 2 always has.
const SHORTEST_LINE: u32 = 15;
const SHORTEST_BINARY: u32 = 16;

/// No more bytes than these are looked at: a line, or in version 2 the source address.
pub const LOOKED_AT: u32 = 128;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This client's.
    Client(Client),
    /// The proxy's own, or that of somebody without an address.
    Peer,
    /// The header is not all there.
    Incomplete,
    /// There is no ordinary header.
    Malformed,
}

/// What comes next.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Source,
    Destination,
    SourcePort,
    DestinationPort,
    /// What is passed over up to the line's end.
    Rest,
    /// The second half of the line's end.
    LineFeed,
    Complete,
    Incomplete,
    Malformed,
}

/// A look through a header, step by step.
///
/// A BPF program keeps it in a map, for the reasons that [`Walk`](crate::forwarded::Walk) has.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    address: Address,
    /// The source, unspecified where there is none.
    client: Client,
    at: u32,
    end: u32,
    /// The digits of a port so far: their value and their number.
    port: u32,
    digits: u32,
    next: Next,
    /// Whether the line's addresses are of IPv4.
    v4: bool,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            address: Address::new(),
            client: Client::UNSPECIFIED,
            at: 0,
            end: 0,
            port: 0,
            digits: 0,
            next: Next::Incomplete,
            v4: false,
        }
    }
}

impl Scan {
    /// Looks for a header in a connection's first `length` bytes, of which `bytes` has [`LOOKED_AT`], or all.
    ///
    /// In place, as copies of a scan crash the linker of BPF programs.
    #[inline(always)]
    pub fn begin<B: Bytes + ?Sized>(&mut self, bytes: &B, length: u32) {
        self.client = Client::UNSPECIFIED;
        let (first, second) = (bytes.word(0), bytes.word(8));
        self.next = match first as u8 {
            b'P' if length >= SHORTEST_LINE => self.line(first, second, length),
            b'\r' if length >= SHORTEST_BINARY => self.binary(bytes, first, second, length),
            b'P' | b'\r' => Next::Incomplete,
            _ if length == 0 => Next::Incomplete,
            _ => Next::Malformed,
        };
    }

    /// Goes on by a byte; false when there is nothing more to do. 108 steps are always enough.
    #[inline(always)]
    pub fn step<B: Bytes + ?Sized>(&mut self, bytes: &B) -> bool {
        if matches!(self.next, Next::Complete | Next::Incomplete | Next::Malformed) {
            return false;
        }
        if self.at >= self.end {
            self.next = if self.end == LONGEST_LINE { Next::Malformed } else { Next::Incomplete };
            return false;
        }
        let byte = bytes.word(self.at) as u8;
        self.at += 1;
        match self.next {
            Next::Source | Next::Destination => self.address(byte),
            Next::SourcePort => self.port(byte, b' ', Next::DestinationPort),
            Next::DestinationPort => self.port(byte, b'\r', Next::LineFeed),
            Next::Rest if byte == b'\r' => self.next = Next::LineFeed,
            Next::LineFeed => self.next = if byte == b'\n' { Next::Complete } else { Next::Malformed },
            Next::Rest | Next::Complete | Next::Incomplete | Next::Malformed => {}
        }
        true
    }

    /// Whose connection it is, after the last step.
    #[inline(always)]
    pub fn verdict(&self) -> Verdict {
        match () {
            () if self.next == Next::Malformed => Verdict::Malformed,
            () if self.next != Next::Complete => Verdict::Incomplete,
            () if self.client.is_unspecified() => Verdict::Peer,
            () => Verdict::Client(self.client),
        }
    }

    /// How version 1 begins.
    #[inline(always)]
    fn line(&mut self, first: u64, second: u64, length: u32) -> Next {
        self.end = if length < LONGEST_LINE { length } else { LONGEST_LINE };
        if first == u64::from_le_bytes(*b"PROXY UN") && second << 24 == u64::from_le_bytes(*b"\0\0\0KNOWN") {
            self.at = 13;
            return Next::Rest;
        }
        self.v4 = second << 40 == u64::from_le_bytes(*b"\0\0\0\0\0P4 ");
        let v6 = second << 40 == u64::from_le_bytes(*b"\0\0\0\0\0P6 ");
        if first != u64::from_le_bytes(*b"PROXY TC") || !(self.v4 || v6) {
            return Next::Malformed;
        }
        self.at = 11;
        self.address.restart();
        Next::Source
    }

    /// All of version 2.
    #[inline(always)]
    fn binary<B: Bytes + ?Sized>(&mut self, bytes: &B, first: u64, second: u64, length: u32) -> Next {
        let signature = first == u64::from_le_bytes(*b"\r\n\r\n\0\r\nQ")
            && second as u32 == u32::from_le_bytes(*b"UIT\n");
        let (command, family) = ((second >> 32) as u8, (second >> 40) as u8);
        let rest = u16::from_be((second >> 48) as u16) as u32;
        let (source, addresses) = match family {
            0x00 => (Client::UNSPECIFIED, 0),
            0x11 | 0x12 => (Client::v4(bytes.word(16) as u32), 12),
            0x21 | 0x22 => (Client::v6([bytes.word(16), bytes.word(24)]), 36),
            0x31 | 0x32 => (Client::UNSPECIFIED, 216),
            _ => return Next::Malformed,
        };
        let whole = SHORTEST_BINARY + rest;
        if !signature || command & 0xfe != 0x20 || rest < addresses || whole > LONGEST as u32 {
            return Next::Malformed;
        }
        if command == 0x21 {
            self.client = source;
        }
        if whole <= length { Next::Complete } else { Next::Incomplete }
    }

    #[inline(always)]
    fn address(&mut self, byte: u8) {
        if byte != b' ' {
            self.address.byte(byte);
            return;
        }
        let source = self.next == Next::Source;
        match self.address.bare(self.v4) {
            Some(client) if source => {
                self.client = client;
                self.next = Next::Destination;
            }
            Some(_) => self.next = Next::SourcePort,
            None => self.next = Next::Malformed,
        }
        self.address.restart();
        (self.port, self.digits) = (0, 0);
    }

    #[inline(always)]
    fn port(&mut self, byte: u8, end: u8, next: Next) {
        if byte.is_ascii_digit() && self.digits < 5 {
            self.port = self.port * 10 + (byte - b'0') as u32;
            self.digits += 1;
        } else if byte == end && self.digits > 0 && self.port <= u16::MAX as u32 {
            (self.port, self.digits) = (0, 0);
            self.next = next;
        } else {
            self.next = Next::Malformed;
        }
    }
}

/// Whose a connection is that begins with `bytes`.
pub fn verdict(bytes: &[u8]) -> Verdict {
    let mut scan = Scan::default();
    scan.begin(bytes, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    while scan.step(bytes) {}
    scan.verdict()
}
