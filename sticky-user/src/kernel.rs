//! What sticky asks of the kernel: the object with our programs, the capabilities to load it, and bpffs.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::Result;
use aya::programs::ProgramError;
use aya::{Ebpf, EbpfLoader};
use rustix::mount::{MountFlags, mount};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use sticky_ebpf::abi::maps;

use crate::refusal::Refusal;
use crate::sys;

/// The programs, compiled from `sticky-ebpf` by `cargo xtask build-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/sticky.bpf.o");

/// Where bpffs is mounted.
const BPFFS: &str = "/sys/fs/bpf";

/// A loader for our object. Of the programs' log it makes as little as can be, unless they are to `trace`, and of what
/// only pools use.
pub fn loader<'a>(trace: bool) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    for name in [maps::GATED, maps::OPENED, maps::KNOWN] {
        loader.map_max_entries(name, 1);
    }
    if !trace {
        loader.map_max_entries("AYA_LOGS", 4096);
    }
    loader
}

/// Creates the maps of our object; its programs are loaded one by one.
pub fn load(loader: &mut EbpfLoader<'_>) -> Result<Ebpf> {
    loader.load(OBJECT).map_err(|error| too_old(error.into()))
}

/// The error of loading a program, with the end of what the verifier said about it instead of all.
pub fn rejected(error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return too_old(error.into()) };
    let log = verifier_log.to_string();
    let lines: Vec<_> = log.trim().lines().collect();
    let end = lines[lines.len().saturating_sub(6)..].join("\n");
    let error = anyhow::Error::new(io_error).context(format!("the verifier ends with:\n{end}\n"));
    if Need::Verify.met() || lacks(&release()).is_some() {
        return too_old(error);
    }
    error.context(Need::Verify.refusal())
}

/// Adds the kernel's age to `error`, when that may be the cause.
///
/// Tried first and diagnosed afterwards, since distributions carry features back to kernels of older number.
pub fn too_old(error: anyhow::Error) -> anyhow::Error {
    let release = release();
    match lacks(&release) {
        Some((feature, since)) => error.context(Refusal::new(
            format!("Linux {release} is too old: it lacks {feature}, new in {since}"),
            "use a kernel of 5.14 or later (arm64: 5.18); Debian 12, Ubuntu 22.04 and RHEL 9 have one",
        )),
        None => error.context("the kernel did not take sticky's program"),
    }
}

/// The kernel's version, as `uname -r` has it.
fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The first feature that kernels of this `release` lack, and the version that brought it.
fn lacks(release: &str) -> Option<(&'static str, &'static str)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?);
    let atomics =
        (cfg!(target_arch = "aarch64")).then_some(((5, 18), "atomic operations of BPF on arm64", "5.18"));
    [
        ((5, 6), "`pidfd_getfd`", "5.6"),
        ((5, 8), "BPF ring buffers and `CAP_BPF`", "5.8"),
        ((5, 14), "socket migration (`BPF_SK_REUSEPORT_SELECT_OR_MIGRATE`)", "5.14"),
    ]
    .into_iter()
    .chain(atomics)
    .find(|(since, ..)| version < *since)
    .map(|(_, feature, since)| (feature, since))
}

/// What a capability of [`require`] is for.
pub enum Need {
    /// Loading and attaching programs, and their maps.
    Steer,
    /// Attaching hooks to the workers' cgroup.
    Hook,
    /// Hearing of `setsockopt`.
    Watch,
    /// Showing workers the proxy as their peer.
    ShowPeers,
    /// Ending connections in TIME_WAIT.
    EndSockets,
    /// Fetching a socket from a process of another user.
    Fetch,
    /// Counting connections on a tracepoint.
    Count,
    /// Being spared the verifier's defence against Spectre, which before Linux 6.17 takes no loops.
    Verify,
}

