//! Building the object, the same byte for byte in whatever folder and by whatever user.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::tools::Tools;
use crate::workspace;

const TARGET: &str = "bpfel-unknown-none";
const PROGRAMS: &str = "sticky-programs";

/// Builds the kernel programs with tools of these versions; the object's path.
pub fn build(tools: &Tools, versions: &str) -> Result<PathBuf> {
    // A place of its own, since flags and compiler are not those of anything else.
    let target = workspace::target().join("bpf");
    workspace::run(
        tools
            .cargo()
            .env("CARGO_ENCODED_RUSTFLAGS", flags(tools, versions)?.join("\x1f"))
            .args(["--quiet", "--locked", "--package", "sticky-ebpf", "--bin", PROGRAMS, "--features", "bpf"])
            .args(["--profile", "bpf", "--target", TARGET, "--target-dir"])
            .arg(&target),
    )?;
    let linked = target.join(TARGET).join("bpf").join(PROGRAMS);
    let object = target.join("sticky.bpf.o");
    // bpf-linker makes BTF from debug information, which nobody needs afterwards: it is nine tenths of the file. The
    // profile's `strip` does nothing on this target. The relocations of BTF's lines are for linkers alone.
    let unused = ["--strip-debug", "--remove-section=.rel.BTF.ext"];
    workspace::run(tools.objcopy().args(unused).arg(linked).arg(&object))?;
    Ok(object)
}

fn flags(tools: &Tools, versions: &str) -> Result<Vec<String>> {
    let flags =
        ["--cfg", "bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clink-arg=--btf", "-Clinker=bpf-linker"];
    let mut flags = flags.map(str::to_owned).to_vec();
    // cargo does not look at the linker and its LLVM: this makes it build anew when they change.
    flags.push(format!("--cfg=built_by=\"{}\"", versions.replace('\n', "; ")));
    flags.extend(
        renamed(tools)?.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())),
    );
    Ok(flags)
}

/// Folders whose names depend on the machine, and what the object calls them; of those that fit the last counts.
///
/// The repository's own becomes nothing: LLVM then finds our sources from its root, and adds their lines to BTF for the
/// verifier's log.
fn renamed(tools: &Tools) -> Result<Vec<(PathBuf, &'static str)>> {
    let root = workspace::root().canonicalize().context("the repository has gone")?;
    let mut folders = vec![(root, "")];
    folders.extend(registries()?.into_iter().map(|registry| (registry, "crates.io")));
    folders.extend(tools.std_sources().map(|sources| (sources.to_owned(), "rust")));
    Ok(folders)
}

/// Where cargo unpacks packages: a folder for each registry, named by a hash.
fn registries() -> Result<Vec<PathBuf>> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let sources = home.context("`HOME` is not set: set it, or `CARGO_HOME`")?.join("registry/src");
    let folders =
        fs::read_dir(&sources).with_context(|| format!("`{}` cannot be read", sources.display()))?;
    folders.map(|folder| Ok(Path::new(&folder?.path()).to_owned())).collect()
}
