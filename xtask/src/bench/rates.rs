//! Answers a second from pools that are steered differently.

use anyhow::{Result, ensure};

use super::load::Load;
use super::process::{Pool, sticky};
use super::rounds::Rounds;
use crate::workspace;

/// Short connections, eight at a time: enough to keep two processors busy.
pub const CONNECT: Load = Load::new("connect", 8, 256);
/// 64 lasting connections, each from an address of its own.
pub const KEEP_ALIVE: Load = Load::new("keep-alive", 64, 64);

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

    /// Answers a second to `load` in each round, for each of `steerings`.
    pub fn compare(
        &self,
        load: &Load,
        steerings: &[Steering],
        rounds: usize,
        seconds: f64,
    ) -> Result<Rounds<f64>> {
        Rounds::measure(rounds, steerings.len(), |which, round| {
            let answers = load.run(self.of(steerings[which]).port, round, seconds)?;
            let kept = steerings[which] == Steering::Plain || answers.moved == 0;
            ensure!(
                kept,
                "sticky did not steer: {} answers came from another worker than their client's",
                answers.moved
            );
            Ok(answers.rate())
        })
    }
}
