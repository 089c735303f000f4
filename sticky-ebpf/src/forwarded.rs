//! Who the client of a proxied connection is: the walk over the header in which proxies name it.
//!
//! Told from the right, since each proxy adds its peer at the end and only what trusted proxies added can be believed:
//! trusted addresses are skipped, and the first other one is the client. An entry that is not an address ends the
//! walk, and the client is the last good one to its right; when every entry is trusted, it is the leftmost. With no
//! good one it is the peer, and so it is when the peer is not a trusted proxy: then nobody reads the header.
//!
//! [`Walk`] gets the same answer in one pass from the left with a state of constant size, since an entry only ever
//! replaces the answer of those to its left: one that is not an address by none, an address that is not trusted by
//! itself, a trusted one only where there is no answer yet. It takes bytes as they come, from a value that a parser
//! has cut out or one by one from a packet, and does the same small work for each.
//!
//! # What is written, and what it is taken for
//!
//! In every header:
//!
//! | written | taken for |
//! |---|---|
//! | `203.0.113.7` | an address where [`Ipv4Addr`] takes it, so without leading zeros (RFC 6943 section 3.1.1) |
//! | `2001:db8::7` | an address where [`Ipv6Addr`] takes it, in brackets or not (RFC 4291 section 2.2) |
//! | `::ffff:203.0.113.7` | the IPv4 address (RFC 4291 section 2.5.5.2) |
//! | `0.0.0.0`, `::`, `::ffff:0.0.0.0` | not an address: nobody connects from there (RFC 4291 section 2.5.2) |
//! | `[203.0.113.7]` | not an address: brackets hold IPv6 (RFC 3986 section 3.2.2) |
//! | `203.0.113.7:80`, `[2001:db8::7]:80` | the address; a port is one to five digits up to 65535, so 0 and 00080 are |
//! | `203.0.113.7:_x` | the address, as an obfuscated port does not hide it (RFC 7239 section 6) |
//! | `203.0.113.7:`, `203.0.113.7:http` | not an address |
//! | `2001:db8::7:80` | an address that ends in `:80`: without brackets there is no port |
//! | `fe80::1%eth0`, `[fe80::1%25eth0]` | the address: a zone is its sender's own (RFC 4007 section 6) |
//! | `fe80::1%`, `fe80::1%a:b` | not an address: a zone has one or more characters, those of RFC 6874 section 2 |
//! | `203.0.113.7%eth0` | not an address |
//! | space or tab around an entry | nothing; any other control character is not whitespace (RFC 9110 section 5.6.3) |
//! | space or tab within | not an address |
//!
//! `X-Forwarded-For`, which no standard describes:
//!
//! | written | taken for |
//! |---|---|
//! | several lines | one list, in the order of the lines (RFC 9110 section 5.3) |
//! | an empty entry | nothing (RFC 9110 section 5.6.1.2) |
//! | `"203.0.113.7"` | not an address: a client's lone quote would swallow what proxies add |
//!
//! `Forwarded` (RFC 7239), with several lines and empty elements as above:
//!
//! | written | taken for |
//! |---|---|
//! | `for=…`, `For=…` | the address, with its quotes or, although section 4 asks for them, without |
//! | no `for`, `for=unknown`, `for=_hidden` | not an address (sections 4, 6.2 and 6.3) |
//! | two `for` in one element | not an address (section 4 forbids it) |
//! | other parameters | nothing, whatever they hold, as `host=a:80` without quotes is common |
//! | `;` with space or tab around it | `;`, as proxies write it |
//! | `=` with space or tab around it | not an address (section 4 has none) |
//! | `"a,b;c\"d"` | one value (RFC 9110 section 5.6.4); it is unescaped |
//! | a quote within a value, or anything but `;` after a quoted string | not an address, up to the next comma |
//! | a quoted string that does not end | not an address, up to the end of its line |
//!
//! A single-value header (`X-Real-IP`, `CF-Connecting-IP`):
//!
//! | written | taken for |
//! |---|---|
//! | one address | the client, trusted or not |
//! | a second line, even an empty one; a comma, even a trailing one | no answer: the client is the peer |
//!
//! [`Ipv4Addr`]: core::net::Ipv4Addr
//! [`Ipv6Addr`]: core::net::Ipv6Addr

mod address;
mod element;

use core::fmt;

pub(crate) use address::Address;
use element::{Element, Role};

use crate::client::Client;

/// The header in which proxies name the client.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientHeader {
    /// `X-Forwarded-For`: a list of addresses.
    XForwardedFor,
    /// `Forwarded`: a list of what each proxy says of the connection to it (RFC 7239).
    Forwarded,
    /// Any header whose whole value is one address.
    Single,
}

impl ClientHeader {
    /// How the header of this name is read; the case of the name does not matter.
    pub const fn named(name: &str) -> Self {
        if name.eq_ignore_ascii_case("x-forwarded-for") {
            Self::XForwardedFor
        } else if name.eq_ignore_ascii_case("forwarded") {
            Self::Forwarded
        } else {
            Self::Single
        }
    }
}

/// The name of the client header, in lower case.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HeaderName {
    bytes: [u8; 48],
    length: u32,
    /// A [`ClientHeader`], as a number: what lies in a map may hold anything.
    kind: u32,
}

