//! What is typed about single slots: `sticky drain`, `maintenance`, `ready` and `weight`.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use sticky_ebpf::abi::{MAX_SLOTS, Slot};

use super::parse_duration;
use crate::group::Target;
use crate::standing::{Change, Plan, SHORTEST, Who};

/// Take a worker out gently: no new clients, while those it has stay until they are gone
///
/// A client is gone when it has had no connection for the time of `--idle`, or when `--deadline` is over; then its next
/// connection goes to another worker, where it stays. Draining ends with `sticky ready`, or when another process takes the
/// slot. Connections that are open stay open; that they are is seen while a sticky follows the pool.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sticky drain 2\n  sticky drain 2 --idle 10m --deadline 2h --wait\n  sticky drain pid:4711 --dry-run"
)]
pub struct DrainArgs {
    #[command(flatten)]
    slots: SlotArgs,

    /// How long a client must have had no connection, to be sent elsewhere when it comes again, 3s at least; 0: none is
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    idle: Duration,

    /// After this long all clients are sent elsewhere [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    deadline: Option<Duration>,

    /// Return when no client would stay any more, and tell how many are left
    #[arg(long)]
    wait: bool,
}

/// Send all clients of a worker elsewhere, from their next connection on
///
/// Lasts until `sticky ready`, whatever process has the slot. Connections that are open stay open.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sticky maintenance 2\n  sticky maintenance pid:4711 --at 3000 --dry-run"
)]
pub struct MaintenanceArgs {
    #[command(flatten)]
    slots: SlotArgs,
}

/// Have a worker take clients again
///
/// Clients that went elsewhere meanwhile stay there.
#[derive(Args)]
#[command(after_help = "Examples:\n  sticky ready 2\n  sticky ready 2 --slow-start 2m")]
pub struct ReadyArgs {
    #[command(flatten)]
    slots: SlotArgs,

    /// How long its share of new clients takes to grow from next to nothing
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    slow_start: Duration,
}

/// Give a worker a smaller share of new clients than the others
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sticky weight 50 2     half of what the others get\n  sticky weight 100 2    as much as they"
)]
pub struct WeightArgs {
    /// Its share, of the others' 100
    #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    percent: u8,

    #[command(flatten)]
    slots: SlotArgs,
}

/// Which slots
#[derive(Args)]
struct SlotArgs {
    /// A slot's number, as `sticky status` shows it, or a process, for all slots it has; may be several
    #[arg(value_name = "SLOT|pid:PID", required = true)]
    who: Vec<Who>,

    /// Only at this pool
    #[arg(long, value_name = "[udp:][ADDRESS:]PORT")]
    at: Option<Target>,

    /// Only say how many known clients would move
    #[arg(long)]
    dry_run: bool,
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(pid) = text.strip_prefix("pid:") {
            return pid.parse().map(Self::Process).map_err(|_| "expected a process as in `pid:4711`".into());
        }
        match text.parse() {
            Ok(slot) if usize::from(slot) < MAX_SLOTS => Ok(Self::Slot(slot)),
            Ok::<Slot, _>(_) => Err(format!("slots are numbered from 0 to {}", MAX_SLOTS - 1)),
            Err(_) => Err("expected a slot's number, or a process as in `pid:4711`".into()),
        }
    }
}

impl SlotArgs {
    fn plan(self, change: Change) -> Plan {
        Plan { who: self.who, at: self.at, change, dry_run: self.dry_run, wait: false }
    }
}

impl From<DrainArgs> for Plan {
    fn from(args: DrainArgs) -> Self {
        let idle = if args.idle.is_zero() { args.idle } else { args.idle.max(SHORTEST) };
        let change = Change::Drain { idle, deadline: args.deadline };
        Self { wait: args.wait, ..args.slots.plan(change) }
    }
}

impl From<MaintenanceArgs> for Plan {
    fn from(args: MaintenanceArgs) -> Self {
        args.slots.plan(Change::Maintenance)
    }
}

impl From<ReadyArgs> for Plan {
    fn from(args: ReadyArgs) -> Self {
        args.slots.plan(Change::Ready { slow_start: args.slow_start })
    }
}

impl From<WeightArgs> for Plan {
    fn from(args: WeightArgs) -> Self {
        args.slots.plan(Change::Weight(args.percent))
    }
}
