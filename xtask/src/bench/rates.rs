//! Answers a second from pools that are steered differently, in rounds that take turns.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::figures::Median;
use super::machine::Spent;
use super::process::{Pool, example, sticky};
use crate::workspace;

/// A round in which others spent more than this share of the processors' time is done again.
const QUIET: f64 = 0.06;
/// How often on average: on a machine that is never quiet the bench ends all the same.
const PATIENCE: usize = 5;
/// How long to wait before that, so that others come to an end.
const PAUSE: Duration = Duration::from_millis(500);

/// What clients do.
pub struct Load {
    /// `connect` for a connection each request, or `keep-alive`.
    mode: &'static str,
    /// Connections at a time.
    connections: usize,
    /// Client addresses, others in each round.
    addresses: usize,
}

/// Short connections, eight at a time: enough to keep two processors busy.
pub const CONNECT: Load = Load { mode: "connect", connections: 8, addresses: 256 };
/// 64 lasting connections, each from an address of its own.
pub const KEEP_ALIVE: Load = Load { mode: "keep-alive", connections: 64, addresses: 64 };

impl Load {
    /// Answers a second from `pool`, and how many came from another worker than their client's first answer.
    pub fn run(&self, pool: &Pool, round: usize, seconds: f64) -> Result<(f64, u64)> {
        let network = 1 + round % 250;
        let Self { mode, connections, addresses } = self;
        let text = workspace::output(
            example("bench_load")
                .args([*mode, &pool.port.to_string(), &seconds.to_string()])
                .args([connections, &network, addresses].map(usize::to_string)),
        )?;
        let (rate, moved) = text.split_once(' ').unwrap_or_default();
        Ok((rate.parse()?, moved.parse()?))
    }
}

/// How a pool is steered.
#[derive(Clone, Copy, PartialEq)]
pub enum Steering {
    /// By the kernel alone.
    Plain,
    /// By sticky.
    Sticky,
    /// By sticky with `--defer-accept`.
    Deferred,
}

/// The pools that are compared, all of the same size.
pub struct Pools([Pool; 3]);

impl Pools {
    /// Starts the workers, and sticky where it steers.
    ///
    /// Each kind of steering has workers of its own, since `TCP_DEFER_ACCEPT` stays on their sockets. Those of the
    /// other pools sleep meanwhile.
    pub fn start(workers: usize) -> Result<Self> {
        let start = |port| Pool::start(port, workers);
        let pools = Self([start(7001)?, start(7002)?, start(7003)?]);
        let attach = |pool: &Pool| {
            let mut command = sticky();
            command.args(["attach", "--once", &pool.port.to_string()]);
            command
        };
        workspace::output(&mut attach(pools.of(Steering::Sticky)))?;
        workspace::output(attach(pools.of(Steering::Deferred)).arg("--defer-accept"))?;
        Ok(pools)
    }

    /// The pool that is steered like this.
    pub fn of(&self, steering: Steering) -> &Pool {
        &self.0[steering as usize]
    }

    /// Gives the pools back to the kernel and ends them.
    pub fn end(self) -> Result<()> {
        workspace::output(sticky().args(["detach", "--all"])).map(|_| ())
    }

    /// Measures `rounds` rounds of `load`, in each of them every kind of `steerings`, in an order that turns.
    pub fn compare<const N: usize>(
        &self,
        load: &Load,
        steerings: [Steering; N],
        rounds: usize,
        seconds: f64,
    ) -> Result<Rates<N>> {
        let mut rates = Rates { rounds: Vec::new(), disturbed: 0 };
        let mut repeated = 0;
        while rates.rounds.len() < rounds {
            let before = Spent::now()?;
            let round = self.round(load, steerings, rates.rounds.len() + repeated, seconds)?;
            let disturbed = Spent::now()?.by_others_since(&before) > QUIET;
            if disturbed && repeated < rounds * PATIENCE {
                repeated += 1;
                sleep(PAUSE);
            } else {
                rates.rounds.push(round);
                rates.disturbed += usize::from(disturbed);
            }
        }
        Ok(rates)
    }

    fn round<const N: usize>(
        &self,
        load: &Load,
        steerings: [Steering; N],
        round: usize,
        seconds: f64,
    ) -> Result<[f64; N]> {
        let mut rates = [0.0; N];
        for turn in 0..N {
            let which = (round + turn) % N;
            let (rate, moved) = load.run(self.of(steerings[which]), round, seconds)?;
            let kept = steerings[which] == Steering::Plain || moved == 0;
            ensure!(
                kept,
                "sticky did not steer: {moved} answers came from another worker than their client's"
            );
            rates[which] = rate;
        }
        Ok(rates)
    }
}

/// Answers a second in each round, for each kind of steering.
pub struct Rates<const N: usize> {
    rounds: Vec<[f64; N]>,
    /// How many of the rounds others disturbed, even so.
    pub disturbed: usize,
}

impl<const N: usize> Rates<N> {
    /// The median of the `n`-th kind.
    pub fn median(&self, n: usize) -> Median {
        Median::of(self.rounds.iter().map(|round| round[n]))
    }

    /// The median of the rounds' ratios of the `n`-th kind to the first.
    pub fn ratio(&self, n: usize) -> Median {
        Median::of(self.rounds.iter().map(|round| round[n] / round[0]))
    }
}
