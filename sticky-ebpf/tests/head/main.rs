//! What a head is taken for: by a table, and against a plain reading of the same rules.

mod reference;

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;
use reference::client;
use sticky_ebpf::client::Client;
use sticky_ebpf::forwarded::HeaderName;
use sticky_ebpf::head::{LONGEST, Verdict, verdict};

const PEER: &str = "10.0.0.1";

/// 10.0.0.0/8 is trusted.
fn trusted(client: Client) -> bool {
    matches!(IpAddr::from(client), IpAddr::V4(ip) if ip.octets()[0] == 10)
}

fn scan(head: impl AsRef<[u8]>) -> Verdict {
    verdict(&HeaderName::X_FORWARDED_FOR, client(PEER), head.as_ref(), trusted)
}

/// The verdict as a row of the table has it.
fn told(verdict: Verdict) -> String {
    match verdict {
        Verdict::Client(client) => format!("alone {}", IpAddr::from(client)),
        Verdict::Shared(client) => format!("shared {}", IpAddr::from(client)),
        Verdict::Incomplete => "incomplete".into(),
        Verdict::TooLong => "too long".into(),
        Verdict::Http2 => "HTTP/2".into(),
        Verdict::Strange => "strange".into(),
    }
}

/// Lines that begin with `|` follow `GET / HTTP/1.1` and `Host: a`; `~` is a line's end.
const TABLE: &[(&str, &str)] = &[
    ("|X-Forwarded-For: 203.0.113.7~Connection: close~~", "alone 203.0.113.7"),
    ("|x-forwarded-for:203.0.113.7~connection:close~~", "alone 203.0.113.7"),
    ("|X-Forwarded-For: 198.51.100.1, 203.0.113.7, 10.9.9.9~Connection: close~~", "alone 203.0.113.7"),
    ("|X-Forwarded-For: 198.51.100.1~X-Forwarded-For: 203.0.113.7~Connection: close~~", "alone 203.0.113.7"),
    ("|X-Forwarded-For: 203.0.113.7~Connection: close~X-Forwarded-For: 198.51.100.1~~", "alone 198.51.100.1"),
    ("|X-Forwarded-For: 203.0.113.7~~", "shared 203.0.113.7"),
    ("|X-Forwarded-For: 203.0.113.7~Connection: keep-alive~~", "shared 203.0.113.7"),
    (
        "|X-Forwarded-For: 203.0.113.7~Connection: keep-alive, Upgrade~Upgrade: websocket~~",
        "alone 203.0.113.7",
    ),
    ("|X-Forwarded-For: 203.0.113.7~Connection: x, CLOSE ,y~~", "alone 203.0.113.7"),
    ("|X-Forwarded-For: 203.0.113.7~Connection: not-close~~", "shared 203.0.113.7"),
    (
        "|X-Forwarded-For: 203.0.113.7~Connection: a-token-longer-than-any-number-close~~",
        "shared 203.0.113.7",
    ),
    ("|X-Forwarded-For: 203.0.113.7~Connection: koep-alive~~", "shared 203.0.113.7"),
    ("GET / HTTP/1.0~Connection: koep-alive~~", "alone 10.0.0.1"),
    ("|X-Forwarded-For: 203.0.113.7~Connection: close, keep-alive~~", "strange"),
    ("|X-Forwarded-Fort: 203.0.113.7~Connection: close~~", "alone 10.0.0.1"),
    ("|X-Forwarded-Fo: 203.0.113.7~Connection: close~~", "alone 10.0.0.1"),
    ("|XX-Forwarded-For: 203.0.113.7~Connection: close~~", "alone 10.0.0.1"),
    ("|X_Forwarded_For: 203.0.113.7~Connection: close~~", "alone 10.0.0.1"),
    ("|Connection: close~~", "alone 10.0.0.1"),
    ("|~", "shared 10.0.0.1"),
    ("GET / HTTP/1.0~X-Forwarded-For: 203.0.113.7~~", "alone 203.0.113.7"),
    ("GET / HTTP/1.0~X-Forwarded-For: 203.0.113.7~Connection: Keep-Alive~~", "shared 203.0.113.7"),
    ("POST /x?y=z HTTP/1.1~Host: a:80~Content-Length: 5~Connection: close~~hello", "alone 10.0.0.1"),
    ("OPTIONS /x HTTP/1.1~Host: a~Connection: close~~", "alone 10.0.0.1"),
    ("|X-A: \u{e9}\t\"b\"~Connection: close~~", "alone 10.0.0.1"),
    // Not all there.
    ("", "incomplete"),
    ("G", "incomplete"),
    ("GET /", "incomplete"),
    ("GET / HTTP/1.1", "incomplete"),
    ("GET / HTTP/1.1~", "incomplete"),
    ("|X-Forwarded-For: 203.0.113.7~Connection: close~", "incomplete"),
    ("|X-Forwarded-For: 203.0.113.7~Connection: close~\r", "incomplete"),
    ("|X-Forwarded-For: 203.0.113", "incomplete"),
    ("|X-Forwarded-F", "incomplete"),
    // Not ordinary.
    ("PRI * HTTP/2.0~~SM~~", "HTTP/2"),
    ("PRI * H", "incomplete"),
    ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}", "strange"),
    ("BREW / HTTP/1.1~Host: a~~", "strange"),
    ("get / HTTP/1.1~Host: a~~", "strange"),
    ("GET  / HTTP/1.1~Host: a~~", "strange"),
    ("GET /  HTTP/1.1~Host: a~~", "strange"),
    ("GET /# HTTP/1.1~Host: a~~", "strange"),
    ("GET /\u{e9} HTTP/1.1~Host: a~~", "strange"),
    ("GET * HTTP/1.1~Host: a~~", "strange"),
    ("GET http://a/ HTTP/1.1~Host: a~~", "strange"),
    ("GET / HTTP/1.2~Host: a~~", "strange"),
    ("GET / HTTP/1.1 ~Host: a~~", "strange"),
    ("GET / HTTP/1.1\nHost: a~~", "strange"),
    ("~GET / HTTP/1.1~Host: a~~", "strange"),
    ("GET / HTTP/1.1~~", "strange"),
    ("|Host: a~~", "strange"),
    ("GET / HTTP/1.1~Host: [::1]~~", "strange"),
    ("GET / HTTP/1.1~Host: a b~~", "strange"),
    ("GET / HTTP/1.1~Host: a:b~~", "strange"),
    ("GET / HTTP/1.1~Host: : 80~~", "strange"),
    ("GET / HTTP/1.1~Host:   a.b-c:8~Connection:close~~", "alone 10.0.0.1"),
    ("GET / HTTP/1.1~Host: a:1:2~~", "strange"),
    ("|Transfer-Encoding: chunked~Connection: close~~", "strange"),
    ("|Content-Length: 1~Content-Length: 1~~", "strange"),
    ("|Content-Length: 1, 1~~", "strange"),
    ("|Content-Length: +1~~", "strange"),
    ("|Content-Length:~~", "strange"),
    ("|Content-Length: 1234567890123456~~", "strange"),
    ("|X-Forwarded-For : 203.0.113.7~~", "strange"),
    ("|X-A: b~ c~~", "strange"),
    ("| X-A: b~~", "strange"),
    ("|X-A~~", "strange"),
    ("|: b~~", "strange"),
    ("|X-A: b\nX-B: c~~", "strange"),
    ("|X-A: b\rX-B: c~~", "strange"),
    ("|X-A: b\0c~~", "strange"),
    ("|X-Forwarded-For: 203.0.113.7\0~~", "strange"),
    ("|X(A): b~~", "strange"),
];

