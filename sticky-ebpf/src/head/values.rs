//! The values of header fields: those that nobody asks for, and those that say whose a request is, or what may follow it.

use super::words;
use super::{Bytes, Next, Scan};
use crate::client::Client;

/// Words of a value that one step looks at.
const WORDS: u32 = 8;

impl Scan {
    /// Most of a head, so many words of it at a time.
    #[inline(always)]
    pub(super) fn value<B: Bytes + ?Sized>(&mut self, mut word: u64, bytes: &B) {
        let mut words = 1;
        while words < WORDS && words::controls(word) == 0 && self.end - self.at > 8 {
            self.at += 8;
            word = bytes.word(self.at);
            words += 1;
        }
        let plain = words::count(words::controls(word));
        if plain >= self.there() {
            self.at += self.there();
            return;
        }
        self.at += plain + 1;
        match words::byte(word, plain) {
            b'\t' => {}
            b'\r' => self.line_end(words::byte(word, plain + 1)),
            _ => self.next = Next::Strange,
        }
    }

    /// After a CR: takes the LF too, if it is `following`.
    #[inline(always)]
    fn line_end(&mut self, following: u8) {
        self.next = Next::LineFeed;
        if following == b'\n' && self.at < self.end {
            self.at += 1;
            self.next = Next::Name;
        }
    }

    #[inline(always)]
    pub(super) fn client_value(&mut self, word: u64, trusted: impl FnOnce(Client) -> bool) {
        let byte = words::byte(word, 0);
        self.at += 1;
        match byte {
            b'\r' => {
                self.walk.line_end(trusted);
                self.line_end(words::byte(word, 1));
            }
            b'\t' | b' '..=b'~' | 0x80.. => self.walk.byte(byte, trusted),
            _ => self.next = Next::Strange,
        }
    }

    #[inline(always)]
    pub(super) fn connection_value(&mut self, word: u64) {
        let byte = words::byte(word, 0);
        self.at += 1;
        match byte {
            b'\r' | b',' => {
                self.close |= self.is_token(b"close");
                self.keep_alive |= self.is_token(b"keep-alive");
                self.upgrade |= self.is_token(b"upgrade");
                (self.token, self.token_length) = ([0; 2], 0);
                if byte == b'\r' {
                    self.line_end(words::byte(word, 1));
                }
            }
            b' ' | b'\t' => {}
            b'!'..=b'~' => {
                let byte = u64::from(byte.to_ascii_lowercase());
                let [first, last] = self.token;
                let first = if self.token_length < 8 { first << 8 | byte } else { first };
                self.token = [first, last << 8 | byte];
                self.token_length += 1;
            }
            _ => self.next = Next::Strange,
        }
    }

    #[inline(always)]
    fn is_token(&self, text: &[u8]) -> bool {
        let (mut first, mut last) = (0, 0);
        let mut at = 0;
        while at < text.len() {
            last = last << 8 | text[at] as u64;
            first = if at < 8 { last } else { first };
            at += 1;
        }
        self.token == [first, last] && self.token_length == text.len() as u32
    }

    /// A name of letters, digits, `-` and `.`, and a port: less than RFC 3986 section 3.2.2 allows.
    #[inline(always)]
    pub(super) fn host_value(&mut self, word: u64) {
        let named = words::count(words::host_ends(word));
        if named > 0 && !self.port {
            self.begun = true;
            self.at += if named < self.there() { named } else { self.there() };
            return;
        }
        let byte = words::byte(word, 0);
        self.at += 1;
        match byte {
            b'\r' => {
                self.host = true;
                self.line_end(words::byte(word, 1));
            }
            b' ' if !self.begun => {}
            b':' if !self.port => (self.begun, self.port) = (true, true),
            b'0'..=b'9' => {}
            _ => self.next = Next::Strange,
        }
    }

    #[inline(always)]
    pub(super) fn length_value(&mut self, word: u64) {
        let byte = words::byte(word, 0);
        self.at += 1;
        match byte {
            b'\r' if self.begun => {
                self.length = true;
                self.token_length = 0;
                self.line_end(words::byte(word, 1));
            }
            b' ' if !self.begun => {}
            // At most 15 digits, which nobody counts wrong.
            b'0'..=b'9' if self.token_length < 15 => {
                self.begun = true;
                self.token_length += 1;
            }
            _ => self.next = Next::Strange,
        }
    }
}
