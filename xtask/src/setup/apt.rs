//! Debian packages, by apt.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::needs::{NEEDS, Need, Purpose};
use crate::{privilege, say, workspace};

/// Installs the packages of all needs of these purposes that are not met.
pub fn install(purposes: &[Purpose]) -> Result<()> {
    let missing: Vec<_> =
        NEEDS.iter().filter(|need| purposes.contains(&need.purpose) && !need.met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say("missing, and what each is for:");
    for need in &missing {
        say(format_args!("  `{}` for {}: Debian's `{}`", need.name(), need.why, need.packages));
    }
    if workspace::which("apt-get").is_none() {
        bail!("this system has no `apt-get`: install what is listed above with its own package manager");
    }
    say("installing the packages with apt");
    apt_get(&["update"]).context("the lists of packages could not be refreshed")?;
    let packages: Vec<_> = missing.iter().flat_map(|need| need.packages.split(' ')).collect();
    refuse_unknown(&missing)?;
    apt_get(&[&["install", "--yes", "--no-install-recommends"], packages.as_slice()].concat())?;
    match missing.iter().find(|need| !need.met()) {
        Some(need) => bail!(
            "`{}` is still missing after installing `{}`: install it by hand",
            need.name(),
            need.packages
        ),
        None => Ok(()),
    }
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = privilege::as_root("env");
    workspace::run(command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]).args(arguments))
}

/// Names the packages that this system's suites lack, before apt fails in the middle.
fn refuse_unknown(needs: &[&Need]) -> Result<()> {
    let unknown = |purpose: Purpose| {
        let packages = needs
            .iter()
            .filter(move |need| need.purpose == purpose)
            .flat_map(|need| need.packages.split(' '));
        packages.filter(|package| !is_known(package)).collect::<Vec<_>>().join("`, `")
    };
    let (tests, kernel_object) = (unknown(Purpose::Tests), unknown(Purpose::KernelObject));
    if !tests.is_empty() {
        bail!("apt knows no package `{tests}` here: install what is listed above by other means");
    }
    if !kernel_object.is_empty() {
        bail!(
            "apt knows no package `{kernel_object}` here: Debian 12 and 13 have it in their security and update suites, \
             so add those to `/etc/apt/sources.list.d`; elsewhere, `rustup toolchain install nightly --component rust-src` \
             and a `bpf-linker` whose LLVM is at least as new as that compiler's do as well. \
             Only `cargo xtask build-ebpf` needs this: all else uses the committed kernel object"
        );
    }
    Ok(())
}

fn is_known(package: &str) -> bool {
    let mut command = Command::new("apt-cache");
    command.args(["show", "--no-all-versions", package]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
