//! Changes of a run that serves: more workers, fewer, or new processes for them. One change at a time, step by step.

use std::collections::VecDeque;
use std::fmt;

use anyhow::Result;
use sticky_ebpf::abi::MAX_SLOTS;

use super::Run;
use super::coming::Newcomer;
use super::control::{Asker, Order};
use super::leaving::Leaver;
use super::worker::{Name, Worker};
use crate::connections;
use crate::control::Request;
use crate::say::{ready, reloading, say};

/// A change under way.
pub struct Change {
    what: What,
    /// The numbers of those that are still to be started.
    queue: VecDeque<usize>,
    /// How many processes there may be beyond the workers'.
    parallel: usize,
    asker: Asker,
}

/// What a change is.
#[derive(Clone, Copy)]
enum What {
    Scale { from: usize, to: usize },
    Reload { workers: usize },
}

/// As a sentence has it: the run is …
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scale { from, to } => write!(f, "scaled from {from} to {to} workers"),
            Self::Reload { .. } => f.write_str("reloaded"),
        }
    }
}

impl Change {
    /// Tells who asked for it that it will not be finished.
    pub fn abandon(self, why: &str) {
        self.asker.failed(format_args!("the run is no longer being {}: {why}", self.what));
    }
}

impl Run<'_> {
    /// Begins what is asked for, or refuses.
    pub(super) fn take(&mut self, Order { request, asker }: Order) {
        let (what, parallel, dry_run) = match request {
            Request::Scale { workers, dry_run } => {
                let what = What::Scale { from: self.workers.len(), to: workers };
                (what, MAX_SLOTS, dry_run)
            }
            Request::Reload { parallel, dry_run } => {
                (What::Reload { workers: self.workers.len() }, parallel.max(1), dry_run)
            }
            Request::Upgrade { binary } => return self.upgrade(&binary, asker),
        };
        if let What::Scale { to, .. } = what
            && !(1..=MAX_SLOTS).contains(&to)
        {
            return asker.refuse(
                format_args!("{to} workers are no pool"),
                format_args!("a run has 1 to {MAX_SLOTS} workers"),
            );
        }
        if let Some(busy) = self.busy() {
            return asker
                .refuse(busy, "wait until that is done; the run tells on its standard error how far it is");
        }
        if dry_run {
            return asker.answer(self.forecast(what, parallel));
        }
        self.begin(what, parallel, asker);
    }

    /// What the run is busy with, in words.
    pub(super) fn busy(&self) -> Option<String> {
        if self.successor.is_some() {
            return Some("the run is being upgraded".into());
        }
        self.change.as_ref().map(|change| format!("the run is being {}", change.what))
    }

    /// What a change would do, for `--dry-run`: a line for each effect.
    fn forecast(&self, what: What, parallel: usize) -> String {
        let mut lines = Vec::new();
        let pools = self.ports.names().join(", ");
        let drain = self.plan.drain;
        match what {
            What::Scale { from, to } if to > from => {
                lines.push(format!("would start worker {}", numbers(from + 1, to)));
                lines.push(format!("{pools}: {to} slots instead of {from}"));
            }
            What::Scale { from, to } if to < from => {
                lines.push(format!(
                    "would end worker {}, once its connections have, or after {drain:?}",
                    numbers(to + 1, from)
                ));
                lines.push(format!("{pools}: {to} slots instead of {from}"));
                if let Ok(known) = self.ports.known_beyond(to) {
                    lines.push(format!("{known} known clients would move, and no others"));
                }
            }
            What::Scale { to, .. } => lines.push(format!("would do nothing: there are {to} workers")),
            What::Reload { workers } => {
                lines.push(format!(
                    "would start a new process for each of {workers} workers, {parallel} at a time"
                ));
                lines.push(format!("would end an old one once its connections have, or after {drain:?}"));
                lines.push("no known client would move".into());
            }
        }
        lines.join("\n")
    }

    fn begin(&mut self, what: What, parallel: usize, asker: Asker) {
        let queue = match what {
            What::Scale { from, to } if from == to => {
                return asker.done(format_args!("there are {to} workers already"));
            }
            What::Scale { from, to } => (from + 1..=to).collect(),
            What::Reload { workers } => {
                reloading();
                (1..=workers).collect()
            }
        };
        asker.tell(format_args!("the run is being {what}"));
        self.change = Some(Change { what, queue, parallel, asker });
        if let What::Scale { from, to } = what
            && to < from
            && let Err(error) = self.dismiss(to)
        {
            self.give_up(&format!("{error:#}"));
        }
    }

    /// Takes the workers beyond `count` out of the pools, for their connections to end.
    fn dismiss(&mut self, count: usize) -> Result<()> {
        self.ports.shrink(count)?;
        for worker in self.workers.split_off(count) {
            self.tell(format_args!("worker {} gets no new clients", worker.name.number));
            self.leave(worker, "");
        }
        Ok(())
    }

    /// Lets a worker go that is in no slot any more.
    fn leave(&mut self, worker: Worker, what: &str) {
        let who = format!("{what}worker {}", worker.name.number);
        self.leavers.push(Leaver::new(worker, who, self.plan.drain, self.plan.grace));
    }

    /// Whether a new worker of this number is coming.
    pub(super) fn is_awaited(&self, number: usize) -> bool {
        self.coming.iter().any(|newcomer| newcomer.worker.name.number == number)
    }

    /// Goes on with what is under way, as far as it can.
    pub(super) fn step(&mut self) {
        self.step_leavers();
        match self.step_change() {
            Ok(false) => {}
            Ok(true) => {
                if let Some(Change { what, asker, .. }) = self.change.take() {
                    if matches!(what, What::Reload { .. }) {
                        ready();
                    }
                    asker.done(format_args!("the run was {what}"));
                }
            }
            Err(why) => self.give_up(&why),
        }
    }

    fn step_leavers(&mut self) {
        if self.leavers.is_empty() {
            return;
        }
        let counted = connections::by_cgroup(&self.ports.numbers());
        let counted =
            counted.inspect_err(|error| say(format_args!("connections cannot be counted: {error:#}")));
        let mut told = Vec::new();
        let mut staying = Vec::new();
        for mut leaver in std::mem::take(&mut self.leavers) {
            let drained = leaver.is_draining();
            let gone = leaver.step(counted.as_ref().ok());
            if drained && !leaver.is_draining() && leaver.open > 0 {
                told.push(format!("{} is told to end, with {} connections left", leaver.who, leaver.open));
            }
            if !gone {
                staying.push(leaver);
                continue;
            }
            let how = if leaver.was_killed() { "was killed" } else { "has ended" };
            told.push(format!("{} {how}", leaver.who));
            leaver.worker.remove();
        }
        self.leavers = staying;
        told.iter().for_each(|text| self.tell(text));
    }

    /// One more step of the change; true when it is done. An error says why it cannot be.
    fn step_change(&mut self) -> Result<bool, String> {
        let Some(Change { what, .. }) = &self.change else { return Ok(false) };
        let what = *what;
        for newcomer in &mut self.coming {
            newcomer.step(&mut self.ports, self.plan).map_err(|why| newcomer.obituary(&why))?;
        }
        let failed = |error: anyhow::Error| format!("{error:#}");
        match what {
            What::Reload { .. } => {
                while let Some(at) = self.coming.iter().position(|newcomer| newcomer.ready) {
                    self.replace(at).map_err(failed)?;
                }
            }
            What::Scale { to, .. } if !self.coming.is_empty() => {
                if self.workers.len() + self.coming.len() == to && self.coming.iter().all(|one| one.ready) {
                    self.welcome(to).map_err(failed)?;
                }
            }
            What::Scale { .. } => {}
        }
        while let Some(number) = self.next_number() {
            self.invite(number).map_err(failed)?;
        }
        let waits = self.change.as_ref().is_some_and(|change| !change.queue.is_empty());
        Ok(!waits && self.coming.is_empty() && self.leavers.is_empty())
    }

    /// The next worker to be started, if it may be.
    fn next_number(&mut self) -> Option<usize> {
        let change = self.change.as_mut()?;
        let beyond = self.coming.len() + self.leavers.len();
        if beyond < change.parallel { change.queue.pop_front() } else { None }
    }

    /// Starts the new worker of this number.
    fn invite(&mut self, number: usize) -> Result<()> {
        let name = self.fresh_name(number);
        let seats = match self.workers.get(number - 1) {
            Some(old) => self.ports.seats(old)?,
            None => self.ports.seats_for(name),
        };
        let mut worker = Worker::new(name, &self.place)?;
        if let Err(error) = worker.start(self.plan) {
            worker.remove();
            return Err(error);
        }
        self.coming.push(Newcomer::new(worker, seats));
        Ok(())
    }

    /// A name of this number that no process has.
    fn fresh_name(&self, number: usize) -> Name {
        let coming = self.coming.iter().map(|newcomer| newcomer.worker.name);
        let leaving = self.leavers.iter().map(|leaver| leaver.worker.name);
        let taken: Vec<_> =
            self.workers.iter().map(|worker| worker.name).chain(coming).chain(leaving).collect();
        let mut name = Name { number, generation: 1 };
        while taken.contains(&name) {
            name.generation += 1;
        }
        name
    }

    /// Puts a new process in the place of its worker's old one.
    fn replace(&mut self, at: usize) -> Result<()> {
        let Newcomer { worker, seats, .. } = &self.coming[at];
        let number = worker.name.number;
        self.ports.seat(worker, seats.clone(), self.workers.len())?;
        let worker = self.coming.remove(at).worker;
        let old = std::mem::replace(&mut self.workers[number - 1], worker);
        self.leave(old, "the old process of ");
        self.tell(format_args!("worker {number} has a new process; the old one's connections may end"));
        self.look()
    }

    /// Gives all new workers their slots, `count` workers then being there.
    fn welcome(&mut self, count: usize) -> Result<()> {
        for newcomer in &self.coming {
            self.ports.seat(&newcomer.worker, newcomer.seats.clone(), count)?;
        }
        let mut new: Vec<_> = self.coming.drain(..).map(|newcomer| newcomer.worker).collect();
        new.sort_by_key(|worker| worker.name);
        for worker in &new {
            self.tell(format_args!("worker {} serves", worker.name.number));
        }
        self.workers.append(&mut new);
        self.look()
    }

    /// Ends a change that failed: who was coming goes, who was there stays.
    fn give_up(&mut self, why: &str) {
        for newcomer in std::mem::take(&mut self.coming) {
            newcomer.worker.terminate();
            self.leave(newcomer.worker, "the new process of ");
        }
        self.workers.iter_mut().for_each(Worker::resume);
        if let Some(Change { what, asker, .. }) = self.change.take() {
            if matches!(what, What::Reload { .. }) {
                ready();
            }
            asker.failed(format_args!("the run could not be {what}: {why}"));
        }
        // What it had taken of somebody's slot goes back.
        self.ports.look_anew();
        if let Err(error) = self.look() {
            say(format_args!("{error:#}"));
        }
    }

    /// Tells whoever asked for the change, and the log.
    fn tell(&self, text: impl fmt::Display) {
        match &self.change {
            Some(change) => change.asker.tell(text),
            None => say(text),
        }
    }
}

/// `3`, or `3 to 5`.
fn numbers(first: usize, last: usize) -> String {
    if first == last { first.to_string() } else { format!("{first} to {last}") }
}
