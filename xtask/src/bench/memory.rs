//! `cargo xtask bench memory`: what a run of the steering program takes, by how much it has in its maps.

use std::io::{self, Write as _};

use anyhow::{Result, ensure};

use super::load::Load;
use super::process::{Pool, example, sticky};
use super::report::{Reach, Report};
use super::rounds::{Length, Rounds};
use super::{machine, program, sandbox, status};
use crate::{say, workspace};

/// The time of a run, with and without the affinity table, and as clients and slots grow
///
/// The kernel's own clock measures it (`BPF_ENABLE_STATS`), which takes a part of what it shows: see the empty program.
/// Clients and workers share this machine's processors. A round that other processes disturb is repeated. Needs root.
#[derive(clap::Args)]
pub struct Args {
    /// How many of the clients that are known come, for the first curve; known are all the while as many as the most
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [100, 1_000, 10_000, 100_000, 1_000_000])]
    clients: Vec<usize>,

    /// Sizes of the pool, for the second curve
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [2, 8, 32, 128, 256])]
    slots: Vec<usize>,

    #[command(flatten)]
    length: Length,
}

/// What a run is to take at most, in nanoseconds.
const GOAL: Reach = Reach(f64::NEG_INFINITY, 500.0);
/// By how much it may grow along a curve.
const FLAT: Reach = Reach(f64::NEG_INFINITY, 1.3);

/// Clients that the pool was told of.
const KNOWN: Load = Load::new("drawn", 8, 1000);
/// Clients of whom hardly any comes twice in a round.
const NEW: Load = Load::new("connect", 8, 60_000);

/// Measures and prints the figures, each beside what it is to reach.
pub fn memory(args: &Args) -> Result<()> {
    sandbox::enter()?;
    let (rounds, seconds) = (args.length.rounds(), args.length.seconds);
    let mut report = Report::default();
    report.say(&machine::describe());
    report.say(&format!("nanoseconds of a run, {rounds} rounds of {seconds} s"));
    for curve in [ways, clients, slots] {
        curve(&mut report, args, rounds, seconds)?;
        workspace::output(sticky().args(["detach", "--all"]))?;
    }
    report.say("\nAll are medians, with the interval in which the median lies with a probability of 95 %.");
    Ok(io::stdout().write_all(report.text().as_bytes())?)
}

fn attach(pool: &Pool, options: &[&str]) -> Result<()> {
    let port = pool.port.to_string();
    workspace::output(sticky().args(["attach", "--once", &port]).args(options)).map(|_| ())
}

/// Has the pool know so many clients, those that are drawn.
fn fill(pool: &Pool, clients: usize) -> Result<()> {
    let mut fill = example("bench_stats");
    workspace::output(fill.args(["fill", &pool.port.to_string(), &clients.to_string()])).map(|_| ())
}

/// The ways in which a client's slot is found.
fn ways(report: &mut Report, _: &Args, rounds: usize, seconds: f64) -> Result<()> {
    say("measuring the ways to find a slot");
    let start = |port| Pool::start(port, 4);
    let [plain, forgetful, hash, least] = [start(7001)?, start(7002)?, start(7003)?, start(7004)?];
    attach(&forgetful, &["--remember", "0"])?;
    attach(&hash, &[])?;
    attach(&least, &["--place", "least"])?;
    for pool in [&hash, &least] {
        fill(pool, KNOWN.clients)?;
    }
    let ways: [(&str, &str, &Pool, &Load, Option<Reach>); 7] = [
        ("the empty program", "empty", &plain, &KNOWN, None),
        ("nobody is remembered", "steer", &forgetful, &KNOWN, Some(GOAL)),
        ("known clients", "steer", &hash, &KNOWN, Some(GOAL)),
        ("new clients", "steer", &hash, &NEW, Some(GOAL)),
        ("known clients, `--place least`", "steer", &least, &KNOWN, Some(GOAL)),
        ("new clients, `--place least`", "steer", &least, &NEW, Some(GOAL)),
        ("counting: a change of a socket's state", "count", &least, &KNOWN, None),
    ];
    let measured = Rounds::measure(rounds, ways.len(), |way, round| {
        let (_, question, pool, load, _) = ways[way];
        program::nanoseconds(question, pool, load, round, seconds)
    })?;
    report.say("\nfour workers");
    for (n, (what, .., goal)) in ways.into_iter().enumerate() {
        report.figure(what, measured.median(n, |time| *time), "ns", goal);
    }
    measured.doubts(report);
    Ok(())
}

/// A curve over the clients that come.
fn clients(report: &mut Report, args: &Args, rounds: usize, seconds: f64) -> Result<()> {
    let known = args.clients.iter().copied().max().unwrap_or(1);
    say(format_args!("measuring {known} known clients"));
    let pool = Pool::start(7011, 4)?;
    // The kernel forgets clients before a table is quite full.
    attach(&pool, &["--remember-clients", &known.saturating_mul(2).to_string()])?;
    fill(&pool, known)?;
    let curve = Rounds::measure(rounds, args.clients.len(), |n, round| {
        program::nanoseconds("steer", &pool, &Load::new("drawn", 8, args.clients[n]), round, seconds)
    })?;
    let outcomes = &status::of(pool.port)?["outcomes"];
    ensure!(outcomes["table"] == 0 && outcomes["next"] == 0, "not all were known: {outcomes:#}");
    report.say(&format!("\nof {known} known clients so many come, to four workers"));
    curve_of(report, &curve, &args.clients);
    Ok(())
}

/// A curve over the slots, of clients that are known and others that are not.
fn slots(report: &mut Report, args: &Args, rounds: usize, seconds: f64) -> Result<()> {
    say("measuring pools of other sizes");
    let mut pools = Vec::new();
    for (port, slots) in (7021..).zip(&args.slots) {
        // Few processes: hundreds would be in each other's way.
        let pool = Pool::of_listeners(port, 2.min(*slots), slots.div_ceil(2))?;
        attach(&pool, &["--place", "least"])?;
        fill(&pool, KNOWN.clients)?;
        pools.push(pool);
    }
    for (what, load) in [("known", &KNOWN), ("new", &NEW)] {
        let curve = Rounds::measure(rounds, pools.len(), |n, round| {
            program::nanoseconds("steer", &pools[n], load, round, seconds)
        })?;
        report.say(&format!("\nso many workers, {what} clients, `--place least`"));
        curve_of(report, &curve, &args.slots);
    }
    Ok(())
}

fn curve_of(report: &mut Report, curve: &Rounds<f64>, sizes: &[usize]) {
    for (n, size) in sizes.iter().enumerate() {
        report.figure(&size.to_string(), curve.median(n, |time| *time), "ns", Some(GOAL));
    }
    if let Some(last) = sizes.len().checked_sub(1) {
        report.ratio("the last, of the first", curve.ratio(last, 0, |time| *time), Some(FLAT));
    }
    curve.doubts(report);
}
