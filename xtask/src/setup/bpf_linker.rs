//! bpf-linker: Debian has no package of it, so cargo builds it on Debian's LLVM.

use std::process::Command;

use anyhow::Result;

use crate::{say, workspace};

const VERSION: &str = "0.13.0";

/// Builds and installs bpf-linker, unless this very version is there.
pub fn install() -> Result<()> {
    let installed = workspace::output(Command::new("bpf-linker").arg("--version"));
    if installed.is_ok_and(|line| line == format!("bpf-linker {VERSION}")) {
        return Ok(());
    }
    say(format_args!(
        "building bpf-linker {VERSION}, which links the kernel object; this takes a minute or two"
    ));
    workspace::run(
        workspace::cargo()
            .env("LLVM_PREFIX", "/usr/lib/llvm-22")
            .env_remove("CARGO_TARGET_DIR")
            .args(["install", "--quiet", "--locked", "--force", "bpf-linker", "--version", VERSION])
            .args(["--no-default-features", "--features", "llvm-22"]),
    )
}
