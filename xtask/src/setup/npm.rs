//! The packages of the tests' JavaScript workers, by npm.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Result, bail};

use crate::{say, workspace};

/// The oldest node that the tests' packages run on: Debian 12's.
const OLDEST_NODE: u32 = 18;

/// Installs what `tests/apps/package-lock.json` lists, unless that was done since it changed.
pub fn install() -> Result<()> {
    let apps = workspace::root().join("tests/apps");
    let lock = apps.join("package-lock.json");
    if !lock.exists() {
        return Ok(());
    }
    check_node()?;
    // npm writes this file last.
    if changed(&apps.join("node_modules/.package-lock.json")) >= changed(&lock) {
        return Ok(());
    }
    say("installing the packages of the tests' JavaScript workers with npm, into `tests/apps/node_modules`");
    workspace::run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&apps))
}

fn check_node() -> Result<()> {
    let version = workspace::output(Command::new("node").arg("--version"))?;
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < OLDEST_NODE) {
        bail!(
            "node is {version}, and the tests need {OLDEST_NODE} or later: put a newer one first in `PATH`"
        );
    }
    Ok(())
}

/// When a file last changed; nothing for one that is not there, which is before any time.
fn changed(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|file| file.modified()).ok()
}
