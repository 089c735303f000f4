//! The `sticky` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    sticky::cli::main()
}
