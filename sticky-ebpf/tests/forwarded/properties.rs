//! What holds for any header.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use proptest::prelude::*;
use sticky_ebpf::client::Client;
use sticky_ebpf::forwarded::ClientHeader::{self, Forwarded, Single, XForwardedFor};
use sticky_ebpf::forwarded::{Walk, client};

use crate::prefixes::Prefixes;
use crate::reference;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fn trusted(ip: IpAddr) -> bool {
    static PREFIXES: LazyLock<Prefixes> = LazyLock::new(|| Prefixes::new("10.0.0.0/8 2001:db8:a::/48"));
    PREFIXES.contain(ip)
}

fn found(header: ClientHeader, lines: &[impl AsRef<[u8]>]) -> IpAddr {
    client(header, PEER.into(), lines, |client: Client| trusted(client.into())).into()
}

fn headers() -> impl Strategy<Value = ClientHeader> {
    prop_oneof![Just(XForwardedFor), Just(Forwarded), Just(Single)]
}

/// Addresses, of which some are trusted and many differ in a few bits only.
fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::from),
        any::<Ipv6Addr>().prop_map(IpAddr::from),
        any::<u8>().prop_map(|host| Ipv4Addr::new(10, 0, 0, host).into()),
        any::<u16>().prop_map(|host| Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, host).into()),
        any::<Ipv4Addr>().prop_map(|ip| ip.to_ipv6_mapped().into()),
        [0..3u16, 0..3, 0..3, 0..3, 0..3, 0..3, 0..3, 0..3].prop_map(|groups| Ipv6Addr::from(groups).into()),
    ]
}

fn specified() -> impl Strategy<Value = IpAddr> {
    addresses().prop_map(|ip| ip.to_canonical()).prop_filter("unspecified", |ip| !ip.is_unspecified())
}

fn untrusted() -> impl Strategy<Value = IpAddr> {
    specified().prop_filter("trusted", |&ip| !trusted(ip))
}

/// Pieces that headers are made of.
fn pieces() -> impl Strategy<Value = String> {
    const SIGNS: &str = concat!(
        ",|,|, |,,|;|; |=|\"|\\|\\\"| |\t|[|]|:|::|:80|:0|:_x|:65536|%|%eth0|.|0|0.|ffff|::ffff:|\u{e9}|",
        "for=|For=\"|\", for=|for=\"[|]\"|;for=|proto=http|host=\"a,b\"|unknown|_hidden"
    );
    let signs: Vec<&str> = SIGNS.split('|').collect();
    prop_oneof![
        3 => addresses().prop_map(|ip| ip.to_string()),
        1 => addresses().prop_map(|ip| format!("[{ip}]")),
        1 => addresses().prop_map(|ip| format!("for=\"{ip}\", ")),
        4 => proptest::sample::select(signs).prop_map(str::to_owned),
    ]
}

/// A line of well-formed entries, some of them not addresses.
fn tidy() -> impl Strategy<Value = Vec<u8>> {
    let entry = prop_oneof![
        8 => addresses().prop_map(|ip| ip.to_string()),
        1 => Just("unknown".to_owned()),
        1 => Just(String::new()),
    ];
    let list = prop::collection::vec(entry, 0..6);
    (list, any::<bool>()).prop_map(|(list, forwarded)| {
        let node = |ip: &String| if ip.is_empty() { String::new() } else { format!("for=\"{ip}\"") };
        let list = if forwarded { list.iter().map(node).collect() } else { list };
        list.join(", ").into_bytes()
    })
}

fn lines() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let line = prop_oneof![
        3 => tidy(),
        3 => prop::collection::vec(pieces(), 0..12).prop_map(|pieces| pieces.concat().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ];
    prop::collection::vec(line, 0..4)
}

/// Whether `ip` is written somewhere in a line.
fn written(ip: IpAddr, line: &[u8]) -> bool {
    // Quoted strings may have a backslash before any character.
    let line: Vec<u8> = line.iter().copied().filter(|&byte| byte != b'\\').collect();
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();
    (0..line.len()).any(|from| {
        (from + 1..=line.len().min(from + longest)).any(|to| {
            std::str::from_utf8(&line[from..to])
                .is_ok_and(|text| text.parse::<IpAddr>().is_ok_and(|written| written.to_canonical() == ip))
        })
    })
}

