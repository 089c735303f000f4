//! Where a request ends, told strictly, so that nobody after this can tell it differently.
//!
//! Two programs that disagree on where a request ends let one client write the beginning of another's request
//! (request smuggling). So only bytes whose framing is beyond doubt go on to the parser: what RFC 9112 lets a recipient
//! be lenient with is refused here.
//!
//! | refused | RFC 9112 |
//! |---|---|
//! | a line that ends with LF alone; CR anywhere but before LF | 2.2 |
//! | an empty line before the request line | 2.2 lets a server skip one |
//! | whitespace before the first header | 2.2 |
//! | a request line that is not `method SP target SP version`, a method that is no token | 3, 3.1 |
//! | a version other than HTTP/1.0 and HTTP/1.1 | 2.3 |
//! | a target that is empty or has control characters, non-ASCII bytes or `#` | 3.2 |
//! | a target that is neither a path, nor an http or https URI, nor `*` for OPTIONS, nor CONNECT's host and port | 3.2.1-4 |
//! | a URI in the target whose authority is not the Host; userinfo in it | 3.2.2 and RFC 9110, 4.2.4 |
//! | no Host in HTTP/1.1; two; one that is not `host[:port]` | 3.2 |
//! | a header name that is no token; whitespace between name and colon | 5, 5.1 |
//! | a header continued on the next line (obs-fold) | 5.2 |
//! | NUL and other control characters but tab in a value | RFC 9110, 5.5 |
//! | Transfer-Encoding other than one `chunked`, or in HTTP/1.0, or with Content-Length | 6.1, 6.3 |
//! | Content-Length twice, as a list, not digits only, or more than an `i64` holds | 6.2, 6.3 |
//! | content of CONNECT and TRACE | RFC 9110, 9.3.6 and 9.3.8 |
//! | a chunk size that is not 1 to 16 hexadecimal digits; whitespace after it, unless an extension follows | 7.1 |
//! | control characters but tab in a chunk extension; more than 1 KiB in a line, or 16 KiB in all | 7.1.1 |
//! | chunk data that CRLF does not follow | 7.1 |
//! | in the trailer section, what is refused in headers | 7.1.2 |

mod chunked;
mod head;
mod syntax;
#[cfg(test)]
mod tests;

use chunked::Chunked;
use head::{Body, Head};

/// What a head may be at most. A trailer section may be as much again, but less than 16 KiB.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes, with the request line and the empty line.
    pub header_bytes: usize,
    /// Header lines.
    pub headers: usize,
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// What is wrong, in words for a log line.
    Syntax(&'static str),
    /// A head or trailer section that is larger than the limits.
    TooLarge,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub struct Framing {
    limits: Limits,
    inside: Inside,
}

#[derive(Debug)]
enum Inside {
    /// The head, or nothing: none of it has been taken.
    Head(Head),
    /// A body of which so many bytes are left, at least one.
    Length(u64),
    Chunked(Chunked),
    /// Nothing any more: what follows a refused message is refused.
    Refused(Malformed),
}

impl Framing {
    /// For a connection's first byte.
    pub fn new(limits: Limits) -> Self {
        Self { limits, inside: Inside::Head(Head::default()) }
    }

    /// Looks at `bytes`, which follow those taken before; returns how many of them, from the front, may go on, at most
    /// to the end of the current message.
    ///
    /// 0 means that more bytes are needed. An incomplete head is kept back whole by the caller, who calls again with it
    /// and what came after it; what has been looked at is not looked at again.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        self.look(bytes).inspect_err(|malformed| self.inside = Inside::Refused(*malformed))
    }

    fn look(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut taken = 0;
        if let Inside::Head(head) = &mut self.inside {
            let Some((end, body)) = head.look(bytes, self.limits)? else { return Ok(0) };
            taken = end;
            self.inside = match body {
                Body::Length(0) => Inside::Head(Head::default()),
                Body::Length(length) => Inside::Length(length),
                Body::Chunked => Inside::Chunked(Chunked::default()),
            };
        }
        let rest = bytes.get(taken..).unwrap_or_default();
        match &mut self.inside {
            Inside::Head(_) => Ok(taken),
            Inside::Length(left) => {
                let some = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= some as u64;
                if *left == 0 {
                    self.inside = Inside::Head(Head::default());
                }
                Ok(taken + some)
            }
            Inside::Chunked(chunked) => {
                let some = chunked.look(rest, self.limits)?;
                if chunked.ended() {
                    self.inside = Inside::Head(Head::default());
                }
                Ok(taken + some)
            }
            Inside::Refused(malformed) => Err(*malformed),
        }
    }

    /// Whether the next byte after those taken begins a message: true initially, after the last byte of a message was
    /// taken, and while an incomplete head is kept back.
    pub fn between_messages(&self) -> bool {
        matches!(self.inside, Inside::Head(_))
    }
}
