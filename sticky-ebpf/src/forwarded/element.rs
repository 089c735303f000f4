//! Where in an element of a header the next byte stands, and what it is there.

/// A place in an element.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Element {
    place: Place,
    /// `Forwarded`: how much of `for` the parameter's name is so far; [`FOR`] for all of it, [`OTHER`] for none.
    name: u8,
    /// `Forwarded`: how many `for=` the element has had; 2 for more.
    nodes: u8,
}

const FOR: u8 = 3;
const OTHER: u8 = 4;

#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where nothing but whitespace was.
    Blank,
    /// Before or in a parameter's name.
    Name,
    /// After the `=`.
    Equals,
    /// In a value without quotes.
    Value,
    /// In a quoted string.
    Quoted,
    /// After a backslash in a quoted string.
    Escaped,
    /// After a value, or whitespace that can only follow one.
    After,
    /// In what cannot be an element.
    Malformed,
}

/// What a byte is to the element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Part of the address.
    Address,
    /// The end of the element.
    End,
    /// Nothing that matters.
    Other,
}

impl Element {
    /// Nothing read yet.
    #[inline(always)]
    pub(super) const fn new() -> Self {
        Self { place: Place::Blank, name: 0, nodes: 0 }
    }

    /// Whether there was nothing but whitespace.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.place == Place::Blank
    }

    /// Whether an element may end here, and names no more than one address.
    #[inline(always)]
    pub(super) fn is_well_formed(&self) -> bool {
        self.nodes < 2 && !matches!(self.place, Place::Quoted | Place::Escaped | Place::Malformed)
    }

    /// A byte of a single-value header.
    #[inline(always)]
    pub(super) fn single(&mut self, byte: u8) -> Role {
        let starts = self.place == Place::Blank;
        let goes_on = starts || self.place == Place::Value;
        self.place = match is_blank(byte) {
            true if starts => Place::Blank,
            true if goes_on || self.place == Place::After => Place::After,
            false if goes_on => Place::Value,
            _ => Place::Malformed,
        };
        if self.place == Place::Value { Role::Address } else { Role::Other }
    }

    /// A byte of `X-Forwarded-For`.
    #[inline(always)]
    pub(super) fn listed(&mut self, byte: u8) -> Role {
        if byte == b',' { Role::End } else { self.single(byte) }
    }

    /// A byte of `Forwarded`.
    #[inline(always)]
    pub(super) fn forwarded(&mut self, byte: u8) -> Role {
        let was = self.place;
        if byte == b',' && was != Place::Quoted && was != Place::Escaped {
            return Role::End;
        }
        self.place = match was {
            Place::Blank if is_blank(byte) => Place::Blank,
            Place::Blank | Place::Name => self.in_name(byte),
            Place::Equals if byte == b'"' => Place::Quoted,
            Place::Equals | Place::Value => self.in_value(byte),
            Place::Quoted => in_quotes(byte),
            Place::Escaped => Place::Quoted,
            Place::After => self.after(byte),
            Place::Malformed => Place::Malformed,
        };
        // Neither the quotes nor the backslash are part of the address.
        let quoted = self.place == Place::Quoted && was != Place::Equals;
        if self.name == FOR && (quoted || self.place == Place::Value) { Role::Address } else { Role::Other }
    }

    #[inline(always)]
    fn in_name(&mut self, byte: u8) -> Place {
        match byte {
            b';' => self.next_parameter(),
            b'=' => {
                if self.name == FOR {
                    self.nodes = if self.nodes == 0 { 1 } else { 2 };
                }
                Place::Equals
            }
            b'"' => Place::Malformed,
            _ if is_blank(byte) && self.name == 0 => Place::Name,
            _ if is_blank(byte) => Place::After,
            _ => {
                let expected = match self.name {
                    0 => b'f',
                    1 => b'o',
                    2 => b'r',
                    _ => 0,
                };
                self.name = if byte | 0x20 == expected { self.name + 1 } else { OTHER };
                Place::Name
            }
        }
    }

    #[inline(always)]
    fn in_value(&mut self, byte: u8) -> Place {
        match byte {
            b';' => self.next_parameter(),
            b'"' => Place::Malformed,
            _ if is_blank(byte) => Place::After,
            _ => Place::Value,
        }
    }

    #[inline(always)]
    fn after(&mut self, byte: u8) -> Place {
        match byte {
            b';' => self.next_parameter(),
            _ if is_blank(byte) => Place::After,
            _ => Place::Malformed,
        }
    }

    #[inline(always)]
    fn next_parameter(&mut self) -> Place {
        self.name = 0;
        Place::Name
    }
}

#[inline(always)]
fn in_quotes(byte: u8) -> Place {
    match byte {
        b'"' => Place::After,
        b'\\' => Place::Escaped,
        _ => Place::Quoted,
    }
}

/// Whether this is optional whitespace: RFC 9110 section 5.6.3.
#[inline(always)]
fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}
