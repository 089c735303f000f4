//! Reuseport groups as they are found, and whether they can be steered.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use sticky_ebpf::abi::{GATE, REDIRECT, SINK};

use crate::kernel::{self, Need};
use crate::listeners::{self, Holder, Listener};
use crate::pool::id::{PoolId, Protocol};
use crate::pool::pins::Pins;
use crate::refusal::Refusal;

/// What a user names a pool, or several, by: `3000`, `127.0.0.1:3000`, `[::1]:3000`, with `udp:` before for UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    protocol: Protocol,
    ip: Option<IpAddr>,
    port: u16,
}

impl Target {
    /// Whether the pool is meant.
    pub fn names(&self, pool: &PoolId) -> bool {
        pool.protocol == self.protocol
            && pool.address.port() == self.port
            && self.ip.is_none_or(|ip| ip == pool.address.ip())
    }

    /// The address, if one was given.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// As a sentence has it.
    pub fn in_words(&self) -> String {
        let protocol = if self.protocol == Protocol::Udp { "UDP " } else { "" };
        match self.ip {
            Some(ip) => format!("{protocol}{}", SocketAddr::new(ip, self.port)),
            None => format!("{protocol}port {}", self.port),
        }
    }

    /// The protocol.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, address) = match text.split_once(':') {
            Some(("udp", rest)) => (Protocol::Udp, rest),
            Some(("tcp", rest)) => (Protocol::Tcp, rest),
            Some(_) | None => (Protocol::Tcp, text),
        };
        let (ip, port) = match address.parse::<SocketAddr>() {
            Ok(address) => (Some(address.ip()), address.port()),
            Err(_) => (None, address.parse().map_err(|_| "expected a port, or `address:port`".to_owned())?),
        };
        if port == 0 {
            return Err("port 0 is no port to listen on".into());
        }
        Ok(Self { protocol, ip, port })
    }
}

/// As it is typed.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == Protocol::Udp {
            f.write_str("udp:")?;
        }
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => self.port.fmt(f),
        }
    }
}

/// One socket of a group.
#[derive(Clone, Debug)]
pub struct Member {
    /// The socket.
    pub listener: Listener,
    /// The processes that have it open, as far as this one may see.
    pub holders: Vec<Holder>,
}

/// The sockets that one decision chooses among.
#[derive(Clone, Debug)]
pub struct Group {
    /// The pool they are, or will be.
    pub id: PoolId,
    /// The sockets, oldest first.
    pub members: Vec<Member>,
}

/// All groups that `wanted` takes, with whoever of `pids` holds their sockets.
///
/// The processes are asked for once the sockets are known: a process that opened one is there then.
pub fn find<P: IntoIterator<Item = u32>>(
    protocol: Protocol,
    wanted: impl Fn(&PoolId) -> bool,
    pids: impl FnOnce() -> P,
) -> Result<Vec<Group>> {
    let mut groups: BTreeMap<PoolId, Vec<Member>> = BTreeMap::new();
    for listener in listeners::list(protocol, kernel::network_namespace()?)? {
        if wanted(&listener.pool) {
            groups.entry(listener.pool).or_default().push(Member { listener, holders: Vec::new() });
        }
    }
    if !groups.is_empty() {
        let holders = listeners::holders(pids());
        for member in groups.values_mut().flatten() {
            member.holders = holders.get(&member.listener.inode).cloned().unwrap_or_default();
        }
    }
    let mut groups: Vec<_> = groups.into_iter().map(|(id, members)| Group { id, members }).collect();
    for group in &mut groups {
        group.members.sort_by_key(|member| member.listener.inode);
    }
    Ok(groups)
}

/// The groups a user named; refused when there is none.
pub fn named(target: &Target) -> Result<Vec<Group>> {
    let mut groups = find(target.protocol, |id| target.names(id), listeners::processes)?;
    for group in &mut groups {
        // What a sticky that is there already has opened is no worker.
        if let Ok(pins) = Pins::open(&kernel::pools_dir().join(group.id.dir_name())) {
            let own = [REDIRECT, GATE, SINK].map(|slot| pins.cookie(slot).unwrap_or_default());
            group.members.retain(|member| !own.contains(&Some(member.listener.cookie)));
        }
    }
    if groups.is_empty() {
        return Err(Refusal::new(
            format!("nothing listens on {} in this network namespace", target.in_words()),
            "start the server first (`ss -ltnp` lists what listens); \
             for one in a container, run sticky there: `nsenter --target PID --net sticky attach …`",
        )
        .into());
    }
    Ok(groups)
}

