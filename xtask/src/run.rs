//! `cargo xtask run`: sticky as the sources have it, with a demo when nothing else is asked for.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::{privilege, say, workspace};

/// Build sticky and run it: a demo, or with the arguments after `--`
///
/// Without arguments four demo workers serve port 3000, and each answer tells which worker it came from and why. With
/// arguments, sticky runs with them and its exit code is passed on. Needs root, by `sudo` where it is missing.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask run\n  cargo xtask run -- status\n  cargo xtask run -- run -w 2 -- node server.js"
)]
pub struct Args {
    /// What sticky gets as its command line
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// A key of the hash under which the two addresses of [`WHAT_TO_TRY`] get different workers.
const DEMO_SEED: &str = "000102030405060708090a0b0c0d0e0f";

const WHAT_TO_TRY: &str = "
starting four demo workers on port 3000; when the pool is complete, try in another terminal:

  curl --interface 127.0.0.1 http://127.0.0.1:3000/   # one client, as often as you like: one worker
  curl --interface 127.0.0.2 http://127.0.0.1:3000/   # another client: another worker
  cargo xtask run -- status                           # who is where, and how much
  cargo xtask run -- explain 127.0.0.2                # which worker a client gets, and why

Ctrl-C ends it
";

/// Builds and becomes sticky, so that signals and the exit code are its own.
pub fn run(args: &Args) -> Result<()> {
    let demo = args.arguments.is_empty();
    let mut build = workspace::cargo();
    build.args(["build", "--release", "--package", "sticky-user", "--bin", "sticky"]);
    if demo {
        build.args(["--example", "demo"]);
    }
    workspace::run(&mut build)?;

    let built = workspace::target().join("release");
    let mut sticky = privilege::as_root(built.join("sticky"));
    if demo {
        say(WHAT_TO_TRY);
        sticky.args(["run", "--workers", "4", "--seed", DEMO_SEED, "--"]).arg(built.join("examples/demo"));
    } else {
        sticky.args(&args.arguments);
    }
    let program = sticky.get_program().to_string_lossy().into_owned();
    let hint = if privilege::is_root() {
        ""
    } else {
        "; sticky needs root, so run this task as root if there is no `sudo`"
    };
    Err(sticky.exec()).with_context(|| format!("`{program}` does not start{hint}"))
}
