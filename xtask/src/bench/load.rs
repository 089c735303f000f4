//! Requests to a port, as many as it can answer, and how that went.

use anyhow::{Context as _, Result, ensure};

use super::process::{Process, example};

/// What clients do.
#[derive(Clone, Copy)]
pub struct Load {
    /// `connect` for a connection each request, `drawn` for the same by clients from all over, `keep-alive` for one each client, `forwarded` for what a reverse proxy
    /// does: shared ones, or `closing`: one each request.
    pub mode: &'static str,
    /// Requests at a time.
    pub at_a_time: usize,
    /// Clients, others in each round.
    pub clients: usize,
    /// Requests a second, over lasting connections; `None` for as many as are answered.
    pub rate: Option<u32>,
    /// Bytes of each request, with what a browser says; `None` for a short one.
    pub head: Option<usize>,
}

/// How a load was answered.
pub struct Answers {
    /// Answers.
    pub count: f64,
    /// How long they took together.
    pub seconds: f64,
    /// How many came from another worker than their client's first answer.
    pub moved: u64,
    /// Workers that answered.
    pub workers: usize,
    /// The median of the time until an answer was there, in microseconds.
    pub p50: f64,
    /// The time within which 99 of 100 were there.
    pub p99: f64,
}

impl Answers {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.count / self.seconds
    }
}

impl Load {
    /// Short requests, as many as are answered.
    pub const fn new(mode: &'static str, at_a_time: usize, clients: usize) -> Self {
        Self { mode, at_a_time, clients, rate: None, head: None }
    }

    /// Opens the lasting connections, and waits for an answer on each.
    pub fn start(&self, port: u16, round: usize, seconds: f64) -> Result<Running> {
        let network = 1 + round % 250;
        let mut command = example("bench_load");
        command.args([self.mode, &port.to_string(), &seconds.to_string()]);
        command.args([self.at_a_time, network, self.clients].map(|number| number.to_string()));
        command.args(self.rate.map(|rate| format!("--rate={rate}")));
        command.args(self.head.map(|head| format!("--head={head}")));
        let mut process = Process::start(&mut command)?;
        ensure!(process.line()? == "ready", "the load is expected to say when it is ready");
        Ok(Running(process))
    }

    /// The whole.
    pub fn run(&self, port: u16, round: usize, seconds: f64) -> Result<Answers> {
        let mut load = self.start(port, round, seconds)?;
        load.begin();
        load.answers()
    }
}

/// A load whose connections are open, until it is dropped.
pub struct Running(Process);

impl Running {
    /// Makes it send requests.
    pub fn begin(&mut self) {
        self.0.end_input();
    }

    /// What came of them, when all are answered.
    pub fn answers(&mut self) -> Result<Answers> {
        let line = self.0.line()?;
        let numbers: Vec<f64> = line.split(' ').map_while(|number| number.parse().ok()).collect();
        let &[count, seconds, moved, workers, p50, p99] = numbers.as_slice() else {
            return Err(anyhow::Error::msg(line)).context("the load is expected to say six numbers");
        };
        Ok(Answers { count, seconds, moved: moved as u64, workers: workers as usize, p50, p99 })
    }
}
