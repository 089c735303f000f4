//! The time from a new worker's `listen` until connections can reach it.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::process::{Pool, Process, example, sticky};

/// Other processes there are meanwhile, each with ten descriptors, among which sticky has to find the worker: as many
/// as on a small server.
pub const CROWD: usize = 200;

const IDLE: &str = "exec sleep infinity 3<&0 4<&0 5<&0 6<&0 7<&0 8<&0 9<&0";

/// Milliseconds for each of `times` workers that join `pool`, one after the other, while sticky follows it.
pub fn milliseconds(pool: &Pool, times: usize) -> Result<Vec<f64>> {
    let _crowd = (0..CROWD)
        .map(|_| Process::start(Command::new("sh").args(["-c", IDLE])))
        .collect::<Result<Vec<_>>>()?;
    let port = pool.port.to_string();
    let _follower = Process::start(sticky().args(["attach", &port]).stderr(Stdio::null()))?;
    let worker = example("bench_worker");
    let mut question = example("bench_stats");
    question.args(["join", &port]).arg(worker.get_program()).arg((times + 1).to_string());
    let mut stats = Process::start(&mut question)?;
    // The first one may have come before sticky was ready.
    stats.line()?;
    let microseconds = (0..times).map(|_| stats.line()?.parse::<f64>().context("a number was expected"));
    microseconds.map(|result| Ok(result? / 1000.0)).collect()
}
