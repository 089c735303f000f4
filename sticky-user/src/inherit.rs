//! What a sticky takes over from the one before it while that one still runs: its locks, by descriptors it inherits.
//!
//! A lock belongs to the open file that the descriptors share, so it is never free in between.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

use crate::kernel;
use crate::sys;

/// The environment variable that tells which descriptor is what.
pub const VARIABLE: &str = "STICKY_INHERIT";
/// What the heir says when it has taken over.
pub const READY: &[u8] = b"ready";

#[derive(Serialize, Deserialize)]
struct Will {
    /// How many workers there are.
    workers: usize,
    /// The soft limit of descriptors that the run was started with, if it was raised.
    descriptors: Option<u64>,
    /// The locks, by what they lock.
    locks: BTreeMap<PathBuf, RawFd>,
    /// The end of a pipe to speak into.
    word: RawFd,
}

/// Makes the process of `command` the heir of these locks. What is returned must live until it has started.
pub fn bequeath(
    command: &mut Command,
    workers: usize,
    locks: &[(PathBuf, &OwnedFd)],
    word: OwnedFd,
) -> Result<Vec<OwnedFd>> {
    let mut passed = vec![word];
    let mut will = Will {
        workers,
        descriptors: kernel::original_descriptors(),
        locks: BTreeMap::new(),
        word: passed[0].as_raw_fd(),
    };
    for (path, lock) in locks {
        let lock = lock.try_clone()?;
        will.locks.insert(path.clone(), lock.as_raw_fd());
        passed.push(lock);
    }
    for descriptor in &passed {
        fcntl_setfd(descriptor, FdFlags::empty())?;
    }
    command.env(VARIABLE, serde_json::to_string(&will)?);
    Ok(passed)
}

/// Locks that were inherited and not yet asked for.
static LOCKS: Mutex<BTreeMap<PathBuf, OwnedFd>> = Mutex::new(BTreeMap::new());

/// Who is to take a run over.
pub struct Heir {
    /// How many workers there are.
    pub workers: usize,
    word: File,
}

impl Heir {
    /// This process, if it is one.
    pub fn this() -> Result<Option<Self>> {
        let Some(will) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let context = || format!("the environment variable `{VARIABLE}` is not what another sticky sets");
        let will: Will = serde_json::from_slice(will.as_encoded_bytes()).with_context(context)?;
        kernel::limit_descriptors(will.descriptors);
        let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, descriptor) in will.locks {
            let lock = File::from(sys::inherited(descriptor).with_context(context)?);
            ensure!(lock.metadata()?.ino() == fs::metadata(&path)?.ino(), context());
            locks.insert(path, lock.into());
        }
        Ok(Some(Self {
            workers: will.workers,
            word: sys::inherited(will.word).with_context(context)?.into(),
        }))
    }

    /// Tells the one before that it may go.
    pub fn ready(mut self) -> io::Result<()> {
        self.word.write_all(READY)
    }

    /// Tells it that it must stay, and why.
    pub fn failed(mut self, why: &str) {
        let _ = self.word.write_all(why.as_bytes());
    }
}

/// The lock on `path`, if this process inherited it.
pub fn lock(path: &Path) -> Option<OwnedFd> {
    LOCKS.lock().unwrap_or_else(PoisonError::into_inner).remove(path)
}

/// Makes this process the one that is named as the lock's holder. The kernel notes who locked last, and only for a lock
/// of another kind; while it is shared, nobody else gets it exclusively.
pub fn sign(lock: impl AsFd) -> Result<()> {
    flock(&lock, FlockOperation::NonBlockingLockShared)?;
    Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive)?)
}
