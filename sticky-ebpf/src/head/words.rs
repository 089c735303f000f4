//! Eight bytes at a time, as one number whose lowest bits are the first byte.
//!
//! A mask has the highest bit of each byte that is meant.

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// One of the eight bytes.
#[inline(always)]
pub const fn byte(word: u64, at: u32) -> u8 {
    if at < 8 { (word >> (8 * at)) as u8 } else { 0 }
}

/// How many bytes come before the first one of a mask.
#[inline(always)]
pub const fn count(mask: u64) -> u32 {
    // Not `trailing_zeros`, which BPF has no instruction for: the bits below the lowest set one, of which only the
    // highest of each byte are kept, added up by the multiplication.
    let below = !mask & mask.wrapping_sub(1);
    ((below & HIGH) >> 7).wrapping_mul(LOW).wrapping_shr(56) as u32
}

/// The first bytes, as many as are asked for, and zeros.
#[inline(always)]
pub const fn first(word: u64, count: u32) -> u64 {
    if count < 8 { word & ((1 << (8 * count)) - 1) } else { word }
}

/// Bytes below 0x80 that are at least `low`; those from 0x80 on come out as if their highest bit were not set.
#[inline(always)]
const fn at_least(word: u64, low: u8) -> u64 {
    ((word & !HIGH) + (0x80 - low as u64) * LOW) & HIGH
}

#[inline(always)]
const fn between(word: u64, low: u8, high: u8) -> u64 {
    at_least(word, low) & !at_least(word, high + 1) & !word & HIGH
}

/// Control characters.
#[inline(always)]
pub const fn controls(word: u64) -> u64 {
    (!at_least(word, b' ') | at_least(word, 0x7f)) & !word & HIGH
}

/// What cannot be in a target: controls, spaces, `#` and all beyond ASCII.
#[inline(always)]
pub const fn target_ends(word: u64) -> u64 {
    (!at_least(word, b'!') | at_least(word, 0x7f) | between(word, b'#', b'#') | word) & HIGH
}

/// What ordinary header names do not have: all but letters, digits, `-` and `_`.
#[inline(always)]
pub const fn name_ends(word: u64) -> u64 {
    let letters = between(lower(word), b'a', b'z') & !word;
    let others = between(word, b'0', b'9') | between(word, b'-', b'-') | between(word, b'_', b'_');
    !(letters | others) & HIGH
}

/// What a host's name does not have: all but letters, digits, `-` and `.`.
#[inline(always)]
pub const fn host_ends(word: u64) -> u64 {
    let letters = between(lower(word), b'a', b'z') & !word;
    let others = between(word, b'0', b'9') | between(word, b'-', b'.');
    !(letters | others) & HIGH
}

/// Letters of a name in lower case; `_` becomes DEL, which no name has.
#[inline(always)]
pub const fn lower(word: u64) -> u64 {
    word | (0x20 * LOW)
}

/// The length of a method that is known, with the space after it.
#[inline(always)]
pub const fn method(word: u64) -> Option<u32> {
    const KNOWN: [(&[u8; 8], u32); 7] = [
        (b"GET \0\0\0\0", 4),
        (b"POST \0\0\0", 5),
        (b"HEAD \0\0\0", 5),
        (b"PUT \0\0\0\0", 4),
        (b"DELETE \0", 7),
        (b"PATCH \0\0", 6),
        (b"OPTIONS ", 8),
    ];
    let mut at = 0;
    while at < KNOWN.len() {
        let (text, length) = KNOWN[at];
        if first(word, length) == u64::from_le_bytes(*text) {
            return Some(length);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask(bytes: [u8; 8], meant: impl Fn(u8) -> bool) -> u64 {
        u64::from_le_bytes(bytes.map(|byte| if meant(byte) { 0x80 } else { 0 }))
    }

    proptest! {
        #[test]
        fn masks_are_what_they_say(bytes: [u8; 8]) {
            let word = u64::from_le_bytes(bytes);
            prop_assert_eq!(controls(word), mask(bytes, |byte| byte < b' ' || byte == 0x7f));
            let ends = |byte| !(b'!'..0x7f).contains(&byte) || byte == b'#';
            prop_assert_eq!(target_ends(word), mask(bytes, ends));
            let name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            prop_assert_eq!(name_ends(word), mask(bytes, |byte| !name(byte)));
            let host = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
            prop_assert_eq!(host_ends(word), mask(bytes, |byte| !host(byte)));
            let first_control = bytes.iter().position(|byte| *byte < b' ' || *byte == 0x7f).unwrap_or(8);
            prop_assert_eq!(count(controls(word)), first_control as u32);
        }
    }
}
