//! The time that one run of a program takes, by the kernel's own clock (`BPF_ENABLE_STATS`).

use anyhow::{Context as _, Result};

use super::load::Load;
use super::process::{Pool, Process, example};

/// Nanoseconds a run, of the program that `question` names, while `load` is on `pool`.
///
/// The clock, which takes time itself, is on for no longer than that.
pub fn nanoseconds(question: &str, pool: &Pool, load: &Load, round: usize, seconds: f64) -> Result<f64> {
    let mut stats = Process::start(example("bench_stats").arg(question).arg(pool.port.to_string()))?;
    stats.line()?;
    load.run(pool.port, round, seconds)?;
    stats.end_input();
    let line = stats.line()?;
    let (runs, time) = line.split_once(' ').context("two numbers were expected")?;
    Ok(time.parse::<f64>()? / runs.parse::<f64>()?)
}
