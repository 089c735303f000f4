//! The bind hooks on the workers' cgroup. They are in force for as long as this process lives.

use std::fs::File;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};

use crate::cgroup::Cgroup;
use crate::kernel;

/// The attached hooks.
pub struct Hooks {
    _programs: Ebpf,
}

impl Hooks {
    /// Makes the kernel set SO_REUSEPORT on what the processes of `cgroup` and those below it bind.
    pub fn attach(cgroup: &Cgroup) -> Result<Self> {
        let mut programs = kernel::load(&mut kernel::loader(false))?;
        let dir = File::open(cgroup.path())?;
        for name in ["bind4", "bind6"] {
            let program: &mut CgroupSockAddr = programs
                .program_mut(name)
                .with_context(|| format!("the object has no program `{name}`"))?
                .try_into()?;
            program.load().map_err(kernel::rejected)?;
            program.attach(&dir, CgroupAttachMode::Single).with_context(|| {
                format!("the hook `{name}` cannot be attached to `{}`", cgroup.path().display())
            })?;
        }
        Ok(Self { _programs: programs })
    }
}
