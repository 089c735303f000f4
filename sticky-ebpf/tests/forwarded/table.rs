//! The rules as rows: what is written, and who the client is.

mod addresses;
mod forwarded;
mod single;
mod walk;

use std::net::IpAddr;

use sticky_ebpf::client::Client;
use sticky_ebpf::forwarded::{ClientHeader, client};

use crate::prefixes::Prefixes;

/// Rows that show one rule.
struct Rule {
    rule: &'static str,
    header: &'static str,
    /// The trusted proxies.
    trusted: &'static str,
    peer: &'static str,
    rows: &'static [Row],
}

/// The lines of the header, and the client; [`PEER`] for the peer.
type Row = (&'static [&'static str], &'static str);

const PEER: &str = "peer";
const PROXY: &str = "10.0.0.1";
const PROXIES: &str = "10.0.0.0/8 2001:db8:a::/48";

#[test]
fn every_row_holds() {
    let rules: Vec<&Rule> =
        [walk::RULES, addresses::RULES, forwarded::RULES, single::RULES].into_iter().flatten().collect();
    let rows = rules.iter().map(|rule| rule.rows.len()).sum::<usize>();
    assert!(rows >= 150, "only {rows} rows");
    let wrong: Vec<String> = rules.into_iter().flat_map(Rule::wrong).collect();
    assert!(wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
}

impl Rule {
    /// Those of its rows that do not hold.
    fn wrong(&self) -> Vec<String> {
        self.rows.iter().filter_map(|(lines, expected)| self.check(lines, expected)).collect()
    }

    fn check(&self, lines: &[&str], expected: &str) -> Option<String> {
        let Self { rule, header, trusted, peer, .. } = self;
        let prefixes = Prefixes::new(trusted);
        let expected = if expected == PEER { peer } else { expected };
        let got = IpAddr::from(client(
            ClientHeader::named(header),
            Client::from(ip(peer)),
            lines,
            |client: Client| prefixes.contain(client.into()),
        ));
        (got != ip(expected)).then(|| {
            format!("{rule}\n  {header}: {lines:?}\n  from {peer}, trusting {trusted}: {got}, not {expected}")
        })
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is not an address"))
}
