//! Where a hop's time goes, by `perf`.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::hop::Hop;
use crate::bench::load::Load;
use crate::bench::sandbox::FILES;
use crate::workspace;

/// How long is looked.
const SECONDS: u8 = 5;
/// Functions that matter.
const FUNCTIONS: usize = 40;

/// The shares of the kernel, the program and libraries, then those of functions, the costliest first, while `load` is
/// on `port`, which leads to `hop`.
pub fn flat(hop: &Hop, load: &Load, port: u16) -> Result<String> {
    let file = format!("{FILES}/perf.data");
    let mut record = perf()?;
    record.args(["record", "--freq", "1999", "--pid", &hop.pid().to_string(), "--output", &file]);
    record.args(["--", "sleep", &SECONDS.to_string()]);
    // It begins before and ends after.
    let mut running = load.start(port, 0, f64::from(SECONDS + 1))?;
    running.begin();
    workspace::output(&mut record)?;
    running.answers()?;
    let mut report = perf()?;
    report.args(["report", "--stdio", "--no-children", "--sort", "dso,symbol", "--field-separator", ";"]);
    Ok(table(&workspace::output(report.args(["--input", &file]))?))
}

fn perf() -> Result<Command> {
    Ok(Command::new(workspace::which("perf").context("there is no `perf`: Debian's `linux-perf` has it")?))
}

/// The table of a line `share;object;symbol;…` for each function.
fn table(report: &str) -> String {
    let mut objects = BTreeMap::<_, f64>::new();
    let mut functions = Vec::new();
    for line in report.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split(';').map(str::trim);
        let (Some(share), Some(object), Some(symbol)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        *objects.entry(object).or_default() += share.trim_end_matches('%').parse().unwrap_or(0.0);
        functions.push(format!("  {share:>7}  {object:<18} {symbol}\n"));
    }
    let mut objects: Vec<_> = objects.into_iter().collect();
    objects.sort_by(|one, other| other.1.total_cmp(&one.1));
    let shares = objects.iter().map(|(object, share)| format!("  {share:>6.2}%  {object}\n"));
    shares.chain(["\n".to_owned()]).chain(functions.into_iter().take(FUNCTIONS)).collect()
}
