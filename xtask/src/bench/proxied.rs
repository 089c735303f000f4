//! `cargo xtask bench proxied`: clients behind a reverse proxy, through sticky's redirect and through others.

mod hop;
mod profile;

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::figures::Median;
use super::load::{Answers, Load};
use super::machine::{self, Processors};
use super::process::Process;
use super::proxies::{AT_A_TIME, BEHIND, CLIENTS, Listen, Program, Role, WORKERS};
use super::report::{Reach, Report};
use super::rounds::{Length, Rounds};
use super::{meter, sandbox};
use crate::say;
use hop::{Hop, KINDS, Kind};

/// sticky's redirect against HAProxy and nginx that choose the worker, in rounds that take turns
///
/// 200 clients are behind a proxy that says in `X-Forwarded-For` who they are. Behind it a hop chooses the worker by
/// that: sticky's redirect, HAProxy (`balance hdr(x-forwarded-for)`, `hash-type consistent`) or nginx (`hash
/// $http_x_forwarded_for consistent`), each with workers of its own.
///
/// First the load plays the proxy, and each hop has one processor to itself, which it keeps busy: its requests a second
/// are requests for a second of processor time. Then HAProxy and nginx are in front, and all share all processors.
/// A round that other processes disturb is repeated. Needs root, HAProxy and nginx.
#[derive(clap::Args)]
pub struct Args {
    /// What is in front of the hops
    #[arg(long, value_name = "PROXY", value_delimiter = ',', default_values = ["load", "haproxy", "nginx"])]
    front: Vec<Front>,

    #[command(flatten)]
    length: Length,

    /// Also tell, by `perf`, where sticky's time goes
    #[arg(long)]
    profile: bool,
}

/// Who says who the client is.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Front {
    /// The load itself, over few shared connections
    Load,
    /// A real HAProxy
    Haproxy,
    /// A real nginx
    Nginx,
}

/// The load as a proxy: as many connections as there are requests at a time.
const PROXY: Load = Load::new("forwarded", AT_A_TIME, CLIENTS);
/// Connections that are open and idle.
const IDLE: usize = 2000;
/// How often memory is looked at, which hardly varies.
const LOOKS: usize = 5;
/// sticky is to be at least so fast for the same processor time as HAProxy.
const AS_FAST: Reach = Reach(0.9, f64::INFINITY);

/// Measures and prints the figures, each beside what it is to reach.
pub fn proxied(args: &Args) -> Result<()> {
    sandbox::enter()?;
    let mut report = Report::default();
    report.say(&machine::describe());
    report.say(&format!(
        "{WORKERS} workers, {CLIENTS} clients, {AT_A_TIME} requests at a time, {} rounds of {} s",
        args.length.rounds(),
        args.length.seconds
    ));
    let all = Processors::all();
    if args.front.contains(&Front::Load) {
        let (own, others) = all.split();
        others.keep()?;
        let mut hops = start(own)?;
        say("measuring memory");
        memory(&mut report, &mut hops)?;
        compare(&mut report, &hops, Front::Load, args)?;
    }
    all.keep()?;
    let fronts: Vec<_> = args.front.iter().filter(|&&front| front != Front::Load).collect();
    if !fronts.is_empty() {
        let hops = start(all)?;
        for &front in fronts {
            compare(&mut report, &hops, front, args)?;
        }
    }
    report.say("\nAll are medians, with the interval in which the median lies with a probability of 95 %. A ratio is the");
    report.say(
        "median of the rounds' ratios of sticky to the other. Processor time and memory are the hop's own.",
    );
    Ok(io::stdout().write_all(report.text().as_bytes())?)
}

/// The hops, each on `processors`.
fn start(processors: Processors) -> Result<Vec<Hop>> {
    let ports = (7100..).step_by(100);
    KINDS.into_iter().zip(ports).map(|(kind, port)| Hop::start(kind, port, WORKERS, processors)).collect()
}

/// What an idle connection takes that has had one request.
fn memory(report: &mut Report, hops: &mut [Hop]) -> Result<()> {
    report.say(&format!("\nmemory of the hop for each of {IDLE} idle connections"));
    let idle = Load { at_a_time: IDLE, ..PROXY };
    for hop in hops {
        let mut looks = Vec::new();
        for look in 0..LOOKS {
            hop.restart()?;
            // What only the first connections take is not theirs.
            let _first = Load { at_a_time: CLIENTS, ..PROXY }.start(hop.port, look, 0.0)?;
            let before = meter::memory(hop.pid())?;
            let _idle = idle.start(hop.port, look, 0.0)?;
            let after = meter::memory(hop.pid())?;
            looks.push(after.saturating_sub(before) as f64 / IDLE as f64);
        }
        let reach = (hop.kind == Kind::Sticky).then_some(Reach(f64::NEG_INFINITY, 20.0));
        report.figure(hop.kind.name(), Median::of(looks), "KiB", reach);
    }
    Ok(())
}

