//! Where a run lives: its folder in `/run/sticky`, with the workers' pipes and a link to its cgroup. Whoever has the
//! folder locked is the run; a folder that nobody has locked was left by a sticky that was killed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::control::RUNS;
use crate::inherit;
use crate::refusal::Refusal;

/// The link to the cgroup.
const CGROUP: &str = "cgroup";

/// A run's folder and cgroup, locked by this process.
pub struct Place {
    /// The folder.
    pub dir: PathBuf,
    /// The cgroup of all the run's processes.
    pub cgroup: Cgroup,
    /// Its lock.
    pub lock: OwnedFd,
}

impl Place {
    /// The place of the run `name`, with what an earlier sticky left there; refused while another one is there.
    pub fn take(name: &str) -> Result<Self> {
        let parent = Cgroup::own()?;
        sweep();
        let dir = Path::new(RUNS).join(name);
        let lock = loop {
            if let Some(lock) = inherit::lock(&dir) {
                break lock;
            }
            make(&dir).with_context(|| format!("`{}` cannot be created", dir.display()))?;
            match lock(&dir) {
                Ok(Some(lock)) => break lock.into(),
                // Swept away between the two.
                Ok(None) => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(Refusal::new(
                        format!("the run `{name}` is active already"),
                        "stop that one first, or give this one another name with `--name`",
                    )
                    .into());
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("`{}` cannot be locked", dir.display()));
                }
            }
        };
        match cgroup(&dir, &parent, name) {
            Ok(cgroup) => Ok(Self { dir, cgroup, lock }),
            Err(error) => {
                remove_dir(&dir);
                Err(error)
            }
        }
    }

    /// Removes folder and cgroup, once the workers are gone.
    pub fn remove(self) -> Result<()> {
        let cgroup = self.cgroup.remove();
        cgroup.with_context(|| format!("`{}` cannot be removed", self.cgroup.path().display()))?;
        remove_dir(&self.dir);
        Ok(())
    }
}

/// The cgroup that an earlier sticky made for this run, if it is still there, else a new one.
fn cgroup(dir: &Path, parent: &Cgroup, name: &str) -> Result<Cgroup> {
    let link = dir.join(CGROUP);
    if let Some(cgroup) = fs::read_link(&link).ok().and_then(Cgroup::existing) {
        return Ok(cgroup);
    }
    let cgroup = parent.child(&format!("sticky-{name}"))?;
    let _ = fs::remove_file(&link);
    symlink(cgroup.path(), &link)?;
    Ok(cgroup)
}

/// Removes what is left of runs whose sticky was killed and whose workers have ended since.
fn sweep() {
    for entry in fs::read_dir(RUNS).into_iter().flatten().flatten() {
        let dir = entry.path();
        let Ok(Some(_lock)) = lock(&dir) else { continue };
        let left = fs::read_link(dir.join(CGROUP)).ok().and_then(Cgroup::existing);
        // Fails while there are processes in it, whom the next run of the name is to find.
        if left.is_none_or(|cgroup| cgroup.remove().is_ok()) {
            remove_dir(&dir);
        }
    }
}

/// The lock on a folder; `None` when the folder was removed meanwhile.
fn lock(dir: &Path) -> Result<Option<File>, Errno> {
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let file = match File::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(errno)?,
    };
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let locked = file.metadata().map_err(errno)?.ino();
    Ok(fs::metadata(dir).is_ok_and(|there| there.ino() == locked).then_some(file))
}

/// Makes a folder that only its owner gets into.
fn make(dir: &Path) -> io::Result<()> {
    loop {
        fs::create_dir_all(RUNS)?;
        match DirBuilder::new().mode(0o700).create(dir) {
            // The last other run has ended between the two.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => return Ok(()),
        }
    }
}

fn remove_dir(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
    // Fails while there are other runs, as it should.
    let _ = fs::remove_dir(RUNS);
}
