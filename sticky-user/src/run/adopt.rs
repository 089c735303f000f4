//! Whom an earlier sticky left behind: the workers, and others that were about to come or to go.

use anyhow::Result;

use super::place::Place;
use super::ports::is_seated;
use super::worker::{Name, Worker};
use crate::cgroup::Cgroup;

/// The workers of a run, as they are found.
pub struct Crew {
    /// One for each number, those that run already among them.
    pub workers: Vec<Worker>,
    /// How many run already.
    pub adopted: usize,
    /// Processes that serve no more, or never did.
    pub leaving: Vec<Worker>,
    /// Whether there were more workers than there are to be.
    pub surplus: bool,
}

impl Crew {
    /// Finds `count` workers. The worker of a number is whoever's socket is in its slot.
    pub fn muster(place: &Place, count: usize) -> Result<Self> {
        let (mut found, mut crew) = (running(place)?, Self::empty());
        crew.surplus = found.iter().any(|worker| worker.name.number > count);
        for number in 1..=count {
            let mut candidates =
                found.extract_if(.., |worker| worker.name.number == number).collect::<Vec<_>>();
            let mut current = None;
            for (at, candidate) in candidates.iter().enumerate() {
                if is_seated(candidate)? {
                    current = Some(at);
                }
            }
            // Where nobody is, the youngest may yet be; the others have had their time.
            let current = current.or(candidates.len().checked_sub(1)).map(|at| candidates.remove(at));
            crew.adopted += usize::from(current.is_some());
            crew.workers.push(match current {
                Some(worker) => worker,
                None => Worker::new(Name { number, generation: 1 }, place)?,
            });
            crew.leaving.append(&mut candidates);
        }
        crew.leaving.append(&mut found);
        Ok(crew)
    }

    fn empty() -> Self {
        Self { workers: Vec::new(), adopted: 0, leaving: Vec::new(), surplus: false }
    }
}

/// All workers of the run with a process, in the order of their names. Empty cgroups are removed.
fn running(place: &Place) -> Result<Vec<Worker>> {
    let mut names: Vec<_> = place.cgroup.children().iter().filter_map(|name| Name::of_cgroup(name)).collect();
    names.sort();
    let mut found = Vec::new();
    for name in names {
        let Some(cgroup) = Cgroup::existing(place.cgroup.path().join(name.cgroup())) else { continue };
        if cgroup.remove().is_ok() {
            continue;
        }
        let mut worker = Worker::new(name, place)?;
        if worker.adopt()? {
            found.push(worker);
        }
    }
    Ok(found)
}
