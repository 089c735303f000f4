//! `cargo xtask test`: unit, property and end-to-end tests.

use std::env;
use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::{privilege, setup, workspace};

/// Run all tests: unit, property and end-to-end
///
/// Installs what is missing first. End-to-end tests load programs into the kernel and make networks of their own, so
/// the tests run as root, by `sudo` where that is missing.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test -- --test it steering")]
pub struct Args {
    /// What `cargo test` gets besides `--workspace`
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// All tests of the workspace.
pub fn test(args: &Args) -> Result<()> {
    setup::for_tests()?;
    workspace::run(cargo_test().arg("--workspace").args(&args.arguments))
}

/// The tests that load the kernel object.
pub fn end_to_end() -> Result<()> {
    setup::for_tests()?;
    workspace::run(cargo_test().args(["--package", "sticky-user", "--test", "it"]))
}

/// `cargo test` that builds as the developer and runs the tests as root.
fn cargo_test() -> Command {
    let mut command = workspace::cargo();
    command.arg("test");
    if !privilege::is_root() {
        // sudo's own path lacks a node from elsewhere, the developer's lacks nginx and what else is root's.
        let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        command.arg("--config");
        command.arg(format!("target.'cfg(unix)'.runner = ['sudo', '-E', 'env', 'PATH={path}']"));
    }
    command
}