impl HeaderName {
    /// The longest name, in bytes.
    pub const LONGEST: usize = 47;

    /// `X-Forwarded-For`.
    pub const X_FORWARDED_FOR: Self = match Self::new("x-forwarded-for") {
        Some(name) => name,
        None => panic!("the name is short"),
    };

    /// A header's name, a token of RFC 9110 section 5.6.2; `None` for anything else, or longer than [`Self::LONGEST`].
    pub const fn new(name: &str) -> Option<Self> {
        let kind = ClientHeader::named(name) as u32;
        let name = name.as_bytes();
        if name.is_empty() || name.len() > Self::LONGEST {
            return None;
        }
        let mut bytes = [0; 48];
        let mut at = 0;
        while at < name.len() {
            match name[at] {
                byte @ (b'0'..=b'9'
                | b'A'..=b'Z'
                | b'a'..=b'z'
                | b'!'
                | b'#'..=b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'..=b'`'
                | b'|'
                | b'~') => bytes[at] = byte.to_ascii_lowercase(),
                _ => return None,
            }
            at += 1;
        }
        Some(Self { bytes, length: name.len() as u32, kind })
    }

    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.length as usize).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Eight bytes of the name, from `8 * at` on, the first of them in the lowest bits; and how many of them it has.
    #[inline(always)]
    pub(crate) const fn word(&self, at: usize) -> (u64, u32) {
        let b = &self.bytes;
        let from = 8 * at;
        let word = [
            b[from],
            b[from + 1],
            b[from + 2],
            b[from + 3],
            b[from + 4],
            b[from + 5],
            b[from + 6],
            b[from + 7],
        ];
        (u64::from_le_bytes(word), self.length.saturating_sub(from as u32))
    }

    /// How the header is read.
    #[inline(always)]
    pub const fn kind(&self) -> ClientHeader {
        const FORWARDED: u32 = ClientHeader::Forwarded as u32;
        const SINGLE: u32 = ClientHeader::Single as u32;
        match self.kind {
            FORWARDED => ClientHeader::Forwarded,
            SINGLE => ClientHeader::Single,
            _ => ClientHeader::XForwardedFor,
        }
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// The client of a connection from `peer`, whose request has these `lines` of the client header, in their order.
///
/// A line is what stands after the header's name and colon.
pub fn client<L>(header: ClientHeader, peer: Client, lines: L, trusted: impl Fn(Client) -> bool) -> Client
where
    L: IntoIterator<Item: AsRef<[u8]>>,
{
    if !trusted(peer) {
        return peer;
    }
    let mut walk = Walk::new(header);
    for line in lines {
        for &byte in line.as_ref() {
            walk.byte(byte, &trusted);
        }
        walk.line_end(&trusted);
    }
    walk.client(peer)
}

/// A walk over the lines of the client header, byte by byte.
///
/// A BPF program keeps it in a map: of what is on its stack the verifier knows the values, and would follow every state
/// that a walk can have.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// The answer so far, if one was found.
    client: Client,
    element: Element,
    header: ClientHeader,
    found: bool,
    /// Whether a line has ended.
    second: bool,
    address: Address,
}

const _: () = assert!(size_of::<Walk>() == 72);

impl Walk {
    /// A walk at the start of the first line.
    #[inline(always)]
    pub const fn new(header: ClientHeader) -> Self {
        Self {
            client: Client::v4(0),
            element: Element::new(),
            header,
            found: false,
            second: false,
            address: Address::new(),
        }
    }

    /// Begins anew.
    #[inline(always)]
    pub fn begin(&mut self, header: ClientHeader) {
        self.header = header;
        self.element = Element::new();
        self.address.restart();
        self.found = false;
        self.second = false;
    }

    /// Takes the next byte of a line. `trusted` is asked at most once.
    #[inline(always)]
    pub fn byte(&mut self, byte: u8, trusted: impl FnOnce(Client) -> bool) {
        let role = match self.header {
            ClientHeader::XForwardedFor => self.element.listed(byte),
            ClientHeader::Forwarded => self.element.forwarded(byte),
            ClientHeader::Single => self.element.single(byte),
        };
        match role {
            Role::Address => self.address.byte(byte),
            Role::End => self.element_end(trusted),
            Role::Other => {}
        }
    }

    /// Takes the end of a line. `trusted` is asked at most once.
    #[inline(always)]
    pub fn line_end(&mut self, trusted: impl FnOnce(Client) -> bool) {
        self.element_end(trusted);
        if self.header == ClientHeader::Single {
            self.found &= !self.second;
            self.second = true;
        }
    }

    /// The client of a connection from `peer`, which is a trusted proxy, after the last line's end.
    #[inline(always)]
    pub const fn client(&self, peer: Client) -> Client {
        if self.found { self.client } else { peer }
    }

    #[inline(always)]
    fn element_end(&mut self, trusted: impl FnOnce(Client) -> bool) {
        if !self.element.is_empty() {
            let entry = if self.element.is_well_formed() { self.address.end() } else { None };
            match entry {
                // A trusted address is the client only where there is none to its left.
                Some(client) if !self.found || !trusted(client) => {
                    self.client = client;
                    self.found = true;
                }
                Some(_) => {}
                None => self.found = false,
            }
        }
        self.element = Element::new();
        self.address.restart();
    }
}
