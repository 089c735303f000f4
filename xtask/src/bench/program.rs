//! The time that one run of a program takes, by the kernel's own clock (`BPF_ENABLE_STATS`).

use anyhow::{Context as _, Result};

use super::load::Load;
use super::process::{Pool, Process, example};

/// What a program did.
pub struct Work {
    /// How often it ran.
    pub runs: f64,
    /// The time of all runs, in nanoseconds. A program that it ends in is part of it.
    pub time: f64,
}

/// What the program that `question` names does while `load` is on `pool`.
///
/// The clock, which takes time itself, is on for no longer than that.
pub fn work(question: &str, pool: &Pool, load: &Load, round: usize, seconds: f64) -> Result<Work> {
    let mut stats = Process::start(example("bench_stats").arg(question).arg(pool.port.to_string()))?;
    stats.line()?;
    load.run(pool.port, round, seconds)?;
    stats.end_input();
    let line = stats.line()?;
    let (runs, time) = line.split_once(' ').context("two numbers were expected")?;
    Ok(Work { runs: runs.parse()?, time: time.parse()? })
}

/// Nanoseconds a run.
pub fn nanoseconds(question: &str, pool: &Pool, load: &Load, round: usize, seconds: f64) -> Result<f64> {
    work(question, pool, load, round, seconds).map(|work| work.time / work.runs)
}
