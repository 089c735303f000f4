//! Whose connection it is by its PROXY header: by a table, and against the library that the redirect uses.

mod reference;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::select;
use proxy_header::{ProxiedAddress, ProxyHeader, Tlv};
use sticky_ebpf::proxy_protocol::{LONGEST, LOOKED_AT, Scan, Verdict, verdict};

/// The verdict as a row of the table has it.
fn told(verdict: Verdict) -> String {
    match verdict {
        Verdict::Client(client) => IpAddr::from(client).to_string(),
        Verdict::Peer => "peer".into(),
        Verdict::Incomplete => "incomplete".into(),
        Verdict::Malformed => "malformed".into(),
    }
}

/// `~` is a line's end.
const LINES: &[(&str, &str)] = &[
    ("PROXY TCP4 203.0.113.7 127.0.0.1 4660 3000~", "203.0.113.7"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 4660 3000~GET / HTTP/1.1~~", "203.0.113.7"),
    ("PROXY TCP4 203.0.113.7 0.0.0.0 0 0~", "203.0.113.7"),
    ("PROXY TCP4 1.1.1.1 1.1.1.1 1 1~", "1.1.1.1"),
    ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535~", "255.255.255.255"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 00080 3000~", "203.0.113.7"),
    ("PROXY TCP6 2001:db8::7 ::1 4660 3000~", "2001:db8::7"),
    ("PROXY TCP6 2001:DB8:0:0:0:0:0:7 :: 4660 3000~", "2001:db8::7"),
    ("PROXY TCP6 ::ffff:203.0.113.7 ::1 4660 3000~", "203.0.113.7"),
    (
        "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535~",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    ("PROXY UNKNOWN~", "peer"),
    ("PROXY UNKNOWN 203.0.113.7 127.0.0.1 4660 3000~", "peer"),
    ("PROXY UNKNOWN any \0thing\n~GET / HTTP/1.1~~", "peer"),
    ("PROXY UNKNOWNS~", "peer"),
    ("PROXY TCP4 0.0.0.0 127.0.0.1 4660 3000~", "peer"),
    ("PROXY TCP6 :: ::1 4660 3000~", "peer"),
    ("PROXY TCP6 ::ffff:0.0.0.0 ::1 4660 3000~", "peer"),
    // Not all there.
    ("", "incomplete"),
    ("P", "incomplete"),
    ("PROXY UNKNOWN", "incomplete"),
    ("PROXY UNKNOWN\r", "incomplete"),
    ("PROXY UNKNOWN 203.0.113.7 127.0.0.1 4660 3000\r", "incomplete"),
    ("PROXY TCP4 203.0.113.7", "incomplete"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 4660 3000", "incomplete"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 4660 3000\r", "incomplete"),
    // Not a header, or not an ordinary one.
    ("GET / HTTP/1.1~Host: a~X-Forwarded-For: 203.0.113.7~~", "malformed"),
    ("G", "malformed"),
    ("\0", "malformed"),
    ("POST / HTTP/1.1~", "malformed"),
    ("proxy TCP4 203.0.113.7 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY  TCP4 203.0.113.7 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY\tTCP4 203.0.113.7 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY TCP5 203.0.113.7 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY UDP4 203.0.113.7 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY TCP4  203.0.113.7 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY TCP4 nonsense 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY TCP4 203.0.113.7 nonsense 4660 3000~", "malformed"),
    ("PROXY TCP4 203.0.113.007 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY TCP4 203.0.113.7:80 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY TCP4 203.0.113.7\t 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY TCP4 2001:db8::7 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY TCP4 203.0.113.7 ::1 4660 3000~", "malformed"),
    ("PROXY TCP6 203.0.113.7 ::1 4660 3000~", "malformed"),
    ("PROXY TCP6 2001:db8::7 127.0.0.1 4660 3000~", "malformed"),
    ("PROXY TCP6 [2001:db8::7] ::1 4660 3000~", "malformed"),
    ("PROXY TCP6 [2001:db8::7]:80 ::1 4660 3000~", "malformed"),
    ("PROXY TCP6 fe80::7%eth0 ::1 4660 3000~", "malformed"),
    ("PROXY TCP6 2001:db8::7::7 ::1 4660 3000~", "malformed"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 65536 3000~", "malformed"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 4660 65536~", "malformed"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 000080 3000~", "malformed"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 +80 3000~", "malformed"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 -1 3000~", "malformed"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1  3000~", "malformed"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 4660 ~", "malformed"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 4660~", "malformed"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 4660 3000 ~", "malformed"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 4660 3000\n", "malformed"),
    ("PROXY TCP4 203.0.113.7 127.0.0.1 4660 3000\rx", "malformed"),
    ("PROXY UNKNOWN\rx\n", "malformed"),
    ("PROXY UNKNOWN\r\r\n", "malformed"),
    ("PROXY UNKNOW 203.0.113.7~", "malformed"),
];

const V4: &[u8] = &[203, 0, 113, 7, 127, 0, 0, 1, 0x12, 0x34, 0x0b, 0xb8];
const NOBODY: &[u8] = &[0; 36];
/// `2001:db8::7` and `::1`, with ports.
const V6: &[u8] = &[
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    1, 0x12, 0x34, 0x0b, 0xb8,
];
/// `::ffff:203.0.113.7`, and `::`.
const MAPPED: &[u8] = &[
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0,
];
const UNIX: &[u8] = &[b'/'; 216];

/// Version 2: version and command, family, addresses, bytes of extensions, bytes that are missing at the end.
type Row = (u8, u8, &'static [u8], usize, usize, &'static str);

const BINARY: &[Row] = &[
    (0x21, 0x11, V4, 0, 0, "203.0.113.7"),
    (0x21, 0x12, V4, 0, 0, "203.0.113.7"),
    (0x21, 0x11, V4, 5, 0, "203.0.113.7"),
    (0x21, 0x11, V6, 0, 0, "32.1.13.184"),
    (0x21, 0x21, V6, 0, 0, "2001:db8::7"),
    (0x21, 0x22, V6, 0, 0, "2001:db8::7"),
    (0x21, 0x21, V6, 3000, 0, "2001:db8::7"),
    (0x21, 0x21, MAPPED, 0, 0, "203.0.113.7"),
    (0x21, 0x11, V4, LONGEST - 16 - 12, 0, "203.0.113.7"),
    (0x20, 0x00, b"", 0, 0, "peer"),
    (0x20, 0x11, V4, 0, 0, "peer"),
    (0x20, 0x21, V6, 7, 0, "peer"),
    (0x20, 0x31, UNIX, 0, 0, "peer"),
    (0x21, 0x00, b"", 0, 0, "peer"),
    (0x21, 0x00, V4, 0, 0, "peer"),
    (0x21, 0x31, UNIX, 0, 0, "peer"),
    (0x21, 0x32, UNIX, 9, 0, "peer"),
    (0x21, 0x11, NOBODY, 0, 0, "peer"),
    (0x21, 0x21, NOBODY, 0, 0, "peer"),
    (0x21, 0x11, V4, 0, 1, "incomplete"),
    (0x21, 0x11, V4, 0, 12, "incomplete"),
    (0x21, 0x11, V4, 3000, 1, "incomplete"),
    (0x20, 0x00, b"", 1, 1, "incomplete"),
    (0x21, 0x31, UNIX, 0, 1, "incomplete"),
    (0x21, 0x11, b"\xcb\0\x71\x07", 0, 0, "malformed"),
    (0x20, 0x11, b"\xcb\0\x71\x07", 0, 0, "malformed"),
    (0x21, 0x11, V4.split_at(11).0, 0, 0, "malformed"),
    (0x21, 0x21, V6.split_at(35).0, 0, 0, "malformed"),
    (0x21, 0x31, UNIX.split_at(215).0, 0, 0, "malformed"),
    (0x21, 0x21, V4, 0, 0, "malformed"),
    (0x21, 0x31, V6, 0, 0, "malformed"),
    (0x21, 0x01, V4, 0, 0, "malformed"),
    (0x21, 0x10, V4, 0, 0, "malformed"),
    (0x21, 0x13, V4, 0, 0, "malformed"),
    (0x21, 0x41, V4, 0, 0, "malformed"),
    (0x22, 0x11, V4, 0, 0, "malformed"),
    (0x2f, 0x11, V4, 0, 0, "malformed"),
    (0x11, 0x11, V4, 0, 0, "malformed"),
    (0x31, 0x11, V4, 0, 0, "malformed"),
    (0x21, 0x11, V4, LONGEST - 16 - 11, 0, "malformed"),
];

fn binary(command: u8, family: u8, addresses: &[u8], extensions: usize) -> Vec<u8> {
    let rest = u16::try_from(addresses.len() + extensions).expect("it fits");
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(rest.to_be_bytes());
    bytes.extend(addresses);
    bytes.resize(bytes.len() + extensions, 0xee);
    bytes
}

#[track_caller]
fn check(bytes: &[u8], expected: &str) {
    let found = verdict(bytes);
    assert_eq!(told(found), expected, "{:?}", bytes.escape_ascii().to_string());
    assert!(reference::agrees(found, bytes), "the redirect takes {:?} for another's", bytes.escape_ascii());
}

#[test]
fn lines_are_what_the_table_says() {
    for (row, expected) in LINES {
        check(row.replace('~', "\r\n").as_bytes(), expected);
    }
}

#[test]
fn binary_headers_are_what_the_table_says() {
    for (command, family, addresses, extensions, missing, expected) in BINARY {
        let mut bytes = binary(*command, *family, addresses, *extensions);
        bytes.truncate(bytes.len() - missing);
        check(&bytes, expected);
        if *missing == 0 {
            bytes.extend(b"GET / HTTP/1.1\r\n\r\n");
            check(&bytes, expected);
        }
    }
}

#[test]
fn a_signature_has_no_wrong_byte() {
    let right = binary(0x21, 0x11, V4, 0);
    for at in 0..12 {
        let mut wrong = right.clone();
        wrong[at] ^= 0x20;
        check(&wrong, "malformed");
        // What is too short to tell is not asked for its signature.
        let short = if at == 0 { "malformed" } else { "incomplete" };
        check(&wrong[..15], short);
    }
}

#[test]
fn a_line_is_looked_at_to_its_limit() {
    let line = |length: usize| {
        let (begin, end) = ("PROXY UNKNOWN ", "\r\n");
        format!("{begin}{}{end}", "x".repeat(length - begin.len() - end.len()))
    };
    check(line(107).as_bytes(), "peer");
    check(line(108).as_bytes(), "malformed");
    check(&line(108).as_bytes()[..106], "incomplete");
}

/// What the kernel has: the beginning, and after it what is left over of other connections.
#[test]
fn no_more_is_looked_at_than_there_is() {
    let mut window = [b'9'; LOOKED_AT as usize];
    let (header, stale) = (binary(0x21, 0x21, V6, 5000), b"PROXY TCP4 203.0.113.7 127.0.0.1 4660 3000\r\n");
    window.copy_from_slice(&header[..LOOKED_AT as usize]);
    let looked = |window: &[u8], length: usize| {
        let mut scan = Scan::default();
        scan.begin(window, length as u32);
        while scan.step(window) {}
        told(scan.verdict())
    };
    assert_eq!(looked(&window, header.len()), "2001:db8::7");
    assert_eq!(looked(&window, header.len() - 1), "incomplete");
    for length in 0..stale.len() {
        assert_eq!(looked(stale, length), "incomplete", "{length} bytes");
    }
    assert_eq!(looked(stale, stale.len()), "203.0.113.7");
}

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![9 => any::<Ipv4Addr>(), 1 => Just(Ipv4Addr::UNSPECIFIED)]
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        6 => any::<Ipv6Addr>(),
        3 => prop::collection::vec(select(vec![0u16, 1, 0xffff]), 8)
            .prop_map(|groups| Ipv6Addr::from(<[u16; 8]>::try_from(groups).expect("eight"))),
        2 => v4().prop_map(|ip| ip.to_ipv6_mapped()),
        1 => Just(Ipv6Addr::UNSPECIFIED),
    ]
}

