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
    is_client: bool,
    is_connection: bool,
    is_host: bool,
    is_content_length: bool,
    is_transfer_encoding: bool,
}

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
        Self {
            client: [0; WORDS],
            part: 0,
            is_client: false,
            is_connection: false,
            is_host: false,
            is_content_length: false,
            is_transfer_encoding: false,
        }
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
        let is = |name: &[u64; WORDS]| at < WORDS && name[at % 8 % WORDS] == word;
        self.is_client &= is(&self.client);
        self.is_connection &= is(&CONNECTION);
        self.is_host &= is(&HOST);
        self.is_content_length &= is(&CONTENT_LENGTH);
        self.is_transfer_encoding &= is(&TRANSFER_ENCODING);
        self.part += 1;
    }

    /// Takes the last part, less than eight bytes, and says which name it was.
    #[inline(always)]
    pub fn end(&mut self, word: u64, count: u32) -> Special {
        self.part(word, count);
        let special = if self.is_client {
            Special::Client
        } else if self.is_connection {
            Special::Connection
        } else if self.is_host {
            Special::Host
        } else if self.is_content_length {
            Special::ContentLength
        } else if self.is_transfer_encoding {
            Special::TransferEncoding
        } else {
            Special::None
        };
        self.restart();
        special
    }

    /// Begins with another name.
    #[inline(always)]
    fn restart(&mut self) {
        self.part = 0;
        self.is_client = true;
        self.is_connection = true;
        self.is_host = true;
        self.is_content_length = true;
        self.is_transfer_encoding = true;
    }
}
