//! What workers see as the peer of the redirect's connections: the proxy or the client, by hooks on their cgroups.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};

use crate::cgroup::Cgroup;
use crate::group::Member;
use crate::kernel::{self, Need};
use crate::say::say;

const HOOKS: [&str; 2] = ["peer4", "peer6"];

/// The cgroups that have the hooks, for as long as the programs are loaded; by number, as a new one may have the name of
/// one that is gone.
#[derive(Default)]
pub struct Peers {
    hooked: BTreeSet<u64>,
    told: bool,
}

impl Peers {
    /// Hooks the cgroups of all processes that hold `members`. Where that fails, says what workers will see instead.
    pub fn show(&mut self, programs: &mut Ebpf, members: &[Member]) {
        for holder in members.iter().flat_map(|member| &member.holders) {
            if let Err(error) = self.hook(programs, holder.pid)
                && !std::mem::replace(&mut self.told, true)
            {
                say(format_args!(
                    "workers see this host as the peer of redirected connections, not the proxy: {error:#}"
                ));
            }
        }
    }

    fn hook(&mut self, programs: &mut Ebpf, pid: u32) -> Result<()> {
        let cgroup = match Cgroup::of(pid) {
            Ok(cgroup) => cgroup,
            // It has just ended.
            Err(_) if !Path::new("/proc").join(pid.to_string()).exists() => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(id) = cgroup.id().filter(|id| !self.hooked.contains(id)) else { return Ok(()) };
        kernel::require(&[Need::ShowPeers])?;
        let dir = File::open(cgroup.path())?;
        for name in HOOKS {
            let program: &mut CgroupSockAddr = programs
                .program_mut(name)
                .with_context(|| format!("the object has no program `{name}`"))?
                .try_into()?;
            if program.fd().is_err() {
                program.load().map_err(kernel::rejected)?;
            }
            program.attach(&dir, CgroupAttachMode::Single).with_context(|| {
                format!("the hook `{name}` cannot be attached to `{}`", cgroup.path().display())
            })?;
        }
        self.hooked.insert(id);
        Ok(())
    }
}