/// The parser counts in bytes, which would come round to a good number.
#[test]
fn no_repetition_makes_an_address() {
    for piece in ["1.", "1:", ":", "::", "[", "1", "0", "f", "%", ".", "203.0.113.7:", "_"] {
        for times in 250..=520 {
            let long = piece.repeat(times);
            for text in [format!("{long}1"), format!("[::{long}]"), format!("203.0.113.7:{long}")] {
                let expected = reference::address(text.as_bytes()).unwrap_or(PEER);
                assert_eq!(found(XForwardedFor, &[&text]), expected, "{text}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_pass_from_the_left_finds_what_the_walk_from_the_right_does(header in headers(), lines in lines()) {
        let expected = reference::client(header, PEER, &lines, trusted);
        prop_assert_eq!(found(header, &lines), expected);
    }

    #[test]
    fn text_is_an_address_where_std_says_so(
        text in "[0-9a-f.:]{0,20}|[0-2]{0,3}([.][0-9]{1,3}){3}(:[0-9]{1,6})?|\\[?[0-1:]{2,16}(%e)?\\]?(:[0-9]?)?"
    ) {
        let expected = reference::address(text.as_bytes()).unwrap_or(PEER);
        prop_assert_eq!(found(XForwardedFor, &[&text]), expected);
        prop_assert_eq!(found(Single, &[&text]), expected);
        prop_assert_eq!(found(Forwarded, &[format!("for=\"{text}\"")]), expected);
    }

    #[test]
    fn every_address_is_found_however_it_is_written(ip in specified(), long: bool, upper: bool, port: Option<u16>) {
        let written = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) if long => ip.segments().map(|group| format!("{group:04x}")).join(":"),
            IpAddr::V6(ip) => ip.to_string(),
        };
        let written = if upper { written.to_uppercase() } else { written };
        let written = match (ip, port) {
            (_, None) => written,
            (IpAddr::V4(_), Some(port)) => format!("{written}:{port}"),
            (IpAddr::V6(_), Some(port)) => format!("[{written}]:{port}"),
        };
        prop_assert_eq!(found(XForwardedFor, &[&written]), ip);
        prop_assert_eq!(found(Single, &[&written]), ip);
        prop_assert_eq!(found(Forwarded, &[format!("for={written}")]), ip);
        prop_assert_eq!(found(Forwarded, &[format!("proto=http;for=\"{written}\"")]), ip);
    }

    #[test]
    fn what_a_client_sends_does_not_change_what_proxies_add(sent in lines(), ip in untrusted(), proxy: u8) {
        let added = format!("{ip}, 10.0.0.{proxy}");
        // X-Forwarded-For: also on the line that the client sent.
        let mut lines = sent.clone();
        lines.push(added.into_bytes());
        prop_assert_eq!(found(XForwardedFor, &lines), ip);
        prop_assert_eq!(found(XForwardedFor, &[lines.join(&b','), b"10.1.2.3".to_vec()]), ip);
        let mut lines = sent;
        lines.push(format!("for=\"{ip}\";proto=http, for=10.0.0.{proxy}").into_bytes());
        prop_assert_eq!(found(Forwarded, &lines), ip);
    }
}

proptest! {
    #[test]
    fn the_client_is_the_peer_or_written_in_the_header(header in headers(), lines in lines()) {
        let ip = found(header, &lines);
        prop_assert!(ip == PEER || lines.iter().any(|line| written(ip, line)), "{ip}");
    }

    #[test]
    fn trust_is_asked_once_for_an_entry_at_most(header in headers(), lines in lines()) {
        let asked = Cell::new(0);
        let trusted = |client: Client| {
            asked.set(asked.get() + 1);
            trusted(client.into())
        };
        let mut walk = Walk::new(header);
        let mut entries = 0;
        for line in &lines {
            for &byte in line {
                entries += usize::from(byte == b',');
                walk.byte(byte, trusted);
                prop_assert!(asked.get() <= entries);
            }
            entries += 1;
            walk.line_end(trusted);
            prop_assert!(asked.get() <= entries);
        }
    }

    #[test]
    fn an_untrusted_peer_is_the_client(header in headers(), lines in lines(), peer in untrusted()) {
        let ip: IpAddr = client(header, peer.into(), &lines, |client: Client| trusted(client.into())).into();
        prop_assert_eq!(ip, peer);
    }
}
