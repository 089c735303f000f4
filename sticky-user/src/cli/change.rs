//! What is typed to change a run that serves.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::control::{self, Request};
use crate::refusal::Refusal;

/// Change the number of workers of a run
///
/// New workers come in once all of them listen. Those with the highest numbers leave: nobody new is sent to them, their
/// connections may end (`run --drain`), then they are told to (SIGTERM, and SIGKILL after `run --grace`). The change goes
/// on when this command is interrupted.
#[derive(Args)]
#[command(after_help = "Examples:\n  sticky scale 8\n  sticky scale 2 --name chat --dry-run")]
pub struct ScaleArgs {
    /// Number of workers
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,

    #[command(flatten)]
    run: RunName,

    /// Tell what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Put new processes in the place of a run's workers, without a client noticing
///
/// For each worker in turn a new process is started beside the old one. Once it listens on all ports that the old one
/// serves, and answers `run --ready-http`, it gets the slot, and so the clients; the old one's connections may end
/// (`run --drain`), then it is told to (SIGTERM, and SIGKILL after `run --grace`). A new process that is not ready in
/// time (`run --ready-timeout`) or ends before stops the reload, and the old ones serve on. SIGHUP to the run does the
/// same. The reload goes on when this command is interrupted.
#[derive(Args)]
#[command(after_help = "Examples:\n  sticky reload\n  sticky reload --name chat --parallel 2")]
pub struct ReloadArgs {
    #[command(flatten)]
    run: RunName,

    /// How many workers at a time
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,

    /// Tell what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Leave a run to another sticky, say a new version, while its workers go on
///
/// The other one is started with the arguments, the environment and the folder of the run, and takes over workers,
/// pools, and proxies. Connections of proxies that are there end in their time. Where that fails, the run goes on as it
/// was.
#[derive(Args)]
#[command(after_help = "Examples:\n  sticky upgrade\n  sticky upgrade --name chat --binary ./sticky")]
pub struct UpgradeArgs {
    #[command(flatten)]
    run: RunName,

    /// The other sticky [default: the one that is given this command]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

#[derive(Args)]
struct RunName {
    /// Which run, when there are several
    #[arg(long = "name", value_name = "RUN", value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
}

impl RunName {
    fn ask(&self, request: &Request) -> Result<()> {
        control::ask(self.name.as_deref(), request)
    }
}

impl ScaleArgs {
    /// Does it.
    pub fn perform(&self) -> Result<()> {
        self.run.ask(&Request::Scale { workers: self.workers.into(), dry_run: self.dry_run })
    }
}

impl ReloadArgs {
    /// Does it.
    pub fn perform(&self) -> Result<()> {
        self.run.ask(&Request::Reload { parallel: self.parallel.into(), dry_run: self.dry_run })
    }
}

impl UpgradeArgs {
    /// Does it.
    pub fn perform(&self) -> Result<()> {
        let binary = match &self.binary {
            None => std::env::current_exe().context("the path of this program cannot be found")?,
            Some(path) => path.canonicalize().map_err(|error| {
                Refusal::new(
                    format!("`{}` cannot be found: {error}", path.display()),
                    "give the path of another `sticky`",
                )
            })?,
        };
        self.run.ask(&Request::Upgrade { binary })
    }
}
