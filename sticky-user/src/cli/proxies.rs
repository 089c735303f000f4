//! What is typed about trusted proxies: options of `run` and `attach`, and `sticky trust`.

use std::time::Duration;

use clap::{Args, Subcommand};
use sticky_ebpf::abi::{Proxies, ProxyProtocol, Sharing};
use sticky_ebpf::forwarded::HeaderName;

use crate::group::Target;
use crate::pool::Trust;
use crate::redirect::Limits;
use crate::trust::Trusted;

/// Trusted proxies: whose header tells the client, and what they may do
#[derive(Args)]
#[command(next_help_heading = "Behind a proxy")]
pub struct ProxyArgs {
    /// Believe the client's address that these peers tell: a prefix, an address, or `loopback`, `private` (RFC 1918 and
    /// fc00::/7), `linklocal`; may be given several times [default: nobody, or as the pool has it]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    trust: Vec<Trusted>,

    /// The header in which they tell it: x-forwarded-for, forwarded (RFC 7239), or one that holds a single address,
    /// such as x-real-ip or cf-connecting-ip [default: x-forwarded-for]
    #[arg(long, value_name = "NAME", requires = "trust", value_parser = parse_header_name)]
    client_header: Option<HeaderName>,

    /// Their connections begin with a PROXY header (version 1 or 2) that tells it instead; the worker gets the rest, or
    /// all
    #[arg(long, value_name = "strip|pass", requires = "trust", value_parser = parse_proxy_protocol)]
    proxy_protocol: Option<ProxyProtocol>,

    /// What they do with connections: `auto`, keep them for several clients unless what they send says otherwise
    /// (`Connection: close`, HTTP/1.0, an upgrade); `exclusive`, have one for each client; `shared`, keep them whatever
    /// they say [default: auto]
    #[arg(long, value_name = "auto|exclusive|shared", requires = "trust", value_parser = parse_sharing)]
    proxy_connections: Option<Sharing>,

    /// Show workers the client as their peer, instead of the proxy
    #[arg(long, requires = "trust")]
    real_client_address: bool,

    /// Leave connections of proxies in TIME_WAIT, instead of ending them so that the next ones of the same port are
    /// decided in the kernel
    #[arg(long, hide_short_help = true)]
    pub keep_time_wait: bool,

    /// The most bytes of a request's head
    #[arg(long, value_name = "BYTES", default_value_t = 32768, value_parser = at_least_1, hide_short_help = true)]
    max_header_bytes: usize,

    /// The most header fields of a request
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_1, hide_short_help = true)]
    max_headers: usize,

    /// How long a request's head may take to arrive
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration, hide_short_help = true)]
    header_timeout: Duration,

    /// How long a connection may be silent between requests, or within a body
    #[arg(long, value_name = "DURATION", default_value = "75s", value_parser = humantime::parse_duration, hide_short_help = true)]
    idle_timeout: Duration,

    /// How long a worker may take to let a connection in
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration, hide_short_help = true)]
    connect_timeout: Duration,

    /// The most connections of proxies at a time; more wait
    #[arg(long, value_name = "N", default_value_t = 20000, value_parser = at_least_1, hide_short_help = true)]
    max_connections: usize,
}

impl ProxyArgs {
    /// Who is trusted, and how they name the client, if anybody is.
    pub fn trust(&self) -> Option<Trust> {
        if self.trust.is_empty() {
            return None;
        }
        let mut proxies = Proxies::NONE
            .with_protocol(self.proxy_protocol)
            .with_sharing(self.proxy_connections.unwrap_or(Sharing::Auto))
            .with_real_client_address(self.real_client_address);
        if let Some(header) = self.client_header {
            proxies.header = header;
        }
        let mut prefixes: Vec<_> = self.trust.iter().flat_map(Trusted::prefixes).copied().collect();
        prefixes.sort();
        prefixes.dedup();
        Some(Trust { prefixes, proxies })
    }

    /// What they may do.
    pub fn limits(&self, grace: Duration) -> Limits {
        Limits {
            header_bytes: self.max_header_bytes,
            headers: self.max_headers,
            header_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            connect_timeout: self.connect_timeout,
            connections: self.max_connections,
            grace,
        }
    }
}

/// Show or change which proxies are trusted, while the pool runs
///
/// Needs a sticky that follows the pool: its redirect takes the connections of trusted peers. Those that are there
/// already go on as they are.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sticky trust list\n  sticky trust add 10.0.0.0/8\n  sticky trust remove loopback --at 3000"
)]
pub struct TrustArgs {
    #[command(subcommand)]
    pub what: TrustCommand,

    /// Only at these pools
    #[arg(long, value_name = "[ADDRESS:]PORT", global = true)]
    pub at: Option<Target>,

    /// As JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum TrustCommand {
    /// Show who is trusted
    List,
    /// Trust these peers too
    Add {
        /// A prefix, an address, or `loopback`, `private`, `linklocal`
        #[arg(value_name = "CIDR", required = true)]
        who: Vec<Trusted>,
    },
    /// Trust these peers no more
    Remove {
        /// A prefix as `list` shows it, or `loopback`, `private`, `linklocal`
        #[arg(value_name = "CIDR", required = true)]
        who: Vec<Trusted>,
    },
}

fn parse_header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::new(text)
        .ok_or_else(|| format!("expected a header's name, of {} letters at most", HeaderName::LONGEST))
}

fn parse_proxy_protocol(text: &str) -> Result<ProxyProtocol, String> {
    match text {
        "strip" => Ok(ProxyProtocol::Strip),
        "pass" => Ok(ProxyProtocol::Pass),
        _ => {
            Err("expected `strip` (the worker gets what follows it) or `pass` (the worker gets it too)"
                .into())
        }
    }
}

fn parse_sharing(text: &str) -> Result<Sharing, String> {
    match text {
        "auto" => Ok(Sharing::Auto),
        "exclusive" => Ok(Sharing::Exclusive),
        "shared" => Ok(Sharing::Shared),
        _ => Err("expected `auto`, `exclusive` or `shared`".into()),
    }
}

fn at_least_1(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("expected a number, 1 or more".into()),
    }
}