/// What one round showed of one hop.
struct Sample {
    answers: Answers,
    /// The hop's processor time.
    time: Duration,
    /// What of that its first thread has: sticky's looks for workers, and leaves requests to others.
    first: Duration,
}

impl Sample {
    fn rate(&self) -> f64 {
        self.answers.rate()
    }

    /// Microseconds of the hop's processor time for each request.
    fn cost(&self) -> f64 {
        self.time.as_secs_f64() * 1e6 / self.answers.count
    }

    /// How many processors the hop kept busy.
    fn busy(&self) -> f64 {
        self.time.as_secs_f64() / self.answers.seconds
    }
}

/// Measures the hops behind `front`.
fn compare(report: &mut Report, hops: &[Hop], front: Front, args: &Args) -> Result<()> {
    let (load, what, proxy) = match front {
        Front::Load => (&PROXY, "the load in front, and a processor for the hop alone", None),
        Front::Haproxy => (&BEHIND, "HAProxy in front", Some(Program::Haproxy)),
        Front::Nginx => (&BEHIND, "nginx in front", Some(Program::Nginx)),
    };
    say(format_args!("measuring with {what}"));
    report.say(&format!("\n{what}"));
    let ports: Vec<_> = hops.iter().map(|hop| hop.port + proxy.map_or(0, |_| FRONT)).collect();
    let _front = proxy.map(|proxy| put_in_front(proxy, hops)).transpose()?;
    let samples = Rounds::measure(args.length.rounds(), hops.len(), |which, round| {
        sample(&hops[which], load, ports[which], round, args.length.seconds)
    })?;
    table(report, hops, &samples);
    for (n, hop) in hops.iter().enumerate().skip(1) {
        let reach = (hop.kind == Kind::Proxy(Program::Haproxy)).then_some(AS_FAST);
        let name = hop.kind.name();
        report.ratio(&format!("requests/s, sticky : {name}"), samples.ratio(0, n, Sample::rate), reach);
        let per_cost = samples.ratio(0, n, |sample| 1.0 / sample.cost());
        report.ratio(&format!("requests/CPU time, sticky : {name}"), per_cost, reach);
    }
    samples.doubts(report);
    if args.profile {
        say("profiling sticky");
        report.say("\n  where sticky's time goes");
        report.say(profile::flat(&hops[0], load, ports[0])?.trim_end());
    }
    Ok(())
}

/// So much further a hop's front listens.
const FRONT: u16 = 50;

/// Starts one proxy that is in front of all hops.
fn put_in_front(proxy: Program, hops: &[Hop]) -> Result<Process> {
    let listen = |hop: &Hop| Listen { port: hop.port + FRONT, servers: vec![hop.port], role: Role::Front };
    let listens: Vec<_> = hops.iter().map(listen).collect();
    proxy.put_in_front(Processors::all().count(), &listens)
}

/// A round of `load` on `port`, which leads to `hop`.
fn sample(hop: &Hop, load: &Load, port: u16, round: usize, seconds: f64) -> Result<Sample> {
    let mut running = load.start(port, round, seconds)?;
    let look = || anyhow::Ok((meter::processor_time(hop.pid())?, meter::first_thread_time(hop.pid())?));
    let before = look()?;
    running.begin();
    let answers = running.answers()?;
    let after = look()?;
    let (name, Answers { moved, workers, .. }) = (hop.kind.name(), &answers);
    ensure!(*moved == 0, "{name}: {moved} answers came from another worker than their client's");
    ensure!(*workers == WORKERS, "{name}: only {workers} of {WORKERS} workers answered");
    Ok(Sample { answers, time: after.0 - before.0, first: after.1 - before.1 })
}

fn table(report: &mut Report, hops: &[Hop], samples: &Rounds<Sample>) {
    report.say(
        "              requests/s         p50        p99   CPU time of the hop for each   CPUs it kept busy",
    );
    for (n, hop) in hops.iter().enumerate() {
        let of = |figure: fn(&Sample) -> f64| samples.median(n, figure);
        let (rate, cost, busy) = (of(Sample::rate), of(Sample::cost), of(Sample::busy));
        let latency = [of(|sample| sample.answers.p50), of(|sample| sample.answers.p99)];
        let [p50, p99] = latency.map(|median| median.value / 1000.0);
        report.say(&format!(
            "  {:<10} {:>11.0} {p50:>8.2} ms {p99:>7.2} ms   {:>5.1} µs ({:.1} to {:.1}) {:>18.2}",
            hop.kind.name(),
            rate.value,
            cost.value,
            cost.low,
            cost.high,
            busy.value
        ));
    }
    let aside = samples.median(0, |sample| sample.first.as_secs_f64() / sample.time.as_secs_f64());
    report.say(&format!(
        "    {:.0} % of sticky's is for following the pool, which others make it do when they open and close listeners",
        aside.value * 100.0
    ));
}
