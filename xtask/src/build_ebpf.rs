//! `cargo xtask build-ebpf`: the kernel object that sticky is built with, and the check that it is what the sources
//! give.

mod check;
mod object;
mod report;
mod tools;
mod verifier;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{say, workspace};
use tools::Tools;

/// Build the kernel object and put it where sticky is built with it
///
/// The object is committed as `sticky-user/bpf/sticky.bpf.o`, with the versions of the tools that made it in `TOOLS`
/// beside it. It is the same byte for byte wherever those tools build it. `cargo xtask setup` installs them.
///
/// Prints what each program costs, and fails when that is above its budget. What the verifier says needs root: without,
/// only `--check` insists on it, by `sudo`.
#[derive(clap::Args)]
pub struct Args {
    /// Change nothing, and fail unless the committed object is what the sources give
    ///
    /// With the tools that made it, it must be the same byte for byte. With others the end-to-end tests run on the
    /// rebuilt object instead; while they do, it stands in for the committed one.
    #[arg(long)]
    check: bool,
}

/// Builds the kernel object, reports on it, then keeps or checks it.
pub fn build_ebpf(args: &Args) -> Result<()> {
    let tools = Tools::find()?;
    let versions = tools.versions()?;
    let built = object::build(&tools, &versions)?;
    let verified = verifier::ask(&built, args.check)?;
    report::report(&tools, &built, verified.as_ref())?;
    let object = fs::read(&built).with_context(|| format!("`{}` cannot be read", built.display()))?;
    if args.check { check::check(&object, &versions) } else { keep(&object, &versions) }
}

/// Replaces what is committed.
fn keep(object: &[u8], versions: &str) -> Result<()> {
    for (path, content) in [(committed(), object), (versions_file(), versions.as_bytes())] {
        // An unchanged file keeps its time, so that nothing is built anew.
        if fs::read(&path).is_ok_and(|old| old == content) {
            continue;
        }
        fs::write(&path, content).with_context(|| format!("`{}` cannot be written", path.display()))?;
        say(format_args!(
            "wrote `{}`: commit it",
            path.strip_prefix(workspace::root()).unwrap_or(&path).display()
        ));
    }
    Ok(())
}

/// The object that sticky is built with.
fn committed() -> PathBuf {
    workspace::root().join("sticky-user/bpf/sticky.bpf.o")
}

/// The versions of the tools that made it.
fn versions_file() -> PathBuf {
    workspace::root().join("sticky-user/bpf/TOOLS")
}