#[test]
fn heads_are_what_the_table_says() {
    for (row, expected) in TABLE {
        let head = row.replace('~', "\r\n");
        let head = head
            .strip_prefix('|')
            .map_or(head.clone(), |rest| format!("GET / HTTP/1.1\r\nHost: a\r\n{rest}"));
        assert_eq!(told(scan(&head)), *expected, "{head:?}");
    }
}

#[test]
fn a_head_is_looked_at_to_its_limit() {
    let head = |length: usize| {
        let (begin, end) = ("GET / HTTP/1.1\r\nHost: a\r\nX-A: ", "\r\nConnection: close\r\n\r\n");
        format!("{begin}{}{end}", "x".repeat(length - begin.len() - end.len()))
    };
    let longest = LONGEST as usize;
    assert_eq!(told(scan(head(longest))), "alone 10.0.0.1");
    assert_eq!(told(scan(head(longest + 1))), "too long");
    let lines = |count| format!("GET / HTTP/1.0\r\n{}\r\n", "X-A: b\r\n".repeat(count));
    assert_eq!(told(scan(lines(100))), "alone 10.0.0.1");
    assert_eq!(told(scan(lines(101))), "strange");
}

/// A line of a head, mostly in order.
fn line() -> impl Strategy<Value = String> {
    let name = select(vec![
        "Host",
        "X-Forwarded-For",
        "x-forwarded-for",
        "Connection",
        "Content-Length",
        "Transfer-Encoding",
        "X-F",
        "X-Forwarded-Fo",
        "X-Forwarded-For2",
        "Accept-Language",
        "a",
        "X A",
        "",
    ]);
    let value = prop_oneof![
        4 => select(vec![
            "a", " a:80", " close", " keep-alive", "Upgrade", " x , close", " 203.0.113.7", " 203.0.113.7, 10.2.3.4",
            " 12", " chunked", "", "\t", " en-US,en;q=0.5", " unknown, 203.0.113.8", " \u{e9}",
        ])
        .prop_map(String::from),
        1 => "[ -~\t]{0,24}",
    ];
    (name, value).prop_map(|(name, value)| format!("{name}:{value}\r\n"))
}

