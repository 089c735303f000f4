//! The head: request line and headers, checked line by line as they come.

use std::ops::Range;

use memchr::memchr;

use super::Malformed::{self, Syntax, TooLarge};
use super::{Limits, syntax};

/// A head as far as it has been looked at.
#[derive(Debug, Default)]
pub struct Head {
    /// How many bytes have been looked at.
    seen: usize,
    /// Where the line begins that is not complete yet.
    line: usize,
    /// How many lines were complete.
    lines: usize,
    version: Version,
    /// Of a method that has no content (RFC 9110 sections 9.3.6 and 9.3.8).
    without_content: bool,
    /// Where the target has its authority.
    authority: Option<Range<usize>>,
    host: bool,
    length: Option<u64>,
    chunked: bool,
}

/// How to know where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Version {
    Http10,
    #[default]
    Http11,
}

impl Head {
    /// Where the head ends, if it does, and what body follows.
    pub fn look(&mut self, bytes: &[u8], limits: Limits) -> Result<Option<(usize, Body)>, Malformed> {
        if bytes.first() == Some(&b'\r') {
            return Err(Syntax("an empty line before the request line"));
        }
        let allowed = &bytes[..bytes.len().min(limits.header_bytes)];
        while let Some(found) = memchr(b'\n', allowed.get(self.seen..).unwrap_or_default()) {
            let end = self.seen + found;
            let Some(line) = allowed[self.line..end].strip_suffix(b"\r") else {
                return Err(Syntax("a line that ends with LF alone"));
            };
            match (self.lines, line) {
                (0, _) => self.request_line(line)?,
                (_, []) => return Ok(Some((end + 1, self.body()?))),
                (lines, _) if lines > limits.headers => return Err(TooLarge),
                (_, _) => self.header(line, bytes)?,
            }
            self.lines += 1;
            self.line = end + 1;
            self.seen = end + 1;
        }
        if bytes.len() >= limits.header_bytes {
            return Err(TooLarge);
        }
        self.seen = self.seen.max(bytes.len());
        Ok(None)
    }

    /// RFC 9112 section 3.
    fn request_line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let (method, rest) = line.split_at(syntax::token_length(line));
        if method.is_empty() {
            return Err(Syntax("no method"));
        }
        let [b' ', rest @ ..] = rest else { return Err(Syntax("a method that is no token")) };
        let Some((rest, version)) = rest.split_last_chunk::<8>() else {
            return Err(Syntax("a request line of less than three parts"));
        };
        self.version = match version {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            _ => return Err(Syntax("a version other than HTTP/1.0 and HTTP/1.1")),
        };
        let [target @ .., b' '] = rest else { return Err(Syntax("no space before the version")) };
        self.without_content = matches!(method, b"CONNECT" | b"TRACE");
        self.target(method, target)
    }

    /// RFC 9112 section 3.2.
    fn target(&mut self, method: &[u8], target: &[u8]) -> Result<(), Malformed> {
        if !syntax::all(target, |byte| (byte > b' ') & (byte < 0x7f) & (byte != b'#')) {
            return Err(Syntax("a space, `#`, control character or non-ASCII byte in the target"));
        }
        match (method, target) {
            (_, []) => Err(Syntax("an empty target")),
            (b"CONNECT", _) if target.contains(&b':') && syntax::host_and_port(target) => Ok(()),
            (b"CONNECT", _) => Err(Syntax("CONNECT to what is not a host and a port")),
            (_, [b'/', ..]) | (b"OPTIONS", b"*") => Ok(()),
            (_, _) => {
                let authority =
                    authority(target).ok_or(Syntax("a target that is no path and no http URI"))?;
                let named = &target[authority.clone()];
                if matches!(named, [] | [b':', ..]) || !syntax::host_and_port(named) {
                    return Err(Syntax("an authority in the target that is not a host"));
                }
                let begin = method.len() + 1;
                self.authority = Some(begin + authority.start..begin + authority.end);
                Ok(())
            }
        }
    }

    /// RFC 9112 section 5.
    fn header(&mut self, line: &[u8], bytes: &[u8]) -> Result<(), Malformed> {
        let (name, rest) = line.split_at(syntax::token_length(line));
        let value = match rest {
            [b':', value @ ..] if !name.is_empty() => value,
            [b' ' | b'\t', ..] if name.is_empty() => return Err(Syntax("whitespace before a header")),
            [b' ' | b'\t', ..] => return Err(Syntax("whitespace between a header's name and its colon")),
            _ => return Err(Syntax("a header name that is no token")),
        };
        if !syntax::all(value, syntax::text) {
            return Err(Syntax("a control character in a header"));
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(syntax::trim(value), bytes),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(syntax::trim(value)),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.transfer_encoding(syntax::trim(value))
            }
            _ => Ok(()),
        }
    }

    /// RFC 9112 sections 3.2 and 3.2.2.
    fn host(&mut self, value: &[u8], bytes: &[u8]) -> Result<(), Malformed> {
        if self.host {
            return Err(Syntax("more than one Host"));
        }
        if !syntax::host_and_port(value) {
            return Err(Syntax("a Host that is not a host"));
        }
        let authority = self.authority.clone().and_then(|authority| bytes.get(authority));
        if authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(value)) {
            return Err(Syntax("a Host that is not the target's"));
        }
        self.host = true;
        Ok(())
    }

    /// RFC 9112 sections 6.2 and 6.3.
    fn content_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.length.is_some() {
            return Err(Syntax("more than one Content-Length"));
        }
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(Syntax("a Content-Length that is not digits"));
        }
        let digit = |sum: i64, digit: &u8| sum.checked_mul(10)?.checked_add(i64::from(digit - b'0'));
        let length = value.iter().try_fold(0, digit).ok_or(Syntax("a Content-Length out of range"))?;
        self.length = Some(length.unsigned_abs());
        Ok(())
    }

    /// RFC 9112 section 6.1; names of codings are the same in upper and lower case (section 7).
    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.chunked {
            return Err(Syntax("more than one Transfer-Encoding"));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Syntax("a Transfer-Encoding that is not chunked"));
        }
        self.chunked = true;
        Ok(())
    }

    /// What no line tells alone.
    fn body(&self) -> Result<Body, Malformed> {
        if !self.host && self.version == Version::Http11 {
            return Err(Syntax("no Host"));
        }
        match (self.length, self.chunked) {
            (_, true) if self.version == Version::Http10 => Err(Syntax("Transfer-Encoding in HTTP/1.0")),
            (Some(_), true) => Err(Syntax("Content-Length and Transfer-Encoding")),
            (Some(1..), _) | (_, true) if self.without_content => {
                Err(Syntax("content of a method without any"))
            }
            (_, true) => Ok(Body::Chunked),
            (length, false) => Ok(Body::Length(length.unwrap_or(0))),
        }
    }
}

/// Where an http or https URI has its authority.
fn authority(target: &[u8]) -> Option<Range<usize>> {
    let scheme = target.iter().position(|byte| *byte == b':')?;
    let (name, rest) = target.split_at(scheme);
    if !name.eq_ignore_ascii_case(b"http") && !name.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let begin = scheme + 3;
    Some(begin..begin + length)
}
