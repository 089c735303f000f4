//! `cargo xtask bench gate`: proxies that open a connection for each request, whose worker the kernel chooses.

mod curve;
mod pool;

use std::io::{self, Write as _};

use anyhow::{Result, ensure};

use super::load::{Answers, Load};
use super::machine::{self, Processors};
use super::proxies::{AT_A_TIME, BEHIND, CLIENTS, Listen, Program, Role, WORKERS};
use super::report::{Reach, Report};
use super::rounds::{Length, Rounds};
use super::sandbox;
use crate::say;
use pool::{Pool, Work};

/// Proxies before workers that sticky's gate chooses, and before plain SO_REUSEPORT, in rounds that take turns
///
/// 200 clients are behind a real nginx (HTTP/1.0 to the workers) or HAProxy (`option http-server-close`), which open a
/// connection to a worker for each request and say in `X-Forwarded-For` who it is from. One pool is steered by `sticky
/// attach --trust loopback`, the other by the kernel alone, without affinity. At some rates, and as fast as they answer.
///
/// Then the load plays the proxy, with heads of several sizes, and the kernel's clock tells the time that sticky's
/// programs take for each connection. A round that other processes disturb is repeated. Needs root, HAProxy and nginx.
#[derive(clap::Args)]
pub struct Args {
    /// What is in front of the workers; none for the programs' time alone
    #[arg(long, value_name = "PROXY", value_delimiter = ',', num_args = 0.., default_values = ["nginx", "haproxy"])]
    front: Vec<Program>,

    /// Requests a second, besides as many as are answered
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [100, 1000])]
    rate: Vec<u32>,

    #[command(flatten)]
    length: Length,
}

/// A round has so many requests at least, for which a slow one takes longer.
const REQUESTS: f64 = 100.0;
/// So much further a pool's front listens.
const FRONT: u16 = 50;
/// sticky, and what it is compared with: their places in a round.
const STICKY: usize = 0;
const PLAIN: usize = 1;

/// Measures and prints the figures, each beside what it is to reach.
pub fn gate(args: &Args) -> Result<()> {
    sandbox::enter()?;
    let mut report = Report::default();
    report.say(&machine::describe());
    report.say(&format!(
        "{WORKERS} workers, {CLIENTS} clients, at most {AT_A_TIME} requests at a time, {} rounds of {} s",
        args.length.rounds(),
        args.length.seconds
    ));
    let pools = [Pool::steered(7100)?, Pool::plain(7200)?];
    for &front in &args.front {
        behind(&mut report, front, &pools, args)?;
    }
    curve::measure(&mut report, &pools[STICKY], &args.length)?;
    report.say("\nAll are medians, with the interval in which the median lies with a probability of 95 %. A ratio is the");
    report.say(
        "median of the rounds' ratios of sticky to plain SO_REUSEPORT. Latencies at a rate count from when a",
    );
    report.say("request was due.");
    Ok(io::stdout().write_all(report.text().as_bytes())?)
}

/// The pools behind one `front`, at all rates.
fn behind(report: &mut Report, front: Program, pools: &[Pool; 2], args: &Args) -> Result<()> {
    let listen =
        |pool: &Pool| Listen { port: pool.port() + FRONT, servers: vec![pool.port()], role: Role::Closing };
    let listens: Vec<_> = pools.iter().map(listen).collect();
    let _front = front.put_in_front(Processors::all().count(), &listens)?;
    for rate in args.rate.iter().map(|&rate| Some(rate)).chain([None]) {
        let pace =
            rate.map_or("as many requests as are answered".into(), |rate| format!("{rate} requests/s"));
        say(format_args!("measuring {pace} behind {}", front.name()));
        report.say(&format!("\n{} in front, {pace}", front.name()));
        let load = Load { rate, ..BEHIND };
        let seconds = args.length.seconds.max(rate.map_or(0.0, |rate| REQUESTS / f64::from(rate)));
        let samples = Rounds::measure(args.length.rounds(), pools.len(), |which, round| {
            sample(&pools[which], &load, round, seconds)
        })?;
        tell(report, &samples);
    }
    Ok(())
}

/// What one round showed of one pool.
struct Sample {
    answers: Answers,
    work: Work,
}

impl Sample {
    fn rate(&self) -> f64 {
        self.answers.rate()
    }

    fn p50(&self) -> f64 {
        self.answers.p50
    }
}

/// A round of `load` on the front of `pool`.
fn sample(pool: &Pool, load: &Load, round: usize, seconds: f64) -> Result<Sample> {
    let mut running = load.start(pool.port() + FRONT, round, seconds)?;
    let before = pool.work()?;
    running.begin();
    let answers = running.answers()?;
    let work = pool.work()? - before;
    let moved = answers.moved;
    ensure!(
        !pool.is_steered() || moved == 0,
        "sticky did not steer: {moved} answers came from another worker than their client's"
    );
    Ok(Sample { answers, work })
}

fn tell(report: &mut Report, samples: &Rounds<Sample>) {
    report.say("                        requests/s         p50         p99");
    for (n, name) in [(STICKY, "sticky"), (PLAIN, "plain SO_REUSEPORT")] {
        let of = |figure: fn(&Sample) -> f64| samples.median(n, figure).value;
        let (rate, p50, p99) = (of(Sample::rate), of(Sample::p50), of(|sample| sample.answers.p99));
        let [p50, p99] = [p50, p99].map(|latency| latency / 1000.0);
        report.say(&format!("  {name:<20} {rate:>11.0} {p50:>8.2} ms {p99:>8.2} ms"));
    }
    let ratio = samples.ratio(STICKY, PLAIN, Sample::rate);
    report.ratio("requests/s, sticky : plain", ratio, Some(Reach(0.95, f64::INFINITY)));
    report.ratio("median latency, sticky : plain", samples.ratio(STICKY, PLAIN, Sample::p50), None);
    let work = |figure: fn(&Work) -> f64| samples.median(STICKY, |sample| figure(&sample.work));
    report.figure("not decided by the gate", work(Work::left), "%", None);
    report.figure("sticky's CPU time, a connection", work(|work| work.each(work.all)), "µs", None);
    report.figure("  for reaping", work(|work| work.each(work.reaping)), "µs", None);
    report.figure("  in the redirect", work(|work| work.each(work.redirecting)), "µs", None);
    report.say(&format!(
        "    {:.0} connections: {} were reaped, {} came before that and were redirected",
        samples.sum(STICKY, |sample| sample.work.connections()),
        samples.sum(STICKY, |sample| sample.work.reaped as f64),
        samples.sum(STICKY, |sample| sample.work.recurred as f64),
    ));
    samples.doubts(report);
}
