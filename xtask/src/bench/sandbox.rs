//! A place of the bench's own, with nobody else's traffic, that leaves nothing behind.

use std::env;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::{privilege, workspace};

/// A folder inside for files, of which nobody outside sees any.
pub const FILES: &str = "/dev/shm";

/// Set inside.
const INSIDE: &str = "STICKY_BENCH_SANDBOX";

/// Clients have addresses in 10.0.0.0/8, which the loopback interface takes for its own: 127.0.0.0/8 is a proxy's.
///
/// The shell stays, as the first process of its PID namespace: when the task ends, however it does, the shell ends,
/// and the kernel takes everything else with it: workers, sticky, the mounts and what is there.
const SETUP: &str = r#"ip link set lo up && ip route add local 10.0.0.0/8 dev lo &&
    mount -t bpf bpf /sys/fs/bpf && mount -t tmpfs tmpfs /dev/shm && ulimit -n "$(ulimit -Hn)" && "$@"; exit $?"#;

/// Returns inside, where this process is started once more; with the programs built.
pub fn enter() -> Result<()> {
    if env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let build = ["build", "--quiet", "--release", "--package", "sticky-user", "--bins", "--examples"];
    workspace::run(workspace::cargo().args(build))?;
    let error = privilege::as_root("unshare")
        .args(["--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"])
        .args(["sh", "-c", SETUP, "sh", "env", &format!("{INSIDE}=1")])
        .arg(format!("CARGO_TARGET_DIR={}", workspace::target().display()))
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .exec();
    Err(error).context("`unshare` (util-linux) does not start; the bench needs root, or `sudo`")
}
