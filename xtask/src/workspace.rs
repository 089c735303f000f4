//! The repository, and running commands in it.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The repository's root.
pub fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Where cargo builds: as the developer has set it, or `target`.
pub fn target() -> PathBuf {
    let set = env::var_os("CARGO_TARGET_DIR").and_then(|dir| std::path::absolute(dir).ok());
    set.unwrap_or_else(|| root().join("target"))
}

/// The cargo that runs this task, at the repository's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).env("CARGO_TARGET_DIR", target());
    command
}

/// Where an executable of this name is found, in `PATH` or where Debian has what only root usually runs.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let root_only = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(root_only).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Runs a command to its end, which must be a good one.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("`{}` does not start", line(command)))?;
    ensure!(status.success(), "`{}` failed ({status}); what it says above is the reason", line(command));
    Ok(())
}

/// Runs a command to its end, which must be a good one; its standard output without the last line feed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("`{}` does not start", line(command)))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` failed ({}): {}", line(command), output.status, errors.trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// The command as it would be typed.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> =
        std::iter::once(program).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}
