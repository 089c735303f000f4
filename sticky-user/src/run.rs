//! `sticky run`: start a pool of workers, steer each port they listen on, and keep them running.

use std::time::Duration;

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cgroup::Cgroup;
use crate::control::Request;
use crate::inherit::Heir;
use crate::kernel::{self, Need};
use crate::refusal::Refusal;
use crate::say::{Trouble, say};
use crate::stop::Stop;
use crate::watch::Watch;

mod adopt;
mod change;
pub mod check;
mod coming;
mod control;
pub mod exec;
mod hooks;
mod leaving;
mod orphans;
mod output;
mod place;
mod plan;
mod ports;
mod upgrade;
mod worker;

use adopt::Crew;
use change::Change;
use coming::Newcomer;
use control::{Asker, Control, Order};
use hooks::Hooks;
use leaving::Leaver;
use orphans::Orphans;
use place::Place;
pub use plan::Plan;
use ports::Ports;
use upgrade::Successor;
use worker::{Event, FAILING, Worker};

/// Runs workers until told to stop.
pub fn run(plan: &Plan) -> Result<()> {
    let heir = Heir::this()?;
    kernel::require(&[Need::Steer, Need::Hook])?;
    plan.check()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut stop = Stop::new(false)?;
        let mut reload = signal(SignalKind::hangup())?;
        let mut run = match heir {
            None => Run::prepare(plan, None)?,
            Some(heir) => Run::inherit(plan, heir)?,
        };
        match run.supervise(&mut stop, &mut reload).await {
            Ok(End::Succeeded) => run.bow_out(&mut stop).await,
            Err(error) if run.adopted && !run.served && error.is::<Refusal>() => {
                say("the workers go on, as they were found");
                Err(error)
            }
            served => {
                let ended = run.stop(&mut stop).await;
                served.and(ended)
            }
        }
    })
}

/// Why a run is over for this process.
enum End {
    /// It was told to stop.
    Told,
    /// Another process has taken it over.
    Succeeded,
}

struct Run<'a> {
    plan: &'a Plan,
    workers: Vec<Worker>,
    ports: Ports<'a>,
    watch: Watch,
    place: Place,
    control: Control,
    /// New workers that do not serve yet.
    coming: Vec<Newcomer>,
    /// Old ones that serve no more.
    leavers: Vec<Leaver>,
    /// What is being changed.
    change: Option<Change>,
    /// Who is about to take the run over.
    successor: Option<Successor>,
    orphans: Orphans,
    _hooks: Hooks,
    /// Whether workers were running when it began.
    adopted: bool,
    /// Whether a worker of this run ever listened.
    served: bool,
    trouble: Trouble,
}

impl<'a> Run<'a> {
    /// Sets everything up, adopts workers that outlived an earlier sticky, and starts none yet. There are as many as the
    /// plan says, or as the process before this one had.
    fn prepare(plan: &'a Plan, inherited: Option<usize>) -> Result<Self> {
        let place = Place::take(&plan.name())?;
        match Self::settle(plan, &place, inherited.unwrap_or(plan.workers)) {
            Ok((crew, hooks)) => Ok(Self::new(plan, place, crew, hooks)),
            Err(error) => {
                // As it was found: with an earlier sticky's workers in it, it stays.
                if inherited.is_none() {
                    let _ = place.remove();
                }
                Err(error)
            }
        }
    }

    fn settle(plan: &Plan, place: &Place, count: usize) -> Result<(Crew, Hooks)> {
        let hooks = Hooks::attach(&place.cgroup)?;
        let crew = Crew::muster(place, count)?;
        if crew.adopted > 0 {
            say(format_args!("adopted {} of {count} workers that were running", crew.adopted));
        }
        if !crew.leaving.is_empty() {
            let many = crew.leaving.len();
            say(format_args!(
                "{many} more processes were running, which end when their connections have, or after {:?}",
                plan.drain
            ));
        }
        Ok((crew, hooks))
    }

