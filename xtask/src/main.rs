//! What a developer types: `cargo xtask run`, `test`, `build-ebpf`, …
#![forbid(unsafe_code)]

mod bench;
mod build_ebpf;
mod privilege;
mod run;
mod setup;
mod test;
mod workspace;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Build, run, test and measure sticky
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
enum Task {
    Run(run::Args),
    /// Install what the tests and building the kernel object need (Debian 12 and 13)
    ///
    /// Says what is missing and what it is for, then installs that with apt, cargo and npm; nothing is done twice.
    Setup,
    Test(test::Args),
    BuildEbpf(build_ebpf::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    match perform(&Task::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn perform(task: &Task) -> Result<()> {
    match task {
        Task::Run(args) => run::run(args),
        Task::Setup => setup::everything(),
        Task::Test(args) => test::test(args),
        Task::BuildEbpf(args) => build_ebpf::build_ebpf(args),
        Task::Bench(args) => bench::bench(args),
    }
}

/// Tells the developer something: on standard error, like cargo itself.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
