//! The head of an HTTP/1 request, looked through for what steering needs: whose request it is, and whether its connection
//! can carry another client's.
//!
//! Made for the kernel, where each byte counts: what nobody asks for is passed over eight bytes at a time, and a step
//! does little enough for the verifier to see through. It knows only ordinary heads. Of any other it says so, and the
//! redirect, which knows them all, takes the connection; so what it takes for a head the redirect takes for the same one.
//!
//! Ordinary is: a path for a target, HTTP/1.0 or 1.1, lines that end with CR LF, names of letters, digits, `-` and `_`,
//! no control characters, one Host of a name and a port, one Content-Length at most, and no Transfer-Encoding
//! (RFC 9112 sections 2 to 6).

mod names;
mod values;
mod words;

use names::{Names, Special};

use crate::client::Client;
use crate::forwarded::{ClientHeader, HeaderName, Walk};

/// The most bytes of a head that are looked at.
pub const LONGEST: u32 = 8192;

/// The most lines of a head.
const LINES: u32 = 100;

/// What is looked at.
pub trait Bytes {
    /// The eight bytes from `at` on, the first of them in the lowest bits. Beyond the end there may be anything.
    fn word(&self, at: u32) -> u64;
}

impl Bytes for [u8] {
    fn word(&self, at: u32) -> u64 {
        let mut word = [0; 8];
        let rest = self.get(at as usize..).unwrap_or_default();
        for (to, from) in word.iter_mut().zip(rest) {
            *to = *from;
        }
        u64::from_le_bytes(word)
    }
}

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Whose request it is; no other client's will follow.
    Client(Client),
    /// Whose request it is; another client's may follow.
    Shared(Client),
    /// It is not all there.
    Incomplete,
    /// It does not end within [`LONGEST`] bytes.
    TooLong,
    /// It begins like HTTP/2 with prior knowledge: RFC 9113 section 3.4.
    Http2,
    /// It is not an ordinary head of HTTP/1.
    Strange,
}

/// What comes next.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Method,
    Target,
    Version,
    /// The second half of a line's end.
    LineFeed,
    /// A header's name, or the end.
    Name,
    /// A value that nobody asks for.
    Value,
    ClientValue,
    ConnectionValue,
    HostValue,
    LengthValue,
    Complete,
    Incomplete,
    Http2,
    Strange,
}

/// A look through a head, step by step.
///
/// A BPF program keeps it in a map, like the [`Walk`] in it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    walk: Walk,
    names: Names,
    /// The first and the last eight bytes of the token of `Connection` that is being read; zeros at its start.
    token: [u64; 2],
    /// Its length, or that of a `Content-Length`; 0 at the start of either.
    token_length: u32,
    at: u32,
    end: u32,
    lines: u32,
    next: Next,
    http_1_0: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    host: bool,
    length: bool,
    /// Whether the value that is being read has begun; of a Host, whether its port has.
    begun: bool,
    port: bool,
}

impl Scan {
    /// Looks at nothing yet.
    const fn new() -> Self {
        Self {
            walk: Walk::new(ClientHeader::XForwardedFor),
            names: Names::new(),
            token: [0; 2],
            token_length: 0,
            at: 0,
            end: 0,
            lines: 0,
            next: Next::Method,
            http_1_0: false,
            close: false,
            keep_alive: false,
            upgrade: false,
            host: false,
            length: false,
            begun: false,
            port: false,
        }
    }

    /// Looks for the client in `header`, in a head that is among the first `length` bytes.
    ///
    /// In place, as copies of a scan crash the linker of BPF programs.
    #[inline(always)]
    pub fn begin(&mut self, header: &HeaderName, length: u32) {
        self.walk.begin(header.kind());
        self.names.begin(header);
        self.at = 0;
        self.end = if length < LONGEST { length } else { LONGEST };
        self.lines = 0;
        self.next = Next::Method;
        self.token = [0; 2];
        self.token_length = 0;
        self.http_1_0 = false;
        self.close = false;
        self.keep_alive = false;
        self.upgrade = false;
        self.host = false;
        self.length = false;
    }

    /// Goes on by a byte or a few; false when there is nothing more to do. `trusted` is asked at most once.
    ///
    /// [`LONGEST`] steps and a few are always enough.
    #[inline(always)]
    pub fn step<B: Bytes + ?Sized>(&mut self, bytes: &B, trusted: impl FnOnce(Client) -> bool) -> bool {
        if self.at >= self.end {
            if !matches!(self.next, Next::Http2 | Next::Strange) {
                self.next = Next::Incomplete;
            }
            return false;
        }
        let word = bytes.word(self.at);
        match self.next {
            Next::Method => self.method(word, bytes),
            Next::Target => self.target(word),
            Next::Version => self.version(word, bytes.word(self.at + 8)),
            Next::LineFeed => {
                self.at += 1;
                self.next = if words::byte(word, 0) == b'\n' { Next::Name } else { Next::Strange };
            }
            Next::Name => self.name(word),
            Next::Value => self.value(word, bytes),
            Next::ClientValue => self.client_value(word, trusted),
            Next::ConnectionValue => self.connection_value(word),
            Next::HostValue => self.host_value(word),
            Next::LengthValue => self.length_value(word),
            Next::Complete | Next::Incomplete | Next::Http2 | Next::Strange => return false,
        }
        true
    }

