//! Counting the connections that each slot has open, for `--place least`.
//!
//! One counting is a program on the kernel's tracepoint, the numbers, and what sockets carry. All are pinned, so it goes
//! on while no sticky is alive, and the next sticky takes it up: its program joins the old one, then replaces it. Where
//! there is none to take up, numbers and sockets begin from nothing together, so that they cannot disagree. Connections
//! that were open before are in no number.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::BtfTracePoint;
use aya::programs::links::{FdLink, PinnedLink};
use aya::{Btf, Ebpf};
use sticky_ebpf::abi::maps;

use crate::kernel::{self, Need};
use crate::refusal::Refusal;

/// The name under which the program's link is pinned, and for as long as it takes to replace another's.
pub const PIN: &str = "count";
const NEXT: &str = "count-next";

const TRACEPOINT: &str = "inet_sock_set_state";

/// What the kernel's types are described in, where it has that.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Refuses where connections cannot be counted: clients would be placed by their hash then, and nobody would know.
pub fn require() -> Result<()> {
    kernel::require(&[Need::Count])?;
    if Path::new(BTF).exists() {
        return Ok(());
    }
    Err(Refusal::new(
        format!("`{BTF}` is missing: `--place least` needs it to count connections"),
        "use a kernel with CONFIG_DEBUG_INFO_BTF, as distributions have it; or give `--place hash`",
    )
    .into())
}

/// Whether a counting is there to be taken up.
pub fn is_on(dir: &Path) -> bool {
    dir.join(PIN).exists()
}

/// Ends the counting that is there, if any, with all that belongs to it.
pub fn end(dir: &Path) -> Result<()> {
    for name in [PIN, NEXT, maps::COUNTED, maps::OPEN] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("`{name}` in `{}` cannot be removed", dir.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Begins to count, or goes on with the counting that is there. What is returned keeps the program, as its file does.
pub fn begin(program: &mut Ebpf, dir: &Path) -> Result<PinnedLink> {
    let count = program.program_mut("count").context("the object has no program `count`")?;
    let count: &mut BtfTracePoint = count.try_into()?;
    count.load(TRACEPOINT, &Btf::from_sys_fs()?).map_err(kernel::rejected)?;
    let link = count.attach()?;
    let link: FdLink = count.take_link(link)?.into();
    let next = dir.join(NEXT);
    // Of one that was killed here.
    let _ = fs::remove_file(&next);
    let link = link.pin(&next).with_context(|| format!("`{}` cannot be pinned", next.display()))?;
    fs::rename(&next, dir.join(PIN)).context("the program that counts cannot be replaced")?;
    Ok(link)
}