impl Need {
    fn capability(&self) -> (CapabilitySet, &'static str, &'static str) {
        match self {
            Self::Steer => (CapabilitySet::BPF, "CAP_BPF", "to load the steering program"),
            Self::Hook => {
                (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "to set SO_REUSEPORT on the workers' sockets")
            }
            Self::Watch => {
                (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "to hear who changes a group's program")
            }
            Self::ShowPeers => {
                (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "to show workers the proxy as their peer")
            }
            Self::EndSockets => {
                (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "to end connections in TIME_WAIT")
            }
            Self::Count => (
                CapabilitySet::PERFMON,
                "CAP_PERFMON",
                "to count connections, by which `--place least` places clients",
            ),
            Self::Verify => (
                CapabilitySet::PERFMON,
                "CAP_PERFMON",
                "on kernels before 6.17, whose verifier does not take its program otherwise",
            ),
            Self::Fetch => (
                CapabilitySet::SYS_PTRACE,
                "CAP_SYS_PTRACE",
                "to fetch a socket from a process of another user or of more rights",
            ),
        }
    }

    /// Whether this process has the capability.
    pub fn met(&self) -> bool {
        let (bit, ..) = self.capability();
        // CAP_SYS_ADMIN stands for these two: capabilities(7).
        let by_admin = bit.intersects(CapabilitySet::BPF | CapabilitySet::PERFMON);
        let enough = if by_admin { bit | CapabilitySet::SYS_ADMIN } else { bit };
        capabilities(None).is_ok_and(|sets| sets.effective.intersects(enough))
    }

    /// The refusal for a capability that is missing.
    pub fn refusal(&self) -> Refusal {
        let (_, name, purpose) = self.capability();
        Refusal::new(
            format!("{name} is missing: sticky needs it {purpose}"),
            format!(
                "run sticky as root (`sudo sticky …`), or add {name} to what it is given (container: `capabilities.add`; systemd: `AmbientCapabilities`)"
            ),
        )
    }
}

/// Refuses unless this process has every capability of `needs`.
pub fn require(needs: &[Need]) -> Result<()> {
    match needs.iter().find(|need| !need.met()) {
        Some(need) => Err(need.refusal().into()),
        None => Ok(()),
    }
}

/// The soft limit of open descriptors that this process was started with, once [`raise_descriptors`] changed it.
static DESCRIPTORS: OnceLock<Option<u64>> = OnceLock::new();

/// Lets this process open as many descriptors as it may: the redirect needs two for each connection.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_ok()
    {
        DESCRIPTORS.get_or_init(|| limit.current);
    }
}

/// The limit of descriptors that workers are to be started with, if it is not this process's own: some programs take
/// the soft limit for the size of a table.
pub fn original_descriptors() -> Option<u64> {
    DESCRIPTORS.get().copied().flatten()
}

/// Sets the soft limit of open descriptors.
pub fn limit_descriptors(limit: Option<u64>) {
    if let Some(current) = limit {
        // Lowering what was raised before cannot fail.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..getrlimit(Resource::Nofile) });
    }
}

/// Mounts bpffs where it is missing.
pub fn ensure_bpffs() -> Result<()> {
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
    let mounted = || rustix::fs::statfs(BPFFS).is_ok_and(|fs| fs.f_type as u64 == BPF_FS_MAGIC);
    if mounted() {
        return Ok(());
    }
    mount("bpf", BPFFS, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None).map_err(
        |error| {
            Refusal::new(
                format!("no BPF file system is mounted at `{BPFFS}`, and mounting it failed: {error}"),
                format!(
                    "mount it (`mount -t bpf bpf {BPFFS}`), or hand the host's to the container as a volume"
                ),
            )
            .into()
        },
    )
}

/// The directory that holds all pools.
pub fn pools_dir() -> &'static Path {
    Path::new("/sys/fs/bpf/sticky")
}

/// The cookie of this process's network namespace, its name in a pool's: 1 for the first one, and unlike the inode
/// never given to another before the next boot.
pub fn network_namespace() -> Result<u64> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    sys::network_namespace(socket).map_err(|error| too_old(error.into()))
}

#[cfg(test)]
mod tests {
    use super::lacks;

    #[test]
    fn old_kernels_are_named_by_what_they_lack() {
        assert_eq!(lacks("5.4.0-150-generic").map(|l| l.1), Some("5.6"));
        assert_eq!(lacks("5.10.0-28-cloud-amd64").map(|l| l.1), Some("5.14"));
        assert_eq!(lacks("4.19.0").map(|l| l.1), Some("5.6"));
        assert_eq!(lacks("5.14.0-362.el9"), None);
        assert_eq!(lacks("6.18.44"), None);
        assert_eq!(lacks("strange"), None);
    }
}
