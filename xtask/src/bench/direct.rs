//! `cargo xtask bench direct`: clients that connect to the workers themselves.

use std::io::{self, Write as _};

use anyhow::Result;

use super::figures::{Median, quantile};
use super::rates::{CONNECT, KEEP_ALIVE, Pools, Steering};
use super::report::{Reach, Report};
use super::rounds::Length;
use super::{joining, machine, program, sandbox};
use crate::say;

/// Plain SO_REUSEPORT against sticky, in rounds that take turns
///
/// Clients and workers share this machine's processors. A round that other processes disturb is repeated. Needs root.
#[derive(clap::Args)]
pub struct Args {
    /// Sizes of the pool
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [2, 4])]
    workers: Vec<usize>,

    #[command(flatten)]
    length: Length,
}

/// Measures and prints the figures, each beside what it is to reach.
pub fn direct(args: &Args) -> Result<()> {
    sandbox::enter()?;
    let (rounds, seconds) = (args.length.rounds(), args.length.seconds);
    let mut report = Report::default();
    report.say(&machine::describe());
    for (n, &workers) in args.workers.iter().enumerate() {
        say(format_args!("measuring {workers} workers"));
        report.say(&format!("\n{workers} workers, {rounds} rounds of {seconds} s"));
        let pools = Pools::start(workers)?;
        rates(&mut report, &pools, rounds, seconds)?;
        run_time(&mut report, &pools, rounds, seconds)?;
        if n + 1 == args.workers.len() {
            join(&mut report, &pools, rounds)?;
        }
        pools.end()?;
    }
    report.say("\nAll are medians, with the interval in which the median lies with a probability of 95 %. A ratio is the");
    report.say("median of the rounds' ratios to plain SO_REUSEPORT.");
    Ok(io::stdout().write_all(report.text().as_bytes())?)
}

fn rates(report: &mut Report, pools: &Pools, rounds: usize, seconds: f64) -> Result<()> {
    use Steering::{Deferred, Plain, Sticky};
    let rate = |rate: &f64| *rate;
    let connect = pools.compare(&CONNECT, &[Plain, Sticky, Deferred], rounds, seconds)?;
    report.figure("connections, plain SO_REUSEPORT", connect.median(0, rate), "/s", None);
    for (n, what, least) in [(1, "sticky", 0.97), (2, "sticky --defer-accept", 1.03)] {
        report.rate(what, connect.median(n, rate), connect.ratio(n, 0, rate), Reach(least, f64::INFINITY));
    }
    connect.doubts(report);

    let keep_alive = pools.compare(&KEEP_ALIVE, &[Plain, Sticky], rounds, seconds)?;
    report.figure("keep-alive requests, plain SO_REUSEPORT", keep_alive.median(0, rate), "/s", None);
    report.rate("sticky", keep_alive.median(1, rate), keep_alive.ratio(1, 0, rate), Reach(0.98, 1.02));
    keep_alive.doubts(report);
    Ok(())
}

/// What a run of the program takes, beside one that does nothing: the clock and the call.
fn run_time(report: &mut Report, pools: &Pools, rounds: usize, seconds: f64) -> Result<()> {
    let (plain, sticky) = (pools.of(Steering::Plain), pools.of(Steering::Sticky));
    let (mut empty, mut steer) = (Vec::new(), Vec::new());
    for round in 0..rounds.div_ceil(4) {
        empty.push(program::nanoseconds("empty", plain, &CONNECT, round, seconds)?);
        steer.push(program::nanoseconds("steer", sticky, &CONNECT, round, seconds)?);
    }
    report.figure("a run of the empty program", Median::of(empty), "ns", None);
    report.figure("a run of sticky's", Median::of(steer), "ns", Some(Reach(f64::NEG_INFINITY, 500.0)));
    Ok(())
}

fn join(report: &mut Report, pools: &Pools, rounds: usize) -> Result<()> {
    let mut times = joining::milliseconds(pools.of(Steering::Sticky), rounds.max(30))?;
    let reach = Reach(f64::NEG_INFINITY, 5.0);
    report.figure(
        "from a new worker's listen() to its slot",
        Median::of(times.iter().copied()),
        "ms",
        Some(reach),
    );
    times.sort_by(f64::total_cmp);
    let (most, max) = (quantile(&times, 0.95), quantile(&times, 1.0));
    report.say(&format!(
        "    of {} workers, beside {} other processes; 95 % within {most:.2} ms, all within {max:.2} ms",
        times.len(),
        joining::CROWD
    ));
    Ok(())
}
