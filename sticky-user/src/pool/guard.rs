//! What keeps a pool as it is to be while a process follows it: its program on its group, and its files in their place.
//!
//! Any holder of a group's socket may take the program off, or put another in its place, and root may remove files. Where
//! the kernel tells who did it ([`Told`]), that is said; and in any case the program is attached again twice a second, which
//! costs little and changes nothing where it is in its place.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::programs::links::FdLink;
use rustix::fs::fstat;
use sticky_ebpf::abi::{Repair, maps};

use super::pins::CHANGING;
use super::{PIN, Pool, counting, lock, remove_files, steer};
use crate::group::{self, Member};
use crate::kernel;
use crate::say::{Seldom, Trouble, say};
use crate::watch::{Deed, Told};

/// How often the program is attached again untold, at every look nobody asked for: the kernel's word can be missing.
const UNTOLD: Duration = Duration::from_millis(400);
/// How long to wait after the kernel's word, which comes just before it is done.
const DONE: Duration = Duration::from_millis(5);
/// The least time between two repairs: another tool may do the same as we.
const PAUSE: Duration = Duration::from_millis(100);

/// What is known of the pool's being meddled with.
#[derive(Default)]
pub struct Guard {
    /// The sockets in slots, as last seen.
    members: Vec<Member>,
    /// Whose doing the program is attached again for.
    culprit: Option<Deed>,
    /// When to attach it again; at once, at first.
    due: Option<Instant>,
    /// When it was last done.
    last: Option<Instant>,
    repairs: Seldom,
    trouble: Trouble,
}

impl Pool {
    /// The sockets that sit in slots, through which the program can be attached again.
    pub(super) fn watch_over<'a>(&mut self, members: impl Iterator<Item = &'a Member>) {
        self.guard.members = members.cloned().collect();
    }

    /// Puts right what somebody meddled with. What goes wrong is told, and tried again the next time.
    pub fn guard(&mut self, told: &Told) {
        let files = self.keep_files();
        let failed = self.keep_program(told).and(files).err();
        self.guard.trouble.is(failed.map(|error| format!("{}: {error:#}", self.id)));
    }

    fn keep_program(&mut self, told: &Told) -> Result<()> {
        let now = Instant::now();
        let guard = &mut self.guard;
        if let Some(culprit) = told.tampering(&self.id) {
            guard.culprit.get_or_insert_with(|| culprit.clone());
            let soonest = guard.last.map_or(now, |last| now.max(last + PAUSE)) + DONE;
            guard.due = Some(guard.due.map_or(soonest, |due| due.min(soonest)));
        }
        if guard.due.is_some_and(|due| due > now) {
            return Ok(());
        }
        let Some(socket) = guard.socket()? else { return Ok(()) };
        // Once more soon: a process that was stopped in the middle does it later than that.
        let wait = if guard.culprit.is_some() { PAUSE } else { UNTOLD };
        (guard.last, guard.due) = (Some(now), Some(now + wait));
        self.attach(socket).context("the program cannot be attached again")?;
        if let Some(culprit) = self.guard.culprit.take() {
            self.guard.repairs.say(format_args!("{}: {culprit}; attached again", self.id));
            self.pins.count_repair(Repair::Attached)?;
        }
        Ok(())
    }

    /// Whether the pool's directory is the one that this process holds the lock of.
    pub(super) fn has_directory(&self) -> bool {
        let (there, locked) = (rustix::fs::stat(&self.dir), fstat(&self.lock));
        matches!((there, locked), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }

    fn keep_files(&mut self) -> Result<()> {
        let gone = !self.has_directory();
        if gone {
            kernel::ensure_bpffs()?;
            fs::create_dir_all(&self.dir).context("its directory is gone and cannot be made again")?;
            self.lock = lock(&self.dir, &self.id)?;
            // Left by another that began here meanwhile, and did not get the sockets, which are in our slots.
            remove_files(&self.dir)?;
        }
        if !self.dir.join(CHANGING).exists() {
            self.pins.lock_anew(&self.dir)?;
        }
        let counting = self.counting.as_ref().map(|_| counting::PIN);
        let names = maps::PINNED.iter().rev().map(|(name, ..)| *name).chain([PIN]).chain(counting);
        let missing: Vec<_> = names.filter(|name| !self.dir.join(name).exists()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for name in &missing {
            self.pin(name).with_context(|| format!("`{name}` is missing and cannot be pinned again"))?;
        }
        let dir = self.dir.display();
        if gone {
            say(format_args!("{}: somebody removed `{dir}`; made again", self.id));
        } else {
            let names: Vec<_> = missing.iter().map(|name| format!("`{name}`")).collect();
            say(format_args!(
                "{}: somebody removed {} from `{dir}`; pinned again",
                self.id,
                names.join(", ")
            ));
        }
        self.pins.count_repair(Repair::Pinned)
    }

    /// Pins what has this name in the pool's directory.
    fn pin(&mut self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        if name == PIN {
            return Ok(steer(&mut self.program, &self.steering)?.pin(path)?);
        }
        if name == counting::PIN
            && let Some(link) = self.counting.take()
        {
            self.counting = Some(FdLink::from(link).pin(path)?);
            return Ok(());
        }
        Ok(self.program.map(name).context("the object has no such map")?.pin(path)?)
    }
}

impl Guard {
    /// A socket of the group; `None` when all that were known have gone.
    fn socket(&self) -> Result<Option<OwnedFd>> {
        let mut failed = Ok(None);
        for member in &self.members {
            match member.fetch() {
                Ok(socket) => return Ok(Some(socket)),
                Err(error) if group::is_gone(&error) => {}
                Err(error) => failed = Err(error),
            }
        }
        failed
    }
}