/// A header that a proxy would send, in either version.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let addresses = prop_oneof![
        4 => (v4(), v4()).prop_map(|(from, to)| Some((IpAddr::from(from), IpAddr::from(to)))),
        4 => (v6(), v6()).prop_map(|(from, to)| Some((IpAddr::from(from), IpAddr::from(to)))),
        1 => Just(None),
    ];
    let extensions = prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..4);
    (addresses, any::<[u16; 2]>(), any::<bool>(), any::<bool>(), extensions).prop_map(
        |(addresses, [from_port, to_port], datagrams, line, extensions)| {
            let mut header = match addresses {
                Some((from, to)) => {
                    let [from, to] = [SocketAddr::new(from, from_port), SocketAddr::new(to, to_port)];
                    ProxyHeader::with_address(match datagrams && !line {
                        true => ProxiedAddress::datagram(from, to),
                        false => ProxiedAddress::stream(from, to),
                    })
                }
                None => ProxyHeader::with_local(),
            };
            let mut bytes = Vec::new();
            if line {
                header.encode_v1(&mut bytes).expect("a line");
            } else {
                for (kind, value) in extensions {
                    header.append_tlv(Tlv::Custom(kind, value.into()));
                }
                header.encode_v2(&mut bytes).expect("a header");
            }
            bytes
        },
    )
}

