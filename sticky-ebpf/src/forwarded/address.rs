//! One address, read byte by byte: IPv4 or IPv6 with what may stand around it.

use crate::client::Client;

/// What has been read of an address.
///
/// Made for a loader without CAP_PERFMON. To it the verifier grants neither a place in memory that depends on the path,
/// so groups come into place by shifts, nor one `memset` for several places, which is what LLVM makes of four zeros in
/// a row: so the words get their values when they are needed, and no four fields in a row start at zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    /// The octets of a dotted quad, alone or at the end of an IPv6 address; the fourth pushes out what was there.
    quad: u32,
    /// The value of the digits just read: of a port as a decimal number, of all else as a hexadecimal one.
    number: u32,
    /// IPv6: the groups before `::`, from the left, if there are any. IPv4: the whole address, v4-mapped.
    head: [u64; 2],
    /// IPv6: the groups after `::`, to the right, if there are any.
    tail: [u64; 2],
    part: Part,
    /// How many digits were just read; of a zone or an obfuscated port only whether there was a character.
    digits: u8,
    /// How many colons were just read.
    colons: u8,
    /// How many groups of an IPv6 address there is room for, one being taken by `::`.
    room: u8,
    /// How many dots there were.
    dots: u8,
    /// For how many groups there was room at the `::`; 0 without one.
    gap: u8,
    /// Whether there was a `[`.
    bracket: bool,
}

/// What the next byte belongs to.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The address itself.
    Address,
    /// The zone of an IPv6 address.
    Zone,
    /// Nothing but a port: the bracket is closed.
    Closed,
    /// The port.
    Port,
    /// An obfuscated port.
    Name,
    /// Nothing: this is not an address.
    Bad,
}

/// How many groups an IPv6 address has.
const GROUPS: u8 = 8;

/// The lower half of `::ffff:0.0.0.0`, as a number.
const MAPPED: u64 = 0xffff_0000_0000;

