//! Where a hop's time goes, by `perf`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::hop::Hop;
use crate::bench::load::Load;
use crate::bench::sandbox::FILES;
use crate::workspace;

/// How long is looked.
const SECONDS: Duration = Duration::from_secs(5);
/// Lines that matter.
const LINES: usize = 40;

/// A table of functions, the costliest first, while `load` is on `hop`.
pub fn flat(hop: &Hop, load: &Load) -> Result<String> {
    let file = format!("{FILES}/perf.data");
    let perf = || -> Result<Command> {
        Ok(Command::new(
            workspace::which("perf").context("there is no `perf`: Debian's `linux-perf` has it")?,
        ))
    };
    let mut record = perf()?;
    record.args(["record", "--freq", "1999", "--pid", &hop.pid().to_string(), "--output"]).arg(&file);
    record.args(["--", "sleep", &SECONDS.as_secs().to_string()]);
    // It begins before and ends after.
    let mut running = load.start(hop.port, 0, SECONDS.as_secs_f64() + 1.0)?;
    running.begin();
    workspace::output(&mut record)?;
    running.answers()?;
    let mut report = perf()?;
    report.args(["report", "--stdio", "--no-children", "--sort", "dso,symbol", "--input"]).arg(&file);
    let table = workspace::output(&mut report)?;
    let lines = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).take(LINES);
    Ok(lines.map(|line| format!("{}\n", line.trim_end())).collect())
}
