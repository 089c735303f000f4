//! `sticky detach`: give a group back to the kernel.

use std::path::Path;

use anyhow::Result;

use crate::group::{self, Target};
use crate::kernel;
use crate::listeners;
use crate::pool::{self, id::PoolId};
use crate::refusal::Refusal;
use crate::say::say;

/// Takes sticky off every pool that `target` names (all, for `None`) and removes their state.
pub fn detach(target: Option<&Target>) -> Result<()> {
    let namespace = kernel::network_namespace()?;
    let wanted = |id: &PoolId| target.is_none_or(|target| target.names(id)) && id.namespace == namespace;
    let pools: Vec<_> = pool::all()?.into_iter().filter(|(id, _)| wanted(id)).collect();
    if pools.is_empty() {
        let what = target.map_or_else(|| "no port".into(), Target::in_words);
        return Err(Refusal::new(
            format!("{what} is steered by sticky in this network namespace"),
            "`sticky status` lists the pools; run it as the user that started them",
        )
        .into());
    }
    for (id, dir) in pools {
        detach_pool(&id, &dir)?;
        say(format_args!("{id} is the kernel's again"));
    }
    Ok(())
}

fn detach_pool(id: &PoolId, dir: &Path) -> Result<()> {
    let _lock = pool::lock(dir, id)?;
    // Detaching through one socket frees the group; a group that died took the program with it.
    for group in group::find(id.protocol, |found| found == id, listeners::processes())? {
        if let Some(member) = group.members.first() {
            pool::detach(member.fetch()?)?;
        }
    }
    pool::remove_dir(dir)
}
