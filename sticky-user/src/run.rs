//! `sticky run`: start a pool of workers, steer each port they listen on, and keep them running.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use nix::unistd::User;

use crate::cgroup::Cgroup;
use crate::group::Target;
use crate::kernel::{self, Need};
use crate::pool::Steering;
use crate::pool::id::Protocol;
use crate::refusal::Refusal;
use crate::say::say;
use crate::stop::Stop;
use crate::watch::Watch;

pub mod exec;
mod hooks;
mod output;
mod place;
mod ports;
mod worker;

use hooks::Hooks;
use output::Output;
use place::Place;
use ports::Ports;
use worker::{Event, FAILING, Worker};

/// What `sticky run` is to do.
pub struct Plan {
    /// Number of workers.
    pub workers: usize,
    /// Name of the run.
    pub name: Option<String>,
    /// How to steer the pools.
    pub steering: Steering,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// The user that the workers run as.
    pub user: Option<String>,
    /// Sockets to open and pass to each worker.
    pub listen: Vec<Target>,
    /// What each worker runs.
    pub command: Vec<String>,
}

/// Runs workers until told to stop.
pub fn run(plan: &Plan) -> Result<()> {
    kernel::require(&[Need::Steer, Need::Hook])?;
    plan.check()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut stop = Stop::new()?;
        let mut run = Run::prepare(plan)?;
        let served = run.supervise(&mut stop).await;
        let ended = run.stop(&mut stop).await;
        served.and(ended)
    })
}

impl Plan {
    fn check(&self) -> Result<()> {
        if let Some(udp) = self.listen.iter().find(|target| target.protocol() == Protocol::Udp) {
            let hint = "open UDP sockets in the workers, with SO_REUSEPORT, and use `sticky attach`";
            return Err(
                Refusal::new(format!("`--listen-fds {udp}`: only TCP ports can be passed"), hint).into()
            );
        }
        if let Some(user) = &self.user
            && User::from_name(user)?.is_none()
        {
            return Err(Refusal::new(
                format!("there is no user `{user}`"),
                "`getent passwd` lists the users",
            )
            .into());
        }
        let program = &self.command[0];
        let found = if program.contains('/') {
            Path::new(program).exists()
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|folder| folder.join(program).exists())
        };
        if !found {
            let hint = "check the spelling, install it, or give its full path";
            return Err(Refusal::new(format!("there is no command `{program}`"), hint).into());
        }
        Ok(())
    }

    /// The name of the run: as given, or from the command, with a number that tells folders and arguments apart.
    fn name(&self) -> String {
        if let Some(name) = &self.name {
            return name.replace(['/', '.', ' '], "-");
        }
        let mut hasher = DefaultHasher::new();
        (&self.command, std::env::current_dir().ok(), kernel::network_namespace().ok()).hash(&mut hasher);
        let program = self.command[0].rsplit('/').next().unwrap_or("run");
        format!("{}-{:08x}", program.replace('.', "-"), hasher.finish() as u32)
    }
}

struct Run<'a> {
    plan: &'a Plan,
    workers: Vec<Worker>,
    ports: Ports<'a>,
    watch: Watch,
    place: Place,
    _hooks: Hooks,
    /// Whether a worker of this run ever listened.
    served: bool,
}

impl<'a> Run<'a> {
    /// Sets everything up, adopts workers that outlived an earlier sticky, and starts none yet.
    fn prepare(plan: &'a Plan) -> Result<Self> {
        let place = Place::take(&plan.name())?;
        match Self::settle(plan, &place) {
            Ok((workers, hooks)) => {
                let (ports, watch) = (Ports::new(plan), Watch::new(false));
                Ok(Self { plan, workers, ports, watch, place, _hooks: hooks, served: false })
            }
            Err(error) => {
                // As it was found: with an earlier sticky's workers in it, it stays.
                let _ = place.remove();
                Err(error)
            }
        }
    }

    fn settle(plan: &Plan, place: &Place) -> Result<(Vec<Worker>, Hooks)> {
        let hooks = Hooks::attach(&place.cgroup)?;
        let mut workers = Vec::new();
        let mut adopted = 0;
        for number in 1..=plan.workers {
            let cgroup = place.cgroup.child(&format!("worker-{number}"))?;
            let mut worker = Worker::new(number, cgroup, Output::new(&place.dir, number)?);
            adopted += usize::from(worker.adopt()?);
            workers.push(worker);
        }
        retire(&place.cgroup, plan.workers);
        if adopted > 0 {
            say(format_args!("adopted {adopted} of {} workers that were running", plan.workers));
        }
        Ok((workers, hooks))
    }

    /// Keeps workers and pools going; returns when told to stop, or when there is no use in going on.
    async fn supervise(&mut self, stop: &mut Stop) -> Result<()> {
        self.look()?;
        loop {
            tokio::select! {
                () = self.watch.changed() => self.look()?,
                (at, event) = any_event(&mut self.workers) => match event {
                    Event::Due => if let Err(error) = self.workers[at].start(self.plan) {
                        self.worker_ended(at, &format!("did not start: {error:#}"))?;
                    },
                    Event::Exited(status) => self.worker_ended(at, &worker::describe(status))?,
                },
                () = stop.told() => return Ok(()),
            }
        }
    }

    /// Brings the pools up to date. What may pass is told and tried again; a refusal ends the run.
    fn look(&mut self) -> Result<()> {
        match self.ports.sync(&self.workers, &self.watch.told()) {
            Ok(served) => self.served |= served,
            Err(error) if error.is::<Refusal>() => return Err(error),
            Err(error) => {
                say(format_args!("the pools cannot be brought up to date: {error:#}; trying again"))
            }
        }
        Ok(())
    }

    fn worker_ended(&mut self, at: usize, how: &str) -> Result<()> {
        let worker = &mut self.workers[at];
        let number = worker.number;
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
            for line in worker.output.recent() {
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
                    killed.push(worker.number.to_string());
                }
            }
            self.place.cgroup.kill();
            all_ended(&mut self.workers, &self.place.cgroup).await;
        }
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

/// Ends workers of an earlier run beyond the number that is wanted now.
fn retire(cgroup: &Cgroup, workers: usize) {
    for number in workers + 1.. {
        let Some(surplus) = Cgroup::existing(cgroup.path().join(format!("worker-{number}"))) else { break };
        surplus.terminate();
    }
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
