//! Each rule: a message that keeps it next to ones that break it.

mod body;
mod head;

use super::super::Malformed::{self, Syntax, TooLarge};
use super::super::{Framing, Limits};
use super::{LIMITS, whole};

/// Passes, and ends where it ends, also before another one.
#[track_caller]
fn passes(message: impl AsRef<[u8]>) {
    let message = message.as_ref();
    let twice = [message, message].concat();
    let verdict = whole(&twice);
    let text = String::from_utf8_lossy(message);
    assert_eq!(verdict.refused, None, "{text:?}");
    assert_eq!(verdict.ends, [message.len(), twice.len()], "{text:?}");
}

/// Is refused, before it ends, and what follows with it.
#[track_caller]
fn refused(message: impl AsRef<[u8]>, expected: Malformed) {
    let message = message.as_ref();
    let verdict = whole(&[message, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
    let text = String::from_utf8_lossy(message);
    assert_eq!(verdict.refused, Some(expected), "{text:?}");
    assert!(verdict.ends.is_empty(), "{text:?} ends at {:?}", verdict.ends);
}

/// Header lines after a Host, without content.
#[track_caller]
fn headers(good: &[&str], bad: &[(&str, &'static str)]) {
    for line in good {
        passes(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"));
    }
    for (line, why) in bad {
        refused(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"), Syntax(why));
    }
}

#[test]
fn ends_of_lines() {
    let bare = Syntax("a line that ends with LF alone");
    let empty = Syntax("an empty line before the request line");
    let control = Syntax("a control character in a header");
    passes("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    refused("GET / HTTP/1.1\nHost: a\r\n\r\n", bare);
    refused("GET / HTTP/1.1\r\nHost: a\n\r\n", bare);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\n", bare);
    refused("GET / HTTP/1.1\nHost: a\n\n", bare);
    refused("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", bare);
    refused("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", empty);
    refused("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", empty);
    refused("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", control);
    refused("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", control);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", Syntax("a header name that is no token"));
    refused("GET / HTTP/1.1\rHost: a\r\n\r\n", Syntax("a version other than HTTP/1.0 and HTTP/1.1"));
}

#[test]
fn what_is_seen_early_is_refused_early() {
    for (begin, why) in [
        ("\r", "an empty line before the request line"),
        ("\n", "a line that ends with LF alone"),
        ("GET / HTTP/1.1\r\nX: b\n", "a line that ends with LF alone"),
        ("GET / HTTP/2.0\r\n", "a version other than HTTP/1.0 and HTTP/1.1"),
        ("GET / HTTP/1.1\r\nX : b\r\n", "whitespace between a header's name and its colon"),
    ] {
        assert_eq!(whole(begin.as_bytes()).refused, Some(Syntax(why)), "{begin:?}");
    }
    assert_eq!(whole(&[b'a'; 512]).refused, Some(TooLarge));
    assert_eq!(whole(&[b'a'; 511]).refused, None);
}

#[test]
fn limits() {
    let sized = |bytes: usize| {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        head.replace("X: ", &format!("X: {}", "x".repeat(bytes - head.len())))
    };
    passes(sized(LIMITS.header_bytes));
    refused(sized(LIMITS.header_bytes + 1), TooLarge);
    refused(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(LIMITS.header_bytes)), TooLarge);
    let lines = |lines: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(lines - 1));
    passes(lines(LIMITS.headers));
    refused(lines(LIMITS.headers + 1), TooLarge);

    let trailers = |trailers: &str| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{trailers}\r\n")
    };
    let sized = |bytes: usize| trailers(&format!("X: {}\r\n", "x".repeat(bytes - 7)));
    passes(sized(LIMITS.header_bytes));
    refused(sized(LIMITS.header_bytes + 1), TooLarge);
    passes(trailers(&"X: y\r\n".repeat(LIMITS.headers)));
    refused(trailers(&"X: y\r\n".repeat(LIMITS.headers + 1)), TooLarge);
}

#[test]
fn one_message_at_a_time() {
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let body = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let bad = "GET /  HTTP/1.1\r\n\r\n";
    let verdict = whole([good, body, good, bad, good].concat().as_bytes());
    let ends = [good.len(), good.len() + body.len(), 2 * good.len() + body.len()];
    assert_eq!(verdict.ends, ends);
    assert!(matches!(verdict.refused, Some(Syntax(_))));
    // A CRLF after content that has none of its length (RFC 9112 section 2.2).
    let verdict = whole([body, "\r\n", good].concat().as_bytes());
    assert_eq!((verdict.ends.len(), verdict.refused.is_some()), (1, true));
}

#[test]
fn trailers_have_a_limit_of_their_own() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ";
    let verdict = |trailers: usize| {
        let mut framing = Framing::new(Limits { header_bytes: 32 * 1024, headers: 8 });
        framing.take(&[&head[..], &vec![b'x'; trailers - 7], b"\r\n\r\n"].concat())
    };
    assert_eq!(verdict(16 * 1024 - 1), Ok(head.len() - 3 + 16 * 1024 - 1));
    assert_eq!(verdict(16 * 1024), Err(TooLarge));
}
