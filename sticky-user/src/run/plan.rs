//! What `sticky run` is to do, and whether it can be.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use nix::unistd::User;

use super::check::ReadyHttp;
use crate::control::folder_name;
use crate::group::Target;
use crate::kernel;
use crate::pool::Steering;
use crate::pool::id::Protocol;
use crate::refusal::Refusal;

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
    /// How long the connections of a worker that gets no new ones may go on.
    pub drain: Duration,
    /// What a new worker must answer before it takes another's place, besides listening.
    pub ready_http: Option<ReadyHttp>,
    /// How long a new worker may take to be ready.
    pub ready_timeout: Duration,
    /// The user that the workers run as.
    pub user: Option<String>,
    /// Sockets to open and pass to each worker.
    pub listen: Vec<Target>,
    /// What each worker runs.
    pub command: Vec<String>,
}

impl Plan {
    /// Refuses what cannot be done.
    pub fn check(&self) -> Result<()> {
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
    pub fn name(&self) -> String {
        if let Some(name) = &self.name {
            return folder_name(name);
        }
        let mut hasher = DefaultHasher::new();
        (&self.command, std::env::current_dir().ok(), kernel::network_namespace().ok()).hash(&mut hasher);
        let program = self.command[0].rsplit('/').next().unwrap_or("run");
        format!("{}-{:08x}", program.replace('.', "-"), hasher.finish() as u32)
    }
}
