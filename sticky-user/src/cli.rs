//! The command line: what was typed.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};
use sticky_ebpf::abi::Place;
use sticky_ebpf::hash::Seed;

use crate::group::Target;
use crate::pool::Steering;
use crate::run::check::ReadyHttp;
use crate::{attach, detach, events, explain, kernel, pin, refusal, run, sessions, standing, status, trust};

mod change;
mod clients;
mod proxies;
mod question;
mod slots;

use change::{ReloadArgs, ScaleArgs, UpgradeArgs};
use clients::{PinArgs, PinsArgs, SessionsArgs, SessionsCommand, UnpinArgs};
use proxies::{ProxyArgs, TrustArgs, TrustCommand};
use question::{EventsArgs, ExplainArgs, StatusArgs};
use slots::{DrainArgs, MaintenanceArgs, ReadyArgs, WeightArgs};

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
    Scale(ScaleArgs),
    Reload(ReloadArgs),
    Upgrade(UpgradeArgs),
    Detach(DetachArgs),
    Status(StatusArgs),
    Explain(ExplainArgs),
    Events(EventsArgs),
    Drain(DrainArgs),
    Maintenance(MaintenanceArgs),
    Ready(ReadyArgs),
    Weight(WeightArgs),
    Pin(PinArgs),
    Unpin(UnpinArgs),
    Pins(PinsArgs),
    Sessions(SessionsArgs),
    Trust(TrustArgs),
    #[command(hide = true)]
    ExecWorker(ExecWorkerArgs),
}

/// Start a pool of workers and keep it running
///
/// Starts COMMAND several times. The workers need no change and no port: whatever TCP ports they listen on, each
/// becomes a pool. A worker that ends is started again and gets its slot back; meanwhile the others serve its clients.
/// Workers find their number, from 1, in STICKY_WORKER and NODE_WORKER_ID. SIGHUP is `sticky reload`.
#[derive(Args)]
#[command(after_help = RUN_EXAMPLES)]
struct RunArgs {
    /// Number of workers [default: the number of CPUs]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,

    /// Name of this run, by which the next one finds workers that outlived sticky [default: from command and folder]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,

    /// Run the workers as this user, with its groups
    #[arg(long)]
    user: Option<String>,

    /// How long workers may take to end after SIGTERM, before SIGKILL; before that, how long connections of trusted
    /// proxies may take to end
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,

    /// How long a worker that gets no new clients, after `scale` or `reload`, may keep its connections
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    drain: Duration,

    /// Let a new worker, at `scale` or `reload`, serve only once it answers GET PATH with 2xx, besides listening;
    /// asked at PORT, or the lowest one
    #[arg(long, value_name = "[PORT]/PATH")]
    ready_http: Option<ReadyHttp>,

    /// How long a new worker may take to be ready, at `scale` or `reload`
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    ready_timeout: Duration,

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

    /// How long clients are remembered after their last connection, so that they stay at their worker whatever else
    /// changes; 0: not at all [default: 1h, or as the pool has it]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    remember: Option<Duration>,

    /// How many clients are remembered, in 88 bytes each; beyond that those are forgotten that have not come for long
    /// [default: 131072, or as the pool has it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24), hide_short_help = true)]
    remember_clients: Option<u32>,

    /// How new clients are placed: `hash`, by their address; `least`, at the one of two workers that has fewer connections
    /// (needs CAP_PERFMON) [default: hash, or as the pool has it]
    #[arg(long, value_name = "hash|least", value_parser = parse_place)]
    place: Option<Place>,

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
            remember: self.remember,
            remember_clients: self.remember_clients,
            place: self.place,
            trace: self.trace,
            defer_accept: self.defer_accept,
            trust: proxies.trust(),
            keep_time_wait: proxies.keep_time_wait,
            limits: proxies.limits(grace),
        }
    }
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
    #[arg(long)]
    descriptors: Option<u64>,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// A seed, from 32 hexadecimal digits.
fn parse_seed(text: &str) -> Result<Seed, String> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32 && !text.starts_with('+'));
    let number = number.ok_or("expected 32 hexadecimal digits, as `openssl rand -hex 16` prints")?;
    Ok(Seed([(number >> 64) as u64, number as u64]))
}

/// A duration such as `90s` or `1h 30m`; 0 without a unit too.
fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn parse_place(text: &str) -> Result<Place, String> {
    match text {
        "hash" => Ok(Place::Hash),
        "least" => Ok(Place::Least),
        _ => Err("expected `hash` or `least`".into()),
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
            drain: args.drain,
            ready_http: args.ready_http,
            ready_timeout: args.ready_timeout,
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
        Command::Scale(args) => args.perform(),
        Command::Reload(args) => args.perform(),
        Command::Upgrade(args) => args.perform(),
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
        Command::Events(args) => events::follow(args.target.as_ref(), args.json),
        Command::Drain(args) => print(&standing::change(&args.into())?),
        Command::Maintenance(args) => print(&standing::change(&args.into())?),
        Command::Ready(args) => print(&standing::change(&args.into())?),
        Command::Weight(args) => print(&standing::change(&args.into())?),
        Command::Pin(args) => {
            let PinArgs { prefix, slot, time, at, dry_run } = args;
            print(&pin::pin(at.as_ref(), &prefix, slot, time, dry_run)?)
        }
        Command::Unpin(args) => print(&pin::unpin(args.at.as_ref(), args.prefix.as_ref())?),
        Command::Pins(args) => {
            let pins = pin::list(args.at.as_ref())?;
            print(&if args.json { json(&pins)? } else { pin::text(&pins) })
        }
        Command::Sessions(args) => print(&match &args.what {
            SessionsCommand::Export => sessions::export(args.at.as_ref())?,
            SessionsCommand::Import { file } => sessions::import(args.at.as_ref(), &clients::read(file)?)?,
        }),
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
            kernel::limit_descriptors(args.descriptors);
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
