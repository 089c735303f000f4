//! What is typed about clients: `sticky pin`, `unpin`, `pins` and `sessions`.

use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use sticky_ebpf::abi::Slot;

use super::parse_duration;
use crate::group::Target;
use crate::refusal::Refusal;
use crate::trust;

/// Give the clients of a prefix a slot, whatever else is known of them
///
/// Of several pins that cover a client the longest counts. While the slot has no worker, a pin is as good as none. What is
/// only a part of a client, one IPv6 address say, pins the client.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sticky pin 203.0.113.7 2\n  sticky pin 10.0.0.0/8 0 --for 2h\n  sticky pin 2001:db8::/48 1 --dry-run"
)]
pub struct PinArgs {
    /// Whose
    #[arg(value_name = "CIDR", value_parser = trust::prefix)]
    pub prefix: IpNet,

    /// The slot's number, as `sticky status` shows it
    pub slot: Slot,

    /// For how long [default: until `sticky unpin`]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub time: Option<Duration>,

    /// Only at this pool
    #[arg(long, value_name = "[udp:][ADDRESS:]PORT")]
    pub at: Option<Target>,

    /// Only say how many known clients would move
    #[arg(long)]
    pub dry_run: bool,
}

/// Take a pin back: its clients have the workers again that they had before
#[derive(Args)]
#[command(after_help = "Examples:\n  sticky unpin 203.0.113.7\n  sticky unpin --all --at 3000")]
pub struct UnpinArgs {
    /// The prefix, as `sticky pins` shows it
    #[arg(value_name = "CIDR", required_unless_present = "all", value_parser = trust::prefix)]
    pub prefix: Option<IpNet>,

    /// All there are
    #[arg(long, conflicts_with = "prefix")]
    pub all: bool,

    /// Only at this pool
    #[arg(long, value_name = "[udp:][ADDRESS:]PORT")]
    pub at: Option<Target>,
}

/// Show what is pinned
#[derive(Args)]
#[command(after_help = "Examples:\n  sticky pins\n  sticky pins --at 3000 --json")]
pub struct PinsArgs {
    /// Only at this pool
    #[arg(long, value_name = "[udp:][ADDRESS:]PORT")]
    pub at: Option<Target>,

    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Write out which clients are known, or read it, say to move to another host
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sticky sessions export --at 3000 > sessions\n  sticky sessions import sessions --at 3000\n  ssh other sticky sessions export | sticky sessions import -"
)]
pub struct SessionsArgs {
    #[command(subcommand)]
    pub what: SessionsCommand,

    /// Which pool, if there are several
    #[arg(long, value_name = "[udp:][ADDRESS:]PORT", global = true)]
    pub at: Option<Target>,
}

#[derive(Subcommand)]
pub enum SessionsCommand {
    /// Write the known clients to standard output, a line of JSON each
    Export,
    /// Know these clients too
    Import {
        /// What `export` wrote; `-` for standard input
        file: PathBuf,
    },
}

/// What is in a file, or comes in.
pub fn read(file: &PathBuf) -> Result<String> {
    let mut text = Vec::new();
    let read = match file.as_os_str() == "-" {
        true => io::stdin().read_to_end(&mut text),
        false => fs::File::open(file).and_then(|mut file| file.read_to_end(&mut text)),
    };
    read.with_context(|| {
        Refusal::new(
            format!("`{}` cannot be read", file.display()),
            "name a file that `sticky sessions export` wrote",
        )
    })?;
    // What is no text is refused for what it says.
    Ok(String::from_utf8_lossy(&text).into_owned())
}
