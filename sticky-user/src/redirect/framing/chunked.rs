//! The chunked coding, byte by byte as it comes (RFC 9112 section 7.1).

use super::Malformed::{self, Syntax, TooLarge};
use super::{Limits, syntax};

/// How long a line with a chunk's size and extensions may be.
const CHUNK_LINE: usize = 1024;
/// How long all extensions and the trailer section may be: hyper gives up at 16 KiB of either, without saying why.
const MOST: usize = 16 * 1024 - 1;

/// How far a chunked body has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chunked {
    next: Next,
    /// What the digits so far say, then how much of the data is left.
    size: u64,
    /// Bytes so far of the line with the chunk's size, later of the trailer section.
    bytes: usize,
    /// Bytes of all chunks' extensions.
    extensions: usize,
    /// Lines of the trailer section.
    lines: usize,
}

/// What is expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Size,
    /// The rest of the whitespace after the size.
    Semicolon,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// A line of the trailer section, or the empty one after it.
    Trailer,
    Name,
    Value,
    TrailerLf,
    LastLf,
    End,
}

impl Chunked {
    /// How many of the bytes, from the front, belong to the body.
    pub fn look(&mut self, bytes: &[u8], limits: Limits) -> Result<usize, Malformed> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at)
            && !self.ended()
        {
            if self.next == Next::Data {
                let some = self.size.min((bytes.len() - at) as u64);
                at += some as usize;
                self.size -= some;
                if self.size == 0 {
                    self.next = Next::DataCr;
                }
            } else {
                self.bytes += 1;
                self.next = self.step(*byte, limits)?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// Whether the bytes looked at ended with the body.
    pub fn ended(&self) -> bool {
        self.next == Next::End
    }

    fn step(&mut self, byte: u8, limits: Limits) -> Result<Next, Malformed> {
        match (self.next, byte) {
            (Next::Size, _) => self.size(byte),
            (Next::Semicolon | Next::Extension, _) => self.extension(byte),
            (Next::SizeLf, b'\n') => {
                self.bytes = 0;
                Ok(if self.size == 0 { Next::Trailer } else { Next::Data })
            }
            (Next::DataCr, b'\r') => Ok(Next::DataLf),
            (Next::Data | Next::DataCr, _) => Err(Syntax("chunk data without CRLF after it")),
            (Next::DataLf, b'\n') => {
                self.bytes = 0;
                Ok(Next::Size)
            }
            (Next::SizeLf | Next::DataLf, _) => Err(Syntax("CR without LF in a chunked body")),
            (Next::Trailer | Next::Name | Next::Value | Next::TrailerLf | Next::LastLf | Next::End, _) => {
                self.trailer(byte, limits)
            }
        }
    }

    fn size(&mut self, byte: u8) -> Result<Next, Malformed> {
        let first = self.bytes == 1;
        match (char::from(byte).to_digit(16), byte) {
            (Some(_), _) if self.bytes > 16 => Err(Syntax("a chunk size of more than 16 digits")),
            (Some(digit), _) => {
                self.size = self.size << 4 | u64::from(digit);
                Ok(Next::Size)
            }
            (None, b'\r') if !first => Ok(Next::SizeLf),
            (None, b';') if !first => Ok(Next::Extension),
            (None, b' ' | b'\t') if !first => Ok(Next::Semicolon),
            (None, _) => Err(Syntax("a chunk size that is not hexadecimal digits and CRLF")),
        }
    }

    fn extension(&mut self, byte: u8) -> Result<Next, Malformed> {
        self.extensions += 1;
        match (self.next, byte) {
            _ if self.extensions > MOST => Err(Syntax("chunk extensions of more than 16 KiB in all")),
            _ if self.bytes > CHUNK_LINE => Err(Syntax("a chunk extension of more than 1 KiB")),
            (Next::Semicolon, b' ' | b'\t') => Ok(Next::Semicolon),
            (Next::Semicolon, b';') => Ok(Next::Extension),
            (Next::Semicolon, _) => Err(Syntax("whitespace after a chunk size")),
            (_, b'\r') => Ok(Next::SizeLf),
            (_, _) if syntax::text(byte) => Ok(Next::Extension),
            (_, _) => Err(Syntax("a control character in a chunk extension")),
        }
    }

    /// RFC 9112 section 7.1.2: the same as headers.
    fn trailer(&mut self, byte: u8, limits: Limits) -> Result<Next, Malformed> {
        if self.bytes > limits.header_bytes.min(MOST) {
            return Err(TooLarge);
        }
        match (self.next, byte) {
            (Next::Trailer, b'\r') => Ok(Next::LastLf),
            (Next::Trailer, _) if self.lines == limits.headers => Err(TooLarge),
            (Next::Trailer, b' ' | b'\t') => Err(Syntax("whitespace before a trailer")),
            (Next::Name, b':') => Ok(Next::Value),
            (Next::Trailer | Next::Name, _) if syntax::token(byte) => Ok(Next::Name),
            (Next::Value, b'\r') => Ok(Next::TrailerLf),
            (Next::Value, _) if syntax::text(byte) => Ok(Next::Value),
            (Next::Value, _) => Err(Syntax("a control character in a trailer")),
            (Next::TrailerLf, b'\n') => {
                self.lines += 1;
                Ok(Next::Trailer)
            }
            (Next::LastLf, b'\n') => Ok(Next::End),
            (Next::TrailerLf | Next::LastLf, _) => Err(Syntax("CR without LF in a chunked body")),
            (_, _) => Err(Syntax("a trailer name that is no token")),
        }
    }
}
