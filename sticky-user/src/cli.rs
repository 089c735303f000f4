//! The command line: what was typed.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use sticky_ebpf::abi::{Proxies, ProxyProtocol};
use sticky_ebpf::forwarded::HeaderName;
use sticky_ebpf::hash::Seed;

use crate::explain::{HeaderLine, Question};
use crate::group::Target;
use crate::pool::{Steering, Trust};
use crate::redirect::Limits;
use crate::refusal::Refusal;
use crate::trust::Trusted;
use crate::{attach, detach, explain, refusal, run, status, trust};

/// Keep each client on one worker of a pool, decided in the kernel
///
/// All workers listen on one port; a BPF program picks the worker for each new connection from the client's address.
/// After that nothing of sticky's is in the way of the data.
#[derive(Parser)]
#[command(name = "sticky", version, max_term_width = 100, after_help = TOP_EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const TOP_EXAMPLES: &str = "\
Examples:
  sticky run -w 4 -- node server.js   four workers, on whatever port it uses
  sticky attach 3000                  steer the workers of a port that is served
  sticky status                       who is where, and how much
  sticky explain 203.0.113.7          which worker this client gets

Exit codes: 0 done, 1 it failed, 2 wrong usage or something is missing.";

#[derive(Subcommand)]
enum Command {
    Run(RunArgs),
    Attach(AttachArgs),
    Detach(DetachArgs),
    Status(StatusArgs),
    Explain(ExplainArgs),
    Trust(TrustArgs),
    #[command(hide = true)]
    ExecWorker(ExecWorkerArgs),
}

/// Start a pool of workers and keep it running
///
/// Starts COMMAND several times. The workers need no change and no port: whatever TCP ports they listen on, each
/// becomes a pool. A worker that ends is started again and gets its slot back; meanwhile the others serve its clients.
/// Workers find their number, from 1, in STICKY_WORKER and NODE_WORKER_ID.
#[derive(Args)]
#[command(after_help = RUN_EXAMPLES)]
struct RunArgs {
    /// Number of workers [default: the number of CPUs]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,

    /// Name of this run, by which the next one finds workers that outlived sticky [default: from command and folder]
    #[arg(long)]
    name: Option<String>,

    /// Run the workers as this user, with its groups
    #[arg(long)]
    user: Option<String>,

    /// How long workers may take to end after SIGTERM, before SIGKILL; before that, how long connections of trusted
    /// proxies may take to end
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,

    /// Open this port in each worker and pass it as systemd does (LISTEN_FDS); may be given several times
    #[arg(long, value_name = "[ADDRESS:]PORT")]
    listen_fds: Vec<Target>,

    #[command(flatten)]
    steering: SteeringArgs,

    #[command(flatten)]
    proxies: ProxyArgs,

    /// The command each worker runs
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

const RUN_EXAMPLES: &str = "\
Examples:
  sticky run -- node server.js
  sticky run -w 4 --user www-data -- python3 app.py
  sticky run --ipv4-prefix 24 --grace 30s -- ./chat --port 8080
  sticky run --trust loopback -- node server.js    behind a proxy on this host";

/// Steer a pool that runs already, and follow it
///
/// The workers must have opened the port with SO_REUSEPORT, each for itself. New workers are taken in and gone ones
/// noticed for as long as this process runs; when it ends, steering goes on. Without an address all pools of the port
/// are meant.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sticky attach 3000\n  sticky attach 127.0.0.1:8080 --once\n  sticky attach udp:5353"
)]
struct AttachArgs {
    /// The port, with an address if there are several pools on it
    #[arg(value_name = "[udp:][ADDRESS:]PORT")]
    target: Target,

    /// Set steering up and exit; it goes on without any process
    #[arg(long, conflicts_with = "trust")]
    once: bool,

    /// Take in sockets of different programs or users
    #[arg(long)]
    mixed: bool,

    /// How long connections of trusted proxies may take to end when this process is stopped
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,

    #[command(flatten)]
    steering: SteeringArgs,

    #[command(flatten)]
    proxies: ProxyArgs,
}

/// Give a pool back to the kernel and forget it
#[derive(Args)]
#[command(after_help = "Examples:\n  sticky detach 3000\n  sticky detach --all")]
struct DetachArgs {
    /// The pools to give back
    #[arg(value_name = "[udp:][ADDRESS:]PORT", required_unless_present = "all")]
    target: Option<Target>,

    /// All pools of this network namespace, and what is left of others that nobody uses any more
    #[arg(long, conflicts_with = "target")]
    all: bool,
}

