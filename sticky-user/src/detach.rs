//! `sticky detach`: give a group back to the kernel.

use std::path::Path;

use anyhow::Result;

use crate::group::{self, Group, Target};
use crate::kernel;
use crate::listeners;
use crate::pool::{self, id::PoolId};
use crate::refusal::Refusal;
use crate::say::say;

/// Takes sticky off every pool that `target` names and removes its state.
///
/// For `None` these are all of this network namespace, and what was left of others: pools without a socket and
/// without a process that follows them.
pub fn detach(target: Option<&Target>) -> Result<()> {
    let namespace = kernel::network_namespace()?;
    let own = |id: &PoolId| target.is_none_or(|target| target.names(id)) && id.namespace == namespace;
    let mut gone = 0;
    for (id, dir) in pool::directories(own)? {
        detach_pool(&id, &dir)?;
        say(format_args!("{id} is the kernel's again"));
        gone += 1;
    }
    if target.is_none() {
        for (id, dir, pins) in pool::read(|id| id.namespace != namespace)? {
            if pins.cookies()?.iter().all(Option::is_none)
                && let Ok(_lock) = pool::lock(&dir, &id)
            {
                pool::remove_dir(&dir)?;
                say(format_args!("{id} of another network namespace had no worker left and is forgotten"));
                gone += 1;
            }
        }
    }
    if gone == 0 {
        let what = target.map_or_else(
            || "there is no pool in this network namespace".into(),
            |target| format!("{} is steered by nobody here", target.in_words()),
        );
        return Err(
            Refusal::new(what, "`sticky status` lists the pools, those of other namespaces too").into()
        );
    }
    Ok(())
}

fn detach_pool(id: &PoolId, dir: &Path) -> Result<()> {
    let _lock = pool::lock(dir, id)?;
    for group in group::find(id.protocol, |found| found == id, listeners::processes)? {
        release(&group)?;
    }
    pool::remove_dir(dir)
}

/// Takes the program off a group, through any of its sockets; a group that died took the program with it.
pub fn release(group: &Group) -> Result<()> {
    let mut released = Ok(());
    for member in &group.members {
        released = member.fetch().and_then(pool::detach);
        match &released {
            Ok(()) => break,
            Err(error) if group::is_gone(error) => released = Ok(()),
            Err(_) => {}
        }
    }
    released
}