/// Bytes as they stand in a header.
fn typical() -> impl Strategy<Value = u8> {
    prop_oneof![
        1 => any::<u8>(),
        2 => select(b" \r\n0159:.%[]+-abfFPROXYTCUNK46\x00\x10\x11\x12\x20\x21\x22\x31".to_vec()),
    ]
}

/// Put together of parts that headers have, more or less in order.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let begin = select(vec!["PROXY TCP4 ", "PROXY TCP6 ", "PROXY UNKNOWN", "PROXY ", "PROXY TCP4  "]);
    let part = prop_oneof![
        4 => v4().prop_map(|ip| ip.to_string()),
        4 => v6().prop_map(|ip| ip.to_string()),
        4 => any::<u16>().prop_map(|port| port.to_string()),
        1 => "[0-9a-f:.]{0,12}",
        1 => "[+-]?[0-9]{0,7}",
        1 => "[ -~]{0,5}",
    ];
    let end = select(vec!["\r\n", "\r\nGET", "\n", "\r", "", "\r\r\n"]);
    (begin, prop::collection::vec(part, 0..6), end)
        .prop_map(|(begin, parts, end)| format!("{begin}{}{end}", parts.join(" ")).into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8192))]

    #[test]
    fn ordinary_headers_are_known(header in header(), after in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [header.clone(), after].concat();
        let found = verdict(&bytes);
        prop_assert!(matches!(found, Verdict::Client(_) | Verdict::Peer), "{:?}", found);
        prop_assert_eq!(found, reference::verdict(&bytes), "{}", header.escape_ascii());
    }

    #[test]
    fn what_is_cut_off_is_incomplete(header in header(), cut: prop::sample::Index) {
        prop_assert_eq!(verdict(&header[..cut.index(header.len())]), Verdict::Incomplete);
    }

    #[test]
    fn wrong_bytes_make_no_other_client(
        header in header(),
        wrong in prop::collection::vec((any::<prop::sample::Index>(), typical()), 1..4),
        after in "[ -~]{0,40}",
    ) {
        let mut bytes = header;
        for (at, byte) in wrong {
            let at = at.index(bytes.len().min(60));
            bytes[at] = byte;
        }
        bytes.extend(after.bytes());
        prop_assert!(reference::agrees(verdict(&bytes), &bytes), "{}", bytes.escape_ascii());
    }

    #[test]
    fn lines_are_nobody_elses(bytes in nearly()) {
        prop_assert!(reference::agrees(verdict(&bytes), &bytes), "{}", bytes.escape_ascii());
    }

    #[test]
    fn any_bytes_end_in_a_verdict(bytes: Vec<u8>, version: bool) {
        verdict(&bytes);
        let begin: &[u8] = if version { b"\r\n\r\n\0\r\nQUIT\n" } else { b"PROXY " };
        let bytes = [begin, &bytes].concat();
        prop_assert!(reference::agrees(verdict(&bytes), &bytes), "{}", bytes.escape_ascii());
    }
}
