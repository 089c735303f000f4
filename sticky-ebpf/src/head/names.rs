//! Header names, compared as they come by, eight bytes at a time.

use super::words;
use crate::forwarded::HeaderName;

/// Words of the longest name that is looked for: [`HeaderName::LONGEST`].
const WORDS: usize = 6;

/// A header that is looked into, or not passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Any other.
    None,
    /// The one in which proxies name the client.
    Client,
    /// `Connection`.
    Connection,
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
}

/// What the name that is being read may still be.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Names {
    client: [u64; WORDS],
    /// Words of the name that have come by.
    part: u32,
    /// The names that it may still be: a bit for each, as setting flags one by one is a call of `memset` in BPF.
    may_be: u32,
}

const IS_CLIENT: u32 = 1 << 0;
const IS_CONNECTION: u32 = 1 << 1;
const IS_HOST: u32 = 1 << 2;
const IS_CONTENT_LENGTH: u32 = 1 << 3;
const IS_TRANSFER_ENCODING: u32 = 1 << 4;
const ANY: u32 = (1 << 5) - 1;

const CONNECTION: [u64; WORDS] = spelled(b"connection");
const HOST: [u64; WORDS] = spelled(b"host");
const CONTENT_LENGTH: [u64; WORDS] = spelled(b"content-length");
const TRANSFER_ENCODING: [u64; WORDS] = spelled(b"transfer-encoding");

/// A name in lower case as the words it makes.
const fn spelled(name: &[u8]) -> [u64; WORDS] {
    let mut spelled = [0; WORDS];
    let mut at = 0;
    while at < name.len() {
        spelled[at / 8] |= (words::lower(name[at] as u64) & 0xff) << (8 * (at % 8));
        at += 1;
    }
    spelled
}

impl Names {
    /// Looks for no name yet.
    pub const fn new() -> Self {
        Self { client: [0; WORDS], part: 0, may_be: 0 }
    }

    /// Looks for `client`, besides the names that are always looked for.
    #[inline(always)]
    pub fn begin(&mut self, client: &HeaderName) {
        let mut at = 0;
        while at < WORDS {
            let (word, count) = client.word(at);
            self.client[at] = words::first(words::lower(word), count);
            at += 1;
        }
        self.restart();
    }

    /// Whether none of a name has come by.
    #[inline(always)]
    pub const fn at_start(&self) -> bool {
        self.part == 0
    }

    /// Takes the next part of a name, `count` of eight bytes.
    #[inline(always)]
    pub fn part(&mut self, word: u64, count: u32) {
        let word = words::first(words::lower(word), count);
        let at = self.part as usize;
        let is = |name: &[u64; WORDS], bit| if at < WORDS && name[at % 8 % WORDS] == word { bit } else { 0 };
        self.may_be &= is(&self.client, IS_CLIENT)
            | is(&CONNECTION, IS_CONNECTION)
            | is(&HOST, IS_HOST)
            | is(&CONTENT_LENGTH, IS_CONTENT_LENGTH)
            | is(&TRANSFER_ENCODING, IS_TRANSFER_ENCODING);
        self.part += 1;
    }

    /// Takes the last part, less than eight bytes, and says which name it was.
    #[inline(always)]
    pub fn end(&mut self, word: u64, count: u32) -> Special {
        self.part(word, count);
        let is = self.may_be;
        self.restart();
        match () {
            () if is & IS_CLIENT != 0 => Special::Client,
            () if is & IS_CONNECTION != 0 => Special::Connection,
            () if is & IS_HOST != 0 => Special::Host,
            () if is & IS_CONTENT_LENGTH != 0 => Special::ContentLength,
            () if is & IS_TRANSFER_ENCODING != 0 => Special::TransferEncoding,
            () => Special::None,
        }
    }

    /// Begins with another name.
    #[inline(always)]
    fn restart(&mut self) {
        self.part = 0;
        self.may_be = ANY;
    }
}