    /// What the head says of a connection from `peer`, a trusted proxy, after the last step.
    #[inline(always)]
    pub fn verdict(&self, peer: Client) -> Verdict {
        if self.next != Next::Complete {
            return match () {
                () if self.next == Next::Strange => Verdict::Strange,
                () if self.next == Next::Http2 => Verdict::Http2,
                () if self.end == LONGEST => Verdict::TooLong,
                () => Verdict::Incomplete,
            };
        }
        // RFC 9112 section 3.2; and one that both closes and keeps the connection knows not what it says.
        if !(self.host || self.http_1_0) || self.close && self.keep_alive {
            return Verdict::Strange;
        }
        let client = self.walk.client(peer);
        // RFC 9112 section 9.3; a connection that is upgraded is its client's alone.
        if self.close || self.upgrade || self.http_1_0 && !self.keep_alive {
            Verdict::Client(client)
        } else {
            Verdict::Shared(client)
        }
    }

    /// Whether the connection is to become something else, as for a WebSocket.
    #[inline(always)]
    pub fn upgrades(&self) -> bool {
        self.upgrade
    }

    /// How many of the eight bytes are there.
    #[inline(always)]
    fn there(&self) -> u32 {
        let left = self.end - self.at;
        if left < 8 { left } else { 8 }
    }

    #[inline(always)]
    fn method<B: Bytes + ?Sized>(&mut self, word: u64, bytes: &B) {
        let Some(length) = words::method(word) else {
            self.next = match self.there() {
                8 if word == u64::from_le_bytes(*b"PRI * HT") => Next::Http2,
                8 => Next::Strange,
                _ => Next::Incomplete,
            };
            return;
        };
        self.at += length;
        // Only a path: anything else names a host.
        let path = words::byte(bytes.word(length), 0) == b'/';
        self.next = if path { Next::Target } else { Next::Strange };
    }

    #[inline(always)]
    fn target(&mut self, word: u64) {
        let plain = words::count(words::target_ends(word));
        if plain >= self.there() {
            self.at += self.there();
            return;
        }
        self.at += plain + 1;
        self.next = if words::byte(word, plain) == b' ' { Next::Version } else { Next::Strange };
    }

    #[inline(always)]
    fn version(&mut self, word: u64, after: u64) {
        if self.end - self.at < 10 {
            self.next = Next::Incomplete;
            return;
        }
        let line_ends = after as u16 == u16::from_le_bytes(*b"\r\n");
        self.http_1_0 = word == u64::from_le_bytes(*b"HTTP/1.0");
        let known = self.http_1_0 || word == u64::from_le_bytes(*b"HTTP/1.1");
        self.at += 10;
        self.next = if known && line_ends { Next::Name } else { Next::Strange };
    }

    #[inline(always)]
    fn name(&mut self, word: u64) {
        if self.names.at_start() && words::byte(word, 0) == b'\r' {
            self.next = match (self.there(), words::byte(word, 1)) {
                (1, _) => Next::Incomplete,
                (_, b'\n') => Next::Complete,
                _ => Next::Strange,
            };
            return;
        }
        let letters = words::count(words::name_ends(word));
        if letters >= self.there() {
            self.at += self.there();
            // Of an incomplete head nothing is asked.
            self.names.part(word, 8);
            return;
        }
        let empty = self.names.at_start() && letters == 0;
        let special = self.names.end(word, letters);
        // The colon, and the space that mostly follows.
        let spaced = words::byte(word, letters + 1) == b' ' && letters + 1 < self.there();
        self.at += letters + 1 + u32::from(spaced);
        self.lines += 1;
        (self.begun, self.port) = (false, false);
        self.next = match special {
            _ if empty || words::byte(word, letters) != b':' || self.lines > LINES => Next::Strange,
            Special::None => Next::Value,
            Special::Client => Next::ClientValue,
            Special::Connection => Next::ConnectionValue,
            // RFC 9112 sections 3.2 and 6.3: twice is once too often.
            Special::Host if !self.host => Next::HostValue,
            Special::ContentLength if !self.length => Next::LengthValue,
            Special::Host | Special::ContentLength | Special::TransferEncoding => Next::Strange,
        };
    }
}

/// What the head among `bytes` says of a connection from `peer`, a trusted proxy.
pub fn verdict(header: &HeaderName, peer: Client, bytes: &[u8], trusted: impl Fn(Client) -> bool) -> Verdict {
    let mut scan = Scan::new();
    scan.begin(header, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    while scan.step(bytes, &trusted) {}
    scan.verdict(peer)
}