fn head() -> impl Strategy<Value = String> {
    let request = prop_oneof![
        8 => select(vec!["GET / HTTP/1.1", "GET /a/long/path?with=a&query HTTP/1.1", "POST /x HTTP/1.0", "HEAD /yz HTTP/1.1"])
            .prop_map(String::from),
        1 => "[A-Z]{1,8} [!-~]{1,20} HTTP/[0-2]\\.[0-2]",
    ];
    let lines = prop::collection::vec(line(), 0..8);
    (request, any::<bool>(), lines).prop_map(|(request, host, lines)| {
        let host = if host { "Host: example.org\r\n" } else { "" };
        format!("{request}\r\n{host}{}\r\n", lines.concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_plain_reading_comes_to_the_same(head in head(), body in "[ -~]{0,9}") {
        let expected = reference::verdict(&HeaderName::X_FORWARDED_FOR, client(PEER), &head, trusted);
        prop_assert_eq!(scan(head.clone() + &body), expected, "{:?}", head);
    }

    #[test]
    fn what_is_cut_off_is_never_taken_for_a_head(head in head(), cut: prop::sample::Index) {
        let found = scan(&head[..head.floor_char_boundary(cut.index(head.len()))]);
        prop_assert!(matches!(found, Verdict::Incomplete | Verdict::Strange), "{:?}", found);
    }

    #[test]
    fn one_wrong_byte_makes_no_other_client(head in head(), at: prop::sample::Index, byte: u8) {
        let mut bytes = head.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let expected = match std::str::from_utf8(&bytes) {
            Ok(head) => reference::verdict(&HeaderName::X_FORWARDED_FOR, client(PEER), head, trusted),
            Err(_) => return Ok(()),
        };
        // It may end sooner than the reference thinks, or not at all.
        let found = scan(&bytes);
        if !matches!(found, Verdict::Incomplete | Verdict::Strange) && !matches!(expected, Verdict::Strange) {
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn any_bytes_end_in_a_verdict(bytes: Vec<u8>) {
        scan(bytes);
    }
}