    fn new(plan: &'a Plan, place: Place, crew: Crew, hooks: Hooks) -> Self {
        let leavers = crew.leaving.into_iter().map(|worker| {
            let who = format!("the other process of worker {}", worker.name.number);
            Leaver::new(worker, who, plan.drain, plan.grace)
        });
        Self {
            plan,
            workers: crew.workers,
            ports: Ports::new(plan, crew.surplus),
            watch: Watch::start(),
            control: Control::open(&place.dir),
            place,
            coming: Vec::new(),
            leavers: leavers.collect(),
            change: None,
            successor: None,
            orphans: Orphans::default(),
            _hooks: hooks,
            adopted: crew.adopted > 0,
            served: false,
            trouble: Trouble::default(),
        }
    }

    /// Takes a run over from the process that started this one, and tells it.
    fn inherit(plan: &'a Plan, heir: Heir) -> Result<Self> {
        let taken = Self::prepare(plan, Some(heir.workers)).and_then(|mut run| run.succeed().map(|()| run));
        match taken {
            Ok(run) => upgrade::announce(heir).map(|()| run),
            Err(error) => {
                heir.failed(&format!("{error:#}"));
                Err(error)
            }
        }
    }

    /// Keeps workers and pools going; returns when told to stop, or when there is no use in going on.
    async fn supervise(&mut self, stop: &mut Stop, reload: &mut Signal) -> Result<End> {
        self.look()?;
        loop {
            if let Some(successor) = &mut self.successor {
                // Two that look after the same workers would be in each other's way.
                tokio::select! {
                    outcome = successor.outcome() => match outcome {
                        Ok(()) => return Ok(End::Succeeded),
                        Err(why) => {
                            self.stay(&why);
                            self.look()?;
                        }
                    },
                    order = self.control.order() => self.take(order),
                    () = stop.told() => {
                        successor.end();
                        self.stay("it is to stop");
                        return Ok(End::Told);
                    }
                }
                continue;
            }
            let busy = self.change.is_some() || !self.leavers.is_empty();
            tokio::select! {
                () = self.watch.changed() => self.look()?,
                (at, event) = any_event(&mut self.workers) => self.happened(at, event)?,
                order = self.control.order() => self.take(order),
                _ = reload.recv() => {
                    let request = Request::Reload { parallel: 1, dry_run: false };
                    self.take(Order { request, asker: Asker::nobody() });
                }
                () = pause(busy) => {}
                () = stop.told() => return Ok(End::Told),
            }
            self.step();
        }
    }

    fn happened(&mut self, at: usize, event: Event) -> Result<()> {
        let number = self.workers[at].name.number;
        match event {
            // The one that is coming will be the worker.
            Event::Due if self.is_awaited(number) => self.workers[at].stop(),
            Event::Exited(status) if self.is_awaited(number) => {
                say(format_args!("the old process of worker {number} {}", worker::describe(status)));
                self.workers[at].stop();
            }
            Event::Due => {
                if let Err(error) = self.workers[at].start(self.plan) {
                    self.worker_ended(at, &format!("did not start: {error:#}"))?;
                }
            }
            Event::Exited(status) => self.worker_ended(at, &worker::describe(status))?,
        }
        Ok(())
    }

    /// Brings the pools up to date. What goes wrong is told and tried again; a refusal ends a run that never served.
    fn look(&mut self) -> Result<()> {
        self.orphans.reap();
        let aside = aside(&self.coming, &self.leavers);
        match self.ports.sync(&self.workers, &aside, &self.watch.told()) {
            Ok(served) => {
                self.served |= served;
                self.trouble.is(None);
            }
            Err(error) if error.is::<Refusal>() && !self.served => return Err(error),
            Err(error) => {
                self.trouble.is(Some(format!("the pools cannot be brought up to date: {error:#}")));
            }
        }
        Ok(())
    }

