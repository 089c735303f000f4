//! Another sticky takes the run over while it serves: a process of another program with the same arguments, which
//! inherits the locks, adopts workers and pools, and says when it has.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;

use super::control::Asker;
use super::worker::describe;
use super::{Run, TICK, aside};
use crate::inherit::{self, Heir, READY};
use crate::redirect;
use crate::say::{main_process, say};
use crate::stop::Stop;

/// How long a successor may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one that failed may take to end by itself, which tells more.
const FAREWELL: Duration = Duration::from_secs(2);

/// The process that is about to take the run over.
pub struct Successor {
    child: Child,
    word: Receiver,
    /// What it has said.
    said: Vec<u8>,
    until: Instant,
    asker: Asker,
}

impl Successor {
    /// Ends it.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Returns when it has taken over; an error says why it will not.
    pub async fn outcome(&mut self) -> Result<(), String> {
        let said = async {
            while self.word.read_buf(&mut self.said).await? > 0 {}
            io::Result::Ok(())
        };
        let in_time = tokio::time::timeout_at(self.until, said).await;
        if self.said == READY {
            return Ok(());
        }
        // What does not speak to us any more mostly is about to end.
        let begin = Instant::now();
        while in_time.is_ok() && matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < FAREWELL {
            tokio::time::sleep(TICK).await;
        }
        let _ = self.child.kill();
        let how = describe(self.child.wait().ok());
        Err(match in_time {
            Err(_) => format!("it did not take over within {PATIENCE:?}"),
            Ok(_) if self.said.is_empty() => format!("it {how}"),
            Ok(_) => String::from_utf8_lossy(&self.said).into_owned(),
        })
    }
}

impl Run<'_> {
    /// Starts a successor, or refuses to. Until it is known what becomes of it, this process only waits.
    pub(super) fn upgrade(&mut self, binary: &Path, asker: Asker) {
        if let Some(busy) = self.busy() {
            return asker.refuse(busy, "wait until that is done");
        }
        if std::process::id() == 1 {
            return asker.refuse(
                "the run is the first process of its container, which would end with it",
                "start another container in its place",
            );
        }
        let executable =
            binary.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        if !executable {
            return asker.refuse(
                format_args!("`{}` is no program", binary.display()),
                "give the path of another `sticky` with `--binary`",
            );
        }
        asker.tell(format_args!("`{}` is to take the run over", binary.display()));
        // Of two that read a worker's output, each would get parts of it.
        self.workers.iter_mut().for_each(|worker| worker.output.pause());
        self.leavers.iter_mut().for_each(|leaver| leaver.worker.output.pause());
        match self.spawn(binary) {
            Ok((child, word)) => {
                let until = Instant::now() + PATIENCE;
                self.successor = Some(Successor { child, word, said: Vec::new(), until, asker });
            }
            Err(error) => {
                self.go_on();
                asker.failed(format_args!("`{}` cannot be started: {error:#}", binary.display()));
            }
        }
    }

    fn spawn(&self, binary: &Path) -> Result<(Child, Receiver)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let mut locks = self.ports.locks();
        locks.push((self.place.dir.clone(), &self.place.lock));
        let mut command = Command::new(binary);
        command.args(std::env::args_os().skip(1));
        let passed = inherit::bequeath(&mut command, self.workers.len(), &locks, write)?;
        let child = command.spawn()?;
        drop(passed);
        Ok((child, Receiver::from_owned_fd(read)?))
    }

    /// The successor failed: this process goes on.
    pub(super) fn stay(&mut self, why: &str) {
        if let Some(Successor { asker, .. }) = self.successor.take() {
            self.go_on();
            asker.failed(format_args!("the run was not upgraded, and goes on as it was: {why}"));
        }
    }

    fn go_on(&mut self) {
        for worker in self.workers.iter_mut().chain(self.leavers.iter_mut().map(|leaver| &mut leaver.worker))
        {
            if let Err(error) = worker.output.resume() {
                say(format_args!("what worker {} prints is lost: {error:#}", worker.name));
            }
        }
        if let Err(error) = self.ports.reclaim().and_then(|()| inherit::sign(&self.place.lock)) {
            say(format_args!("the pools may be steered by a program that is not ours: {error:#}"));
        }
        main_process();
        self.control.reopen(&self.place.dir);
    }

    /// The successor has taken over: lets this process's connections of proxies end.
    pub(super) async fn bow_out(mut self, stop: &mut Stop) -> Result<()> {
        let redirects = self.ports.take_redirects();
        if let Some(Successor { child, asker, .. }) = self.successor.take() {
            asker.done(format_args!("the run goes on with process {}", child.id()));
        }
        self.control.finish().await;
        // With them go this process's locks.
        drop(self);
        tokio::select! {
            () = redirect::close(redirects) => {}
            // Told to stop: at once.
            () = stop.told() => {}
        }
        Ok(())
    }

    /// Takes a run over from the process that started this one.
    pub(super) fn succeed(&mut self) -> Result<()> {
        let aside = aside(&self.coming, &self.leavers);
        let synced = self.ports.sync(&self.workers, &aside, &self.watch.told());
        self.served = synced.context("the pools cannot be taken over")?;
        self.ports.sign()?;
        inherit::sign(&self.place.lock)
    }
}

/// Tells the process before this one that it may go.
pub fn announce(heir: Heir) -> Result<()> {
    main_process();
    heir.ready().context("the process before this one does not listen")
}