impl Group {
    /// Refuses a group that cannot be steered, or not without harm. With `mixed`, different programs may share it.
    pub fn check(&self, mixed: bool) -> Result<()> {
        let id = self.id;
        for member in &self.members {
            let socket = member.fetch()?;
            let processes: HashSet<u32> = member.holders.iter().map(|holder| holder.pid).collect();
            if self.members.len() == 1 && processes.len() > 1 {
                return Err(Refusal::new(
                    format!("{id} is one socket shared by {} processes ({}); it cannot be steered", processes.len(), member.programs()),
                    "start the workers so that each opens the port for itself: `sticky run -w N -- COMMAND` with the \
                     server's own worker count at 1, or the server's SO_REUSEPORT option (nginx: `listen … reuseport`)",
                )
                .into());
            }
            if !rustix::net::sockopt::socket_reuseport(&socket)? {
                return Err(Refusal::new(
                    format!("{id} is a socket without SO_REUSEPORT, held by {}; it cannot be steered", member.programs()),
                    "start the workers with `sticky run -w N -- COMMAND`, which sets it, or with the server's own option \
                     for it (node: `reusePort: true`; python asyncio: `reuse_port=True`; nginx: `listen … reuseport`)",
                )
                .into());
            }
        }
        if mixed { Ok(()) } else { self.check_same_program() }
    }

    /// Every socket must be held by one and the same program, run by the same user. For nginx that is the master.
    fn check_same_program(&self) -> Result<()> {
        let mut identities = self.members.iter().map(Member::identities);
        let Some(first) = identities.next() else { return Ok(()) };
        let common = identities.fold(first, |common, next| common.intersection(&next).cloned().collect());
        if !common.is_empty() {
            return Ok(());
        }
        let programs: HashSet<_> =
            self.members.iter().flat_map(Member::identities).map(|identity| identity.0).collect();
        let difference = if programs.len() > 1 { "different programs" } else { "different users" };
        let who: Vec<_> = self.members.iter().map(Member::programs).collect();
        Err(Refusal::new(
            format!("{} is shared by {difference}: {}", self.id, who.join("; ")),
            "stop the one that does not belong there, or pass `--mixed` if clients may be sent to any of them",
        )
        .into())
    }
}

impl Member {
    /// A duplicate of the socket, taken from a process that holds it. Close it soon: a listener lives as long as any
    /// descriptor of it.
    pub fn fetch(&self) -> Result<OwnedFd> {
        let id = self.listener.pool;
        let mut failed = None;
        for holder in &self.holders {
            match fetch(holder, self.listener.cookie) {
                Ok(socket) => return Ok(socket),
                Err(error) => failed = Some((holder, error)),
            }
        }
        Err(match failed {
            Some((holder, Errno::PERM)) => self.forbidden(holder),
            Some((holder, error)) => anyhow::Error::new(error)
                .context(format!("the socket of {id} cannot be fetched from process {}", holder.pid)),
            None if !Need::Fetch.met() => Need::Fetch.refusal().into(),
            None => Refusal::new(
                format!("the process that listens on {id} cannot be seen from here"),
                "share its PID namespace (Kubernetes: `shareProcessNamespace: true`; podman: `--pid=container:NAME`)",
            )
            .into(),
        })
    }

    fn forbidden(&self, holder: &Holder) -> anyhow::Error {
        let yama = yama_scope();
        // Yama's levels 1 and 2 let CAP_SYS_PTRACE pass, level 3 nobody: Documentation/admin-guide/LSM/Yama.rst.
        if yama >= 3 || (yama >= 1 && !Need::Fetch.met()) {
            let hint = match yama {
                3.. => "reboot with `kernel.yama.ptrace_scope` at 2 or below (3 cannot be lowered)",
                _ => {
                    "give sticky CAP_SYS_PTRACE (as root it has it), or set `sysctl kernel.yama.ptrace_scope=0`"
                }
            };
            return Refusal::new(
                format!(
                    "Yama (`kernel.yama.ptrace_scope` is {yama}) forbids fetching the socket of process {}",
                    holder.pid
                ),
                hint,
            )
            .into();
        }
        if !Need::Fetch.met() {
            return Need::Fetch.refusal().into();
        }
        Refusal::new(
            format!("the kernel forbids fetching the socket of process {}", holder.pid),
            "a security module (SELinux, AppArmor) or a user namespace stands between; run sticky where the server runs",
        )
        .into()
    }

