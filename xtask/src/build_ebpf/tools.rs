//! The tools that make a kernel object: a Rust compiler with `core` for the kernel, bpf-linker, and LLVM's own tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::setup::BPF_STD;
use crate::workspace;

/// Debian's compiler, beside which rustup's stays the default.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Where the compiler comes from, and LLVM's tools.
pub struct Tools {
    compiler: Compiler,
    llvm: Llvm,
}

enum Compiler {
    /// Debian's, which has `core` for the kernel ready-made.
    Debian,
    /// rustup's nightly, which builds `core` from the sources of its `rust-src`, in this folder.
    Nightly { sources: PathBuf },
}

struct Llvm {
    objcopy: PathBuf,
    readelf: PathBuf,
}

impl Tools {
    /// The tools of this machine.
    pub fn find() -> Result<Self> {
        let compiler = if Path::new(DEBIAN_RUSTC).exists() && Path::new(BPF_STD).exists() {
            Some(Compiler::Debian)
        } else {
            nightly()
        };
        let (Some(compiler), Some(_), Some(llvm)) = (compiler, workspace::which("bpf-linker"), llvm()) else {
            bail!(
                "the tools for the kernel object are not complete: `cargo xtask setup` installs them on Debian 12 and 13; \
                 elsewhere have rustup's nightly with `rust-src`, `bpf-linker`, `llvm-objcopy` and `llvm-readelf` in `PATH`"
            );
        };
        Ok(Self { compiler, llvm })
    }

    /// The cargo that builds the object.
    pub fn cargo(&self) -> Command {
        let mut cargo = match self.compiler {
            Compiler::Debian => {
                let mut cargo = workspace::cargo();
                cargo.env("RUSTC", DEBIAN_RUSTC).arg("build");
                cargo
            }
            Compiler::Nightly { .. } => {
                let mut cargo = Command::new("rustup");
                cargo.current_dir(workspace::root()).env_remove("RUSTC");
                cargo.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
                cargo
            }
        };
        // aya-ebpf uses one unstable feature, and Debian's compiler is a stable one.
        cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "");
        cargo
    }

    /// The folder of the standard library's sources, if it is the tools' own.
    pub fn std_sources(&self) -> Option<&Path> {
        match &self.compiler {
            Compiler::Debian => None,
            Compiler::Nightly { sources } => Some(sources),
        }
    }

    /// `llvm-objcopy`.
    pub fn objcopy(&self) -> Command {
        Command::new(&self.llvm.objcopy)
    }

    /// `llvm-readelf`.
    pub fn readelf(&self) -> Command {
        Command::new(&self.llvm.readelf)
    }

    /// All that the object's bytes depend on besides our sources, one tool a line.
    pub fn versions(&self) -> Result<String> {
        let compiler = match self.compiler {
            Compiler::Debian => debian_versions()?,
            Compiler::Nightly { .. } => [
                workspace::output(Command::new("rustup").args(["run", "nightly", "cargo", "--version"]))?,
                workspace::output(Command::new("rustup").args(["run", "nightly", "rustc", "--version"]))?,
                workspace::output(self.objcopy().arg("--version"))?,
            ]
            .join("\n"),
        };
        let linker = workspace::output(Command::new("bpf-linker").arg("--version"))?;
        Ok(format!("{compiler}\n{linker}\n"))
    }
}

fn debian_versions() -> Result<String> {
    let package = |name: &str| {
        let format = "--showformat=${Package} ${Version}\n";
        workspace::output(Command::new("dpkg-query").args(["--show", format, name]))
    };
    let mut versions = vec![
        // The names of symbols have cargo's hashes in them.
        workspace::output(workspace::cargo().arg("--version"))?,
        workspace::output(Command::new(DEBIAN_RUSTC).arg("--version"))?,
        package("libllvm22")?,
        package("libstd-rust-web-dev-bpf")?,
    ];
    // Where the standard library's sources are installed, LLVM adds their lines to BTF.
    versions.extend(package("rust-web-src").ok());
    Ok(versions.join("\n"))
}

/// rustup's nightly, if it has the sources of `core`.
fn nightly() -> Option<Compiler> {
    let sysroot =
        Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output().ok()?;
    let sysroot = String::from_utf8(sysroot.stdout).ok()?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    sources.join("library/core").exists().then_some(Compiler::Nightly { sources })
}

/// LLVM's tools, under Debian's names first.
fn llvm() -> Option<Llvm> {
    ["-22", ""].into_iter().find_map(|suffix| {
        let tool = |name: &str| workspace::which(&format!("{name}{suffix}"));
        Some(Llvm { objcopy: tool("llvm-objcopy")?, readelf: tool("llvm-readelf")? })
    })
}
