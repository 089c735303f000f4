//! A worker's first moments: the hidden command that `sticky run` starts in place of the worker, and that becomes it.
//!
//! What must happen in the new process, before the worker's own code, happens here in ordinary code instead of
//! between fork and exec.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::unistd::{User, initgroups, setgid, setuid};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::group::Target;

/// The first descriptor of systemd's socket activation, sd_listen_fds(3).
const LISTEN_FDS_START: i32 = 3;

/// Joins the cgroup, opens the sockets, becomes the user, and then the command. Returns only with the error.
pub fn become_worker(
    cgroup: &Path,
    user: Option<&str>,
    sockets: &[Target],
    command: &[String],
) -> anyhow::Error {
    match prepare(cgroup, user, sockets, command) {
        Ok((mut command, sockets)) => {
            let error = command.exec();
            drop(sockets);
            anyhow!("`{}` cannot be run: {error}", command.get_program().to_string_lossy())
        }
        Err(error) => error,
    }
}

fn prepare(
    cgroup: &Path,
    user: Option<&str>,
    sockets: &[Target],
    words: &[String],
) -> Result<(Command, Vec<OwnedFd>)> {
    let procs = cgroup.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("`{}` cannot be written", procs.display()))?;

    let (program, arguments) = words.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(arguments);
    let sockets = sockets
        .iter()
        .zip(LISTEN_FDS_START..)
        .map(|(target, fd)| open(target, fd))
        .collect::<Result<Vec<_>>>()?;
    if !sockets.is_empty() {
        command
            .env("LISTEN_FDS", sockets.len().to_string())
            .env("LISTEN_PID", std::process::id().to_string());
    }
    if let Some(name) = user {
        become_user(name)?;
    }
    disown().context("what sticky has rights for cannot be kept from the worker")?;
    Ok((command, sockets))
}

/// A listening socket with SO_REUSEPORT as descriptor `fd`, which stays open across exec.
fn open(target: &Target, fd: i32) -> Result<OwnedFd> {
    let six = Path::new("/proc/net/if_inet6").exists();
    let ip =
        target.ip().unwrap_or(if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() });
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::empty(), None)?;
    if socket.as_raw_fd() != fd {
        bail!("descriptor {fd} is taken; the command would get the wrong socket");
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    if family == AddressFamily::INET6 && ip.is_unspecified() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &SocketAddr::new(ip, target.port()))
        .with_context(|| format!("{target} cannot be bound"))?;
    listen(&socket, 4096).with_context(|| format!("{target} cannot be listened on"))?;
    Ok(socket)
}

/// Keeps what sticky alone needs from the command, which would have it where a supervisor gave it as ambient capabilities:
/// what may not be inherited is not ambient any more either, capabilities(7).
fn disown() -> Result<()> {
    use CapabilitySet as C;
    const OURS: CapabilitySet = C::BPF
        .union(C::PERFMON)
        .union(C::NET_ADMIN)
        .union(C::SYS_PTRACE)
        .union(C::SETUID)
        .union(C::SETGID)
        .union(C::KILL)
        .union(C::DAC_OVERRIDE);
    let mut sets = capabilities(None)?;
    sets.inheritable.remove(OURS);
    Ok(set_capabilities(None, sets)?)
}

fn become_user(name: &str) -> Result<()> {
    let user = User::from_name(name)?.with_context(|| format!("there is no user `{name}`"))?;
    let groups = std::ffi::CString::new(name)?;
    initgroups(&groups, user.gid)
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .with_context(|| format!("this process may not become user `{name}`"))
}