/// Show pools, slots, workers and what was decided
#[derive(Args)]
#[command(after_help = "Examples:\n  sticky status\n  sticky status 3000 --json")]
struct StatusArgs {
    /// Only these pools
    #[arg(value_name = "[udp:][ADDRESS:]PORT")]
    target: Option<Target>,

    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Say which worker a client gets, and why
///
/// Computed from the pinned state by the code that the kernel's program was compiled from.
#[derive(Args)]
#[command(after_help = EXPLAIN_EXAMPLES)]
struct ExplainArgs {
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
    json: bool,
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
    fn question(self) -> Result<(Question, Option<Target>)> {
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

/// How to steer
#[derive(Args)]
struct SteeringArgs {
    /// Bits of an IPv4 address that tell clients apart [default: 32, or as the pool has it]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(0..=32))]
    ipv4_prefix: Option<u8>,

    /// Bits of an IPv6 address that tell clients apart [default: 64, or as the pool has it]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(0..=128))]
    ipv6_prefix: Option<u8>,

    /// Key of the hash, 32 hexadecimal digits; hosts with the same key and worker count place clients alike
    /// [default: random, or as the pool has it]
    #[arg(long, value_name = "HEX", value_parser = parse_seed, env = "STICKY_SEED", hide_env_values = true)]
    seed: Option<Seed>,

    /// Wake a worker only when a connection's first data is there (TCP_DEFER_ACCEPT)
    ///
    /// For protocols where the client speaks first, as in HTTP.
    #[arg(long)]
    defer_accept: bool,

    /// Log each decision of the kernel's program
    #[arg(long)]
    trace: bool,
}

impl SteeringArgs {
    fn steering(&self, proxies: &ProxyArgs, grace: Duration) -> Steering {
        Steering {
            ipv4_prefix: self.ipv4_prefix,
            ipv6_prefix: self.ipv6_prefix,
            seed: self.seed,
            trace: self.trace,
            defer_accept: self.defer_accept,
            trust: proxies.trust(),
            limits: proxies.limits(grace),
        }
    }
}

/// Trusted proxies: whose header tells the client, and what they may do
#[derive(Args)]
#[command(next_help_heading = "Behind a proxy")]
struct ProxyArgs {
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

    /// Show workers the client as their peer, instead of the proxy
    #[arg(long, requires = "trust")]
    real_client_address: bool,

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
    fn trust(&self) -> Option<Trust> {
        if self.trust.is_empty() {
            return None;
        }
        let mut proxies = Proxies::NONE
            .with_protocol(self.proxy_protocol)
            .with_real_client_address(self.real_client_address);
        if let Some(header) = self.client_header {
            proxies.header = header;
        }
        let mut prefixes: Vec<_> = self.trust.iter().flat_map(Trusted::prefixes).copied().collect();
        prefixes.sort();
        prefixes.dedup();
        Some(Trust { prefixes, proxies })
    }

    fn limits(&self, grace: Duration) -> Limits {
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
struct TrustArgs {
    #[command(subcommand)]
    what: TrustCommand,

    /// Only at these pools
    #[arg(long, value_name = "[ADDRESS:]PORT", global = true)]
    at: Option<Target>,

    /// As JSON, for programs
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum TrustCommand {
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

/// Become a worker: join the cgroup, open sockets, change user, then run the command
#[derive(Args)]
struct ExecWorkerArgs {
    #[arg(long)]
    cgroup: std::path::PathBuf,
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    listen: Vec<Target>,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// A seed, from 32 hexadecimal digits.
fn parse_seed(text: &str) -> Result<Seed, String> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32 && !text.starts_with('+'));
    let number = number.ok_or("expected 32 hexadecimal digits, as `openssl rand -hex 16` prints")?;
    Ok(Seed([(number >> 64) as u64, number as u64]))
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

fn at_least_1(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("expected a number, 1 or more".into()),
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (text, code) = refusal::report(&error);
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::from(code)
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(&run::Plan {
            workers: args.workers.map_or_else(cpus, usize::from),
            name: args.name,
            steering: args.steering.steering(&args.proxies, args.grace),
            grace: args.grace,
            user: args.user,
            listen: args.listen_fds,
            command: args.command,
        }),
        Command::Attach(args) => attach::attach(&attach::Plan {
            target: args.target,
            steering: args.steering.steering(&args.proxies, args.grace),
            mixed: args.mixed,
            once: args.once,
        }),
        Command::Detach(args) => detach::detach(args.target.as_ref()),
        Command::Status(args) => {
            let pools = status::pools(args.target.as_ref())?;
            let text = if args.json { json(&pools)? } else { status::text(&pools)? };
            print(&text)
        }
        Command::Explain(args) => {
            let as_json = args.json;
            let (question, target) = args.question()?;
            let found = explain::explain(&question, target.as_ref())?;
            print(&if as_json { json(&found)? } else { explain::text(&question, &found)? })
        }
        Command::Trust(args) => {
            let at = args.at.as_ref();
            let lists = match &args.what {
                TrustCommand::List => trust::list(at)?,
                TrustCommand::Add { who } => trust::add(at, who)?,
                TrustCommand::Remove { who } => trust::remove(at, who)?,
            };
            print(&if args.json { json(&lists)? } else { trust::text(&lists) })
        }
        Command::ExecWorker(args) => {
            Err(run::exec::become_worker(&args.cgroup, args.user.as_deref(), &args.listen, &args.command))
        }
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(sticky_ebpf::abi::MAX_SLOTS)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough (`sticky status | head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seeds() {
        let seed = parse_seed("000102030405060708090a0b0c0d0e0f");
        assert_eq!(seed, Ok(Seed([0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f])));
        for wrong in ["", "00", "+00102030405060708090a0b0c0d0e0f", "g00102030405060708090a0b0c0d0e0f"] {
            assert!(parse_seed(wrong).is_err(), "{wrong}");
        }
    }
}
