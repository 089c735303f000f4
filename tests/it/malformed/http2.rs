//! Requests of HTTP/2 that would be others as HTTP/1.1, which is what workers get.

use std::io::{Read as _, Write as _};

use super::table::all_well_formed;
use super::{Pool, Proxy, SMUGGLED};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` in a response's header block (RFC 7541 appendix A).
const OK: u8 = 0x88;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Fields as they are, without compression: RFC 7541 section 6.2.2.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        assert!(text.len() < 127, "{text:?}");
        [&[text.len() as u8], text.as_bytes()].concat()
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// Sends a request over a connection of its own; whether its answer is 200.
fn accepted(request: &[(&str, &str)], content: Option<&str>) -> bool {
    let mut proxy = Proxy::dial();
    proxy.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    proxy.send(frame(SETTINGS, 0, 0, &[]));
    let end = if content.is_none() { END_STREAM } else { 0 };
    proxy.send(frame(HEADERS, END_HEADERS | end, 1, &fields(request)));
    if let Some(content) = content {
        proxy.send(frame(DATA, END_STREAM, 1, content.as_bytes()));
    }
    loop {
        let mut head = [0; 9];
        if proxy.0.read_exact(&mut head).is_err() {
            return false;
        }
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        proxy.0.read_exact(&mut payload).expect("a whole frame");
        match kind {
            HEADERS => return payload.first() == Some(&OK),
            RST_STREAM | GOAWAY => return false,
            SETTINGS if flags == 0 => proxy.0.write_all(&frame(SETTINGS, 1, 0, &[])).expect("sent"),
            _ => {}
        }
    }
}

/// A good request for this path, in which these fields come instead of those of the same name, or at the end.
fn request<'a>(path: &'a str, others: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "pool"),
        ("x-forwarded-for", "203.0.113.9"),
    ];
    for other in others {
        match all.iter_mut().find(|(name, _)| name.starts_with(':') && *name == other.0) {
            Some(field) => *field = *other,
            None => all.push(*other),
        }
    }
    all
}

#[test]
fn requests_that_are_others_in_http_1_are_refused() {
    let pool = Pool::new();
    let hello = Some("hello");
    assert!(accepted(&request("/good", &[]), None));
    assert!(accepted(&request("/good", &[("content-length", "5"), ("host", "pool")]), hello));
    assert!(accepted(&request("/good", &[("te", "trailers")]), Some(SMUGGLED)));
    const LINE: &str = "/row HTTP/1.1\r\nHost: pool\r\n\r\nGET /smuggled";
    let mut passed = Vec::new();
    for (others, content) in [
        // Lengths (RFC 9113 sections 8.1.1 and 8.2.2).
        (&[("transfer-encoding", "chunked")][..], Some("0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")),
        (&[("content-length", "0")], Some(SMUGGLED)),
        (&[("content-length", "6")], hello),
        (&[("content-length", "4")], hello),
        (&[("content-length", "5"), ("content-length", "0")], hello),
        (&[("content-length", "5"), ("content-length", "5")], hello),
        (&[("content-length", "5, 5")], hello),
        (&[("content-length", "+5")], hello),
        (&[("content-length", "5"), ("transfer-encoding", "chunked")], hello),
        // Lines within fields (section 8.2.1).
        (&[("x", "a\r\nTransfer-Encoding: chunked")], hello),
        (&[("x", "a\nb")], None),
        (&[("x", "a\rb")], None),
        (&[("x", "a\0b")], None),
        (&[("x: y\r\nz", "a")], None),
        (&[("x y", "a")], None),
        (&[("x:", "a")], None),
        (&[("X", "a")], None),
        (&[("", "a")], None),
        // The request line (section 8.3.1).
        (&[(":path", LINE)], None),
        (&[(":path", "/row /smuggled")], None),
        (&[(":path", "/row\r\nX: y")], None),
        (&[(":path", "/row\0")], None),
        (&[(":path", "/row\u{e4}")], None),
        (&[(":path", "row")], None),
        (&[(":path", "")], None),
        (&[(":path", "http://other/row")], None),
        (&[(":method", "GET /smuggled HTTP/1.1\r\nX:")], None),
        (&[(":method", "GET /smuggled")], None),
        (&[(":method", "")], None),
        // Whose it is (section 8.3.1).
        (&[(":authority", "pool\r\nX: y")], None),
        (&[(":authority", "pool other")], None),
        (&[(":authority", "user@pool")], None),
        (&[(":authority", "pool/row")], None),
        (&[("host", "other")], None),
        (&[("host", "pool"), ("host", "other")], None),
        (&[("host", "pool"), ("host", "pool")], None),
        // What belongs to a connection (section 8.2.2).
        (&[("connection", "x-forwarded-for")], None),
        (&[("upgrade", "websocket")], None),
        (&[("keep-alive", "1")], None),
    ] {
        if accepted(&request("/row", others), content) {
            passed.push((others, content));
        }
    }
    assert!(accepted(&request("/good", &[]), None));
    all_well_formed(pool, &["/good"], "POST /row");
    assert!(passed.is_empty(), "{passed:#?}");
}