    /// Who holds the socket, as (program, user).
    pub fn identities(&self) -> HashSet<(PathBuf, u32)> {
        self.holders.iter().filter_map(|holder| identity(holder.pid)).collect()
    }

    /// The holders as a user reads them.
    pub fn programs(&self) -> String {
        let mut programs: Vec<_> = self
            .holders
            .iter()
            .map(|holder| {
                format!("`{}` (process {}, user {})", name(holder.pid), holder.pid, user(holder.pid))
            })
            .collect();
        if programs.len() > 4 {
            let more = programs.len() - 3;
            programs.truncate(3);
            programs.push(format!("{more} more"));
        }
        if programs.is_empty() { "a process that cannot be seen".into() } else { programs.join(", ") }
    }
}

/// Whether a socket could not be fetched because its process ended, or closed it, meanwhile.
pub fn is_gone(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(&(Errno::SRCH | Errno::BADF)))
}

/// A duplicate of a descriptor of another process, if it still is the socket of this cookie: since that was looked up, the
/// process may have closed it, or become another program, and the number be another's.
fn fetch(holder: &Holder, cookie: u64) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(holder.pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let socket = pidfd_getfd(&process, holder.fd, PidfdGetfdFlags::empty())?;
    if socket_cookie(&socket) == Ok(cookie) { Ok(socket) } else { Err(Errno::BADF) }
}

fn identity(pid: u32) -> Option<(PathBuf, u32)> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // A program that was replaced on disk while it runs is still the same program.
    let text = path.to_string_lossy();
    let path = text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from);
    Some((path, fs::metadata(format!("/proc/{pid}")).ok()?.uid()))
}

/// A process's short name.
pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "?".into(), |name| name.trim_end().to_owned())
}

fn user(pid: u32) -> String {
    let uid = fs::metadata(format!("/proc/{pid}")).map(|process| process.uid());
    uid.map_or_else(|_| "?".into(), |uid| uid.to_string())
}

fn yama_scope() -> u32 {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").context("no Yama");
    scope.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// A process's descriptor is what it was when it was looked up, or is passed over.
    #[test]
    fn no_other_descriptor_is_taken_for_a_socket() {
        let [ours, other] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a socket"));
        let cookie = socket_cookie(&ours).expect("a socket");
        let address = ours.local_addr().expect("an address");
        let pool = PoolId { protocol: Protocol::Tcp, address, v6only: false, interface: 0, namespace: 1 };
        let holder = |fd: i32| Holder { pid: std::process::id(), fd };
        let held_by = |holders: &[i32]| Member {
            listener: Listener { pool, cookie, inode: 0, uid: 0, waiting: 0 },
            holders: holders.iter().map(|fd| holder(*fd)).collect(),
        };
        let file = std::fs::File::open("/dev/null").expect("a file");
        let [ours, other, file] = [ours.as_raw_fd(), other.as_raw_fd(), file.as_raw_fd()];
        let fetched = held_by(&[file, other, ours]).fetch().expect("the socket");
        assert_eq!(socket_cookie(fetched), Ok(cookie));
        for wrong in [&[file][..], &[other], &[file, other, i32::MAX]] {
            assert!(is_gone(&held_by(wrong).fetch().expect_err("none is it")), "{wrong:?}");
        }
    }

    #[test]
    fn targets() {
        for text in ["3000", "127.0.0.1:3000", "[::1]:3000", "udp:3000", "udp:[::1]:53"] {
            assert_eq!(text.parse::<Target>().map(|target| target.to_string()).as_deref(), Ok(text));
        }
        let parse = |text: &str| text.parse::<Target>();
        let tcp = |ip: Option<&str>| Target {
            protocol: Protocol::Tcp,
            ip: ip.map(|ip| ip.parse().expect("an address")),
            port: 3000,
        };
        assert_eq!(parse("3000"), Ok(tcp(None)));
        assert_eq!(parse("tcp:3000"), Ok(tcp(None)));
        assert_eq!(parse("127.0.0.1:3000"), Ok(tcp(Some("127.0.0.1"))));
        assert_eq!(parse("[::1]:3000"), Ok(tcp(Some("::1"))));
        assert_eq!(parse("udp:3000").map(|target| target.protocol), Ok(Protocol::Udp));
        for wrong in ["", "0", "65536", "localhost:3000", "::1:3000", "sctp:3000", "udp:", "-1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
