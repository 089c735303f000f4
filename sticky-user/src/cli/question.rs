//! What is typed to ask: `sticky status`, `events` and `explain`.

use std::net::IpAddr;
use std::str::FromStr;

use anyhow::Result;
use clap::Args;

use crate::explain::{HeaderLine, Question};
use crate::group::Target;
use crate::refusal::Refusal;

/// Show pools, slots, workers and what was decided
#[derive(Args)]
#[command(after_help = "Examples:\n  sticky status\n  sticky status 3000 --json")]
pub struct StatusArgs {
    /// Only these pools
    #[arg(value_name = "[udp:][ADDRESS:]PORT")]
    pub target: Option<Target>,

    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Tell what happens: workers that come and go, slots that are drained, known clients that move, and why
///
/// Goes on until it is stopped.
#[derive(Args)]
#[command(after_help = "Examples:\n  sticky events\n  sticky events 3000 --json")]
pub struct EventsArgs {
    /// Only at these pools
    #[arg(value_name = "[udp:][ADDRESS:]PORT")]
    pub target: Option<Target>,

    /// A line of JSON each, for programs
    #[arg(long)]
    pub json: bool,
}

/// Say which worker a client gets, and why
///
/// Computed from the pinned state by the code that the kernel's program was compiled from.
#[derive(Args)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub struct ExplainArgs {
    /// The client's address, unless `--peer` is given, and a port, to be told about its pools only
    #[arg(value_name = "IP] [[udp:][ADDRESS:]PORT", required_unless_present = "peer", num_args = 1..=2)]
    what: Vec<Subject>,

    /// The address that connects, say a proxy's
    #[arg(long, value_name = "IP")]
    peer: Option<IpAddr>,

    /// A header line of its request, where proxies name the client; may be given several times
    #[arg(long, value_name = "NAME: VALUE", requires = "peer")]
    header: Vec<HeaderLine>,

    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// An address or a pool's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Ip(IpAddr),
    Target(Target),
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ip = text.parse().map(Self::Ip);
        ip.or_else(|_| text.parse().map(Self::Target)).map_err(|_| "expected an IP address or a port".into())
    }
}

impl ExplainArgs {
    /// What is asked, and about which pools.
    pub fn question(self) -> Result<(Question, Option<Target>)> {
        let (ip, target) = match (self.peer, &self.what[..]) {
            (None, [Subject::Ip(ip)]) => (*ip, None),
            (None, [Subject::Ip(ip), Subject::Target(target)]) => (*ip, Some(*target)),
            (Some(peer), []) => (peer, None),
            (Some(peer), [Subject::Target(target)]) => (peer, Some(*target)),
            _ => {
                let hint = "as in `sticky explain 203.0.113.7 3000` or `sticky explain --peer 10.0.0.1 --header 'X-Forwarded-For: 203.0.113.7' 3000`";
                return Err(Refusal::new("expected one address, and one port at most", hint).into());
            }
        };
        Ok((Question { ip, headers: self.header }, target))
    }
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  sticky explain 203.0.113.7
  sticky explain 2001:db8::1 3000 --json
  sticky explain --peer 10.0.0.1 --header 'X-Forwarded-For: 203.0.113.7, 10.0.0.2'";