    fn worker_ended(&mut self, at: usize, how: &str) -> Result<()> {
        let worker = &mut self.workers[at];
        let number = worker.name.number;
        let leftovers = !worker.cgroup.processes().is_empty();
        let delay = worker.ended();
        let again = if delay.is_zero() { "again now".into() } else { format!("again in {delay:?}") };
        say(format_args!("worker {number} {how}; starting it {again}"));
        if leftovers {
            say(format_args!(
                "worker {number} left processes behind, which are ended: a worker's command must stay in the foreground"
            ));
        }
        if worker.failures == FAILING {
            say(format_args!(
                "worker {number} keeps failing ({FAILING} times in a row); the others serve its clients. Its last output:"
            ));
            for line in worker.output.last_words() {
                say(format_args!("  {line}"));
            }
        }
        if !self.served && self.workers.iter().all(|worker| worker.failures >= FAILING) {
            anyhow::bail!("no worker ever listened, and all keep failing; the last one {how}");
        }
        Ok(())
    }

    /// Lets the proxies' connections end, then the workers: SIGTERM, the grace period, SIGKILL.
    async fn stop(mut self, stop: &mut Stop) -> Result<()> {
        if let Some(change) = self.change.take() {
            change.abandon("it is to stop");
        }
        self.workers.extend(self.coming.drain(..).map(|newcomer| newcomer.worker));
        self.workers.extend(self.leavers.drain(..).map(|leaver| leaver.worker));
        tokio::select! {
            () = self.ports.close_redirects() => {}
            // Told twice: at once.
            () = stop.told() => {}
        }
        say(format_args!(
            "stopping {} workers",
            self.workers.iter().filter(|worker| worker.is_running()).count()
        ));
        for worker in &self.workers {
            worker.terminate();
        }
        let in_time = tokio::select! {
            () = all_ended(&mut self.workers, &self.place.cgroup) => true,
            () = tokio::time::sleep(self.plan.grace) => false,
            // Told twice: at once.
            () = stop.told() => false,
        };
        let mut killed = Vec::new();
        if !in_time {
            for worker in &self.workers {
                if !worker.cgroup.processes().is_empty() {
                    killed.push(worker.name.to_string());
                }
            }
            self.place.cgroup.kill();
            all_ended(&mut self.workers, &self.place.cgroup).await;
        }
        self.control.finish().await;
        self.ports.remove()?;
        for worker in self.workers {
            worker.output.finish();
        }
        self.place.remove()?;
        if killed.is_empty() {
            return Ok(());
        }
        anyhow::bail!("killed after the grace period of {:?}: worker {}", self.plan.grace, killed.join(", "))
    }
}

/// Those who serve not yet, or no more.
fn aside<'a>(coming: &'a [Newcomer], leavers: &'a [Leaver]) -> Vec<&'a Worker> {
    let coming = coming.iter().map(|newcomer| &newcomer.worker);
    coming.chain(leavers.iter().map(|leaver| &leaver.worker)).collect()
}

/// How often is looked how far a change is.
const TICK: Duration = Duration::from_millis(50);

/// Returns a moment later, or never.
async fn pause(moment: bool) {
    if moment { tokio::time::sleep(TICK).await } else { std::future::pending().await }
}

/// The next event of any worker, and which worker's.
async fn any_event(workers: &mut [Worker]) -> (usize, Event) {
    let mut events: Vec<_> = workers.iter_mut().map(|worker| Box::pin(worker.event())).collect();
    std::future::poll_fn(|context| {
        for (at, event) in events.iter_mut().enumerate() {
            if let std::task::Poll::Ready(event) = event.as_mut().poll(context) {
                return std::task::Poll::Ready((at, event));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// Returns when no worker has a process left, nor the run's cgroup.
async fn all_ended(workers: &mut [Worker], cgroup: &Cgroup) {
    for worker in workers.iter_mut().filter(|worker| !worker.is_running()) {
        worker.stop();
    }
    while workers.iter().any(Worker::is_running) {
        let (at, _) = any_event(workers).await;
        workers[at].stop();
    }
    cgroup.emptied().await;
}
