//! Headers whose value is one address.

use super::{PEER, PROXIES, PROXY, Rule};

pub const RULES: &[Rule] = &[
    Rule {
        rule: "the one address is the client",
        header: "x-real-ip",
        trusted: PROXIES,
        peer: PROXY,
        rows: &[
            (&["203.0.113.7"], "203.0.113.7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["[2001:db8::7]:80"], "2001:db8::7"),
            (&["203.0.113.7:80"], "203.0.113.7"),
            (&["::ffff:203.0.113.7"], "203.0.113.7"),
            (&["fe80::1%eth0"], "fe80::1"),
            (&[" \t203.0.113.7\t "], "203.0.113.7"),
            (&["10.0.0.2"], "10.0.0.2"),
        ],
    },
    Rule {
        rule: "any name but the two of the lists is a single-value header's",
        header: "CF-Connecting-IP",
        trusted: PROXIES,
        peer: PROXY,
        rows: &[(&["203.0.113.7"], "203.0.113.7"), (&["203.0.113.7, 10.0.0.2"], PEER)],
    },
    Rule {
        rule: "the header of a peer that is not trusted is ignored",
        header: "x-real-ip",
        trusted: PROXIES,
        peer: "198.51.100.1",
        rows: &[(&["203.0.113.7"], PEER)],
    },
    Rule {
        rule: "without an address the client is the peer",
        header: "x-real-ip",
        trusted: PROXIES,
        peer: PROXY,
        rows: &[
            (&[], PEER),
            (&[""], PEER),
            (&["  "], PEER),
            (&["unknown"], PEER),
            (&["0.0.0.0"], PEER),
            (&["\"203.0.113.7\""], PEER),
            (&["for=203.0.113.7"], PEER),
            (&["203.0.113.7 10.0.0.2"], PEER),
        ],
    },
    Rule {
        rule: "a list is no answer",
        header: "x-real-ip",
        trusted: PROXIES,
        peer: PROXY,
        rows: &[
            (&["203.0.113.7, 10.0.0.2"], PEER),
            (&["203.0.113.7,"], PEER),
            (&[",203.0.113.7"], PEER),
            (&["203.0.113.7 , "], PEER),
            (&["203.0.113.7,203.0.113.7"], PEER),
        ],
    },
    Rule {
        rule: "two lines are no answer",
        header: "x-real-ip",
        trusted: PROXIES,
        peer: PROXY,
        rows: &[
            (&["203.0.113.7", "192.0.2.66"], PEER),
            (&["203.0.113.7", "203.0.113.7"], PEER),
            (&["203.0.113.7", ""], PEER),
            (&["", "203.0.113.7"], PEER),
            (&["unknown", "203.0.113.7"], PEER),
            (&["203.0.113.7", "10.0.0.2", "203.0.113.7"], PEER),
            (&["", "", "203.0.113.7"], PEER),
        ],
    },
];
