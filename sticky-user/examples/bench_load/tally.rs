//! What the clients count.

use std::collections::HashSet;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// The worker that answered: the answer's body, its process number.
pub type Worker = [u8; 8];

/// The body of an answer that is complete. All that a worker says is its head and eight digits.
pub fn body(answer: &[u8]) -> Result<Option<Worker>> {
    let Some((head, worker)) = answer.split_last_chunk() else { return Ok(None) };
    if !head.ends_with(b"\r\n\r\n") {
        return Ok(None);
    }
    ensure!(head.starts_with(b"HTTP/1.1 200 "), "answered with {}", answer.escape_ascii());
    Ok(Some(*worker))
}

/// What was counted.
pub struct Tally {
    begin: Instant,
    /// The worker that answered each client first.
    workers: Vec<Option<Worker>>,
    moved: u64,
    latencies: Vec<Duration>,
}

impl Tally {
    /// Nothing yet, of so many clients.
    pub fn begin(clients: usize) -> Self {
        Self { begin: Instant::now(), workers: vec![None; clients], moved: 0, latencies: Vec::new() }
    }

    /// Counts an answer.
    pub fn answer(&mut self, client: usize, worker: Worker, took: Duration) {
        let first = *self.workers[client].get_or_insert(worker);
        self.moved += u64::from(first != worker);
        self.latencies.push(took);
    }

    /// Adds the counts of other clients.
    pub fn add(&mut self, other: Self) {
        for (mine, others) in self.workers.iter_mut().zip(other.workers) {
            *mine = mine.or(others);
        }
        self.moved += other.moved;
        self.latencies.extend(other.latencies);
    }

    /// Six numbers: answers, seconds, how many of them came from another worker than the same client's first
    /// answer, how many workers there were, and the latency in microseconds, its median and its 99th percentile.
    pub fn print(mut self, to: &mut impl Write) -> Result<()> {
        let seconds = self.begin.elapsed().as_secs_f64();
        let workers = self.workers.iter().flatten().collect::<HashSet<_>>().len();
        self.latencies.sort_unstable();
        let last = self.latencies.len().checked_sub(1).context("there was no time for an answer")?;
        let [median, most] = [0.5, 0.99].map(|share| self.latencies[(last as f64 * share) as usize]);
        let (answers, moved) = (self.latencies.len(), self.moved);
        Ok(writeln!(to, "{answers} {seconds} {moved} {workers} {} {}", micros(median), micros(most))?)
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