impl Address {
    /// Nothing read yet.
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self {
            quad: 0,
            number: 0,
            head: [MAPPED; 2],
            tail: [MAPPED; 2],
            part: Part::Address,
            digits: 0,
            colons: 0,
            room: GROUPS,
            dots: 0,
            gap: 0,
            bracket: false,
        }
    }

    /// Starts anew.
    #[inline(always)]
    pub(crate) fn restart(&mut self) {
        self.part = Part::Address;
        self.digits = 0;
        self.colons = 0;
        self.room = GROUPS;
        self.dots = 0;
        self.gap = 0;
        self.bracket = false;
    }

    /// Reads the next byte.
    #[inline(always)]
    pub(crate) fn byte(&mut self, byte: u8) {
        let fits = match self.part {
            Part::Address => self.address(byte),
            Part::Zone => self.zone(byte),
            Part::Closed => byte == b':' && self.begin(Part::Port),
            Part::Port => self.port(byte),
            Part::Name => self.name(is_obfuscated(byte)),
            Part::Bad => false,
        };
        if !fits {
            self.part = Part::Bad;
        }
    }

    /// The client, if all that was read is one address.
    #[inline(always)]
    pub(crate) fn end(&mut self) -> Option<Client> {
        let whole = match self.part {
            Part::Address => !self.bracket && self.complete(),
            Part::Zone => !self.bracket && self.digits > 0,
            Part::Closed => true,
            Part::Port => self.digits > 0 && self.number <= u16::MAX as u32,
            Part::Name => self.digits > 0,
            Part::Bad => false,
        };
        let client = self.value();
        (whole && !client.is_unspecified()).then_some(client)
    }

    /// The address, if all that was read is one of IPv4 (`v4`) or of IPv6 with nothing around it. It may be unspecified.
    #[inline(always)]
    pub(crate) fn bare(&mut self, v4: bool) -> Option<Client> {
        let whole = self.part == Part::Address && !self.bracket && self.complete() && self.is_v4() == v4;
        whole.then(|| self.value())
    }

    /// What was read, if it is an address.
    #[inline(always)]
    fn value(&self) -> Client {
        let (head, tail) = (ones(self.gap != GROUPS), ones(self.room + 1 < self.gap));
        let high = self.head[0] & head | self.tail[0] & tail;
        let low = self.head[1] & head | self.tail[1] & tail;
        Client::v6([high.to_be(), low.to_be()])
    }

    #[inline(always)]
    fn address(&mut self, byte: u8) -> bool {
        if let Some(digit) = hexadecimal(byte) {
            return self.digit(digit);
        }
        match byte {
            b'.' => self.dots < 3 && self.octet(),
            b':' if self.dots == 0 => self.colon(),
            b'[' => self.open(),
            b':' => self.complete() && self.is_v4() && self.begin(Part::Port),
            b'%' => self.complete() && !self.is_v4() && self.begin(Part::Zone),
            b']' => self.bracket && self.complete() && self.begin(Part::Closed),
            _ => false,
        }
    }

    #[inline(always)]
    fn digit(&mut self, digit: u8) -> bool {
        let lone_colon = self.colons == 1 && self.room == GROUPS;
        if lone_colon || self.digits == 4 {
            return false;
        }
        let before = if self.digits == 0 { 0 } else { self.number << 4 };
        self.number = before | digit as u32;
        self.digits += 1;
        self.colons = 0;
        true
    }

    #[inline(always)]
    fn open(&mut self) -> bool {
        let first = !self.bracket && self.digits == 0 && self.colons == 0 && self.dots == 0;
        self.bracket = true;
        first
    }

    /// A colon that ends a group, or makes a `::`.
    #[inline(always)]
    fn colon(&mut self) -> bool {
        if self.digits > 0 {
            self.colons = 1;
            return self.group(self.number);
        }
        self.colons += 1;
        if self.colons == 1 {
            return true;
        }
        // It stands for one group or more (RFC 4291 section 2.2), for std too.
        if self.gap > 0 || self.room == 0 {
            return false;
        }
        self.gap = self.room;
        self.room -= 1;
        true
    }

    /// Adds the digits just read to the dotted quad.
    #[inline(always)]
    fn octet(&mut self) -> bool {
        // Hexadecimal digits of which none is a letter are a decimal number, and compare like one.
        let (ones, tens, hundreds) = (self.number & 0xf, self.number >> 4 & 0xf, self.number >> 8);
        let shortest = match self.digits {
            1 => true,
            2 => tens > 0,
            3 => hundreds > 0,
            _ => false,
        };
        let fits = shortest && ones <= 9 && tens <= 9 && self.number <= 0x255;
        self.quad = self.quad << 8 | (hundreds * 100 + tens * 10 + ones) & 0xff;
        self.dots += 1;
        self.digits = 0;
        fits
    }

    /// Adds a group to the IPv6 address.
    #[inline(always)]
    fn group(&mut self, value: u32) -> bool {
        let value = value as u64 & 0xffff;
        if self.room == 0 {
            return false;
        }
        self.room -= 1;
        self.digits = 0;
        let placed = value << (16 * (self.room as u32 & 3));
        if self.gap == 0 {
            match self.room {
                7 => self.head = [placed, 0],
                4..7 => self.head[0] |= placed,
                _ => self.head[1] |= placed,
            }
        } else if self.room + 2 == self.gap {
            self.tail = [0, value];
        } else {
            self.tail = [self.tail[0] << 16 | self.tail[1] >> 48, self.tail[1] << 16 | value];
        }
        true
    }

    /// Ends the address itself; whether it is one.
    #[inline(always)]
    fn complete(&mut self) -> bool {
        if self.dots > 0 {
            if self.dots != 3 || !self.octet() {
                return false;
            }
            if self.is_v4() {
                self.head = [0, MAPPED | self.quad as u64];
                return !self.bracket;
            }
            if !self.group(self.quad >> 16) || !self.group(self.quad) {
                return false;
            }
        } else if self.digits > 0 {
            if !self.group(self.number) {
                return false;
            }
        } else if self.colons != 2 {
            return false;
        }
        self.gap > 0 || self.room == 0
    }

    /// Whether an address that is complete is IPv4, not an IPv6 address that ends in a dotted quad.
    #[inline(always)]
    fn is_v4(&self) -> bool {
        self.room == GROUPS
    }

    #[inline(always)]
    fn zone(&mut self, byte: u8) -> bool {
        if byte == b']' {
            return self.bracket && self.digits > 0 && self.begin(Part::Closed);
        }
        self.name(is_obfuscated(byte) || byte == b'~' || byte == b'%')
    }

    #[inline(always)]
    fn port(&mut self, byte: u8) -> bool {
        if byte == b'_' && self.digits == 0 {
            return self.begin(Part::Name);
        }
        if !byte.is_ascii_digit() || self.digits == 5 {
            return false;
        }
        let before = if self.digits == 0 { 0 } else { self.number * 10 };
        self.number = before + (byte - b'0') as u32;
        self.digits += 1;
        true
    }

    /// A character of a zone or an obfuscated port.
    #[inline(always)]
    fn name(&mut self, fits: bool) -> bool {
        self.digits = 1;
        fits
    }

    #[inline(always)]
    fn begin(&mut self, part: Part) -> bool {
        self.part = part;
        self.digits = 0;
        true
    }
}

/// All bits or none.
#[inline(always)]
fn ones(all: bool) -> u64 {
    (all as u64).wrapping_neg()
}

#[inline(always)]
fn hexadecimal(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Whether an obfuscated port may have this character: RFC 7239 section 6.
#[inline(always)]
fn is_obfuscated(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}
