//! The time that sticky's programs take for each connection of a proxy, by the size of its head.

use anyhow::{Result, ensure};

use super::pool::Pool;
use crate::bench::load::Load;
use crate::bench::program;
use crate::bench::report::{Reach, Report};
use crate::bench::rounds::{Length, Rounds};
use crate::say;

/// Bytes of a request. Of the longest the gate sees the end just so.
const HEADS: [usize; 6] = [200, 512, 1024, 2048, 4096, 8190];
/// An ordinary browser's.
const ORDINARY: usize = 1024;
/// The load as a proxy that opens a connection for each request: enough to keep two processors busy.
const CLOSING: Load = Load::new("closing", 8, 256);

/// Nanoseconds of a connection, and how often the programs ran for it.
struct Sample {
    time: f64,
    runs: f64,
}

/// Measures the curve.
pub fn measure(report: &mut Report, pool: &Pool, length: &Length) -> Result<()> {
    say("measuring the programs' time");
    report.say("\nthe load in front: time in sticky's programs for each connection, by the size of its head");
    let samples = Rounds::measure(length.rounds().div_ceil(4), HEADS.len(), |which, round| {
        sample(pool, &Load { head: Some(HEADS[which]), ..CLOSING }, round, length.seconds)
    })?;
    for (n, head) in HEADS.into_iter().enumerate() {
        let reach = (head == ORDINARY).then_some(Reach(f64::NEG_INFINITY, 4000.0));
        report.figure(&format!("{head} bytes"), samples.median(n, |sample| sample.time), "ns", reach);
    }
    let runs = samples.median(0, |sample| sample.runs);
    report.say(&format!("    {:.2} runs a connection; the kernel's clock is in each", runs.value));
    samples.doubts(report);
    Ok(())
}

fn sample(pool: &Pool, load: &Load, round: usize, seconds: f64) -> Result<Sample> {
    let before = pool.work()?;
    let program = program::work("steer", &pool.workers, load, round, seconds)?;
    let work = pool.work()? - before;
    ensure!(
        work.others == 0 && work.recurred as f64 <= 0.05 * work.connections(),
        "{} of {} connections were not decided by the gate: `sticky status` counts why",
        work.others + work.recurred,
        work.connections()
    );
    let connections = work.connections();
    Ok(Sample { time: program.time / connections, runs: program.runs / connections })
}
