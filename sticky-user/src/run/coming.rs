//! A new worker on its way in: started, but sent no client before it serves all that is expected of it.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Plan;
use super::check::{self, ReadyHttp};
use super::ports::{Ports, Seats};
use super::worker::{self, Worker};

/// How long after an answer that it is not ready it is asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// A worker that comes.
pub struct Newcomer {
    /// Who.
    pub worker: Worker,
    /// The slots it is to have.
    pub seats: Seats,
    /// Whether it may have them.
    pub ready: bool,
    since: Instant,
    /// The question whether it is ready, on its way.
    question: Option<oneshot::Receiver<Result<(), String>>>,
    asked: Option<Instant>,
    /// What it answered last, that it is not ready.
    answer: Option<String>,
    /// What it lacks, as last seen.
    lacks: String,
}

impl Newcomer {
    /// `worker`, which was just started, is to have `seats`.
    pub fn new(worker: Worker, seats: Seats) -> Self {
        Self {
            worker,
            seats,
            ready: false,
            since: Instant::now(),
            question: None,
            asked: None,
            answer: None,
            lacks: String::new(),
        }
    }

    /// Looks whether it is ready. An error says why it never will be.
    pub fn step(&mut self, ports: &mut Ports, plan: &Plan) -> Result<(), String> {
        if let Some(status) = self.worker.exit() {
            return Err(worker::describe(status));
        }
        if self.ready {
            return Ok(());
        }
        match self.look(ports, plan) {
            Ok(None) => self.ready = true,
            Ok(Some(lacks)) => self.lacks = lacks,
            Err(error) => self.lacks = format!("it cannot be looked at: {error:#}"),
        }
        if !self.ready && self.since.elapsed() >= plan.ready_timeout {
            return Err(format!("was not ready after {:?}: {}", plan.ready_timeout, self.lacks));
        }
        Ok(())
    }

    /// Why it will not be a worker, with what it said last.
    pub fn obituary(&self, why: &str) -> String {
        let mut text = format!("the new process of worker {} {why}", self.worker.name.number);
        let last = self.worker.output.last_words();
        if !last.is_empty() {
            text += "; its last output:";
            last.iter().for_each(|line| text = format!("{text}\n  {line}"));
        }
        text
    }

    /// What it lacks; `None` when it is ready.
    fn look(&mut self, ports: &mut Ports, plan: &Plan) -> Result<Option<String>> {
        match self.question.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Ok(answer)) => {
                self.question = None;
                self.answer = answer.clone().err();
                return Ok(answer.err());
            }
            Some(Err(oneshot::error::TryRecvError::Closed)) => self.question = None,
            Some(Err(oneshot::error::TryRecvError::Empty)) | None => {}
        }
        if let Some(lacks) = ports.lacks(&self.worker, &self.seats)? {
            return Ok(Some(lacks));
        }
        let Some(ReadyHttp { port, path }) = &plan.ready_http else { return Ok(None) };
        let unanswered = || format!("it has not answered GET {path}");
        let waits = self.question.is_some() || self.asked.is_some_and(|asked| asked.elapsed() < AGAIN);
        if waits {
            return Ok(Some(self.answer.clone().unwrap_or_else(unanswered)));
        }
        self.asked = Some(Instant::now());
        let Some((pool, member)) = ports.asked(&self.worker, *port)? else {
            return Ok(Some(match port {
                Some(port) => format!("it does not listen on port {port}, where it is asked"),
                None => "it listens on no port of the pool".into(),
            }));
        };
        let stream = check::dial(pool, &member)?;
        let (answer, question) = oneshot::channel();
        let asking = check::ask(stream, path.clone());
        tokio::spawn(async move { drop(answer.send(asking.await)) });
        self.question = Some(question);
        Ok(Some(self.answer.clone().unwrap_or_else(unanswered)))
    }
}
