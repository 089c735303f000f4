//! The one table of what has to be on the machine, and of the Debian packages that bring it.

use std::path::Path;

use crate::workspace;

/// One thing that has to be there.
pub struct Need {
    /// What shows that it is there.
    pub proof: Proof,
    /// The Debian packages that bring it, separated by spaces.
    pub packages: &'static str,
    /// What it is for.
    pub why: &'static str,
    /// Which task needs it.
    pub purpose: Purpose,
}

/// What shows that something is installed, wherever it came from.
#[derive(Clone, Copy)]
pub enum Proof {
    /// An executable of this name.
    Program(&'static str),
    /// A file or folder.
    File(&'static str),
}

/// What a need is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `cargo xtask test`.
    Tests,
    /// `cargo xtask build-ebpf`.
    KernelObject,
}

/// Where Debian's `rustc` has `core` for the kernel.
pub const BPF_STD: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

use Proof::{File, Program};
use Purpose::{KernelObject, Tests};

/// A row of the table.
const fn need(purpose: Purpose, proof: Proof, packages: &'static str, why: &'static str) -> Need {
    Need { proof, packages, why, purpose }
}

/// The table.
#[rustfmt::skip]
pub const NEEDS: &[Need] = &[
    need(Tests, Program("ip"), "iproute2", "each test's own network"),
    need(Tests, Program("ss"), "iproute2", "which connections there are"),
    need(Tests, Program("unshare"), "util-linux", "tests in namespaces of their own"),
    need(Tests, Program("setpriv"), "util-linux", "tests with few capabilities"),
    need(Tests, Program("kill"), "procps", "ending workers"),
    need(Tests, Program("perl"), "perl-base", "a stranger on a port"),
    need(Tests, Program("python3"), "python3", "workers in Python"),
    need(Tests, Program("gunicorn"), "gunicorn python3-gunicorn", "a Python server with workers of its own"),
    need(Tests, Program("node"), "nodejs", "workers in JavaScript"),
    need(Tests, Program("npm"), "npm", "the packages of the JavaScript workers"),
    need(Tests, Program("nginx"), "nginx-light", "a server with workers of its own, and a reverse proxy (its package may start one on port 80)"),
    need(Tests, Program("haproxy"), "haproxy", "a reverse proxy"),
    need(Tests, Program("caddy"), "caddy", "one more reverse proxy in front of workers"),
    need(Tests, Program("qemu-system-x86_64"), "qemu-system-x86", "booting other kernels"),
    need(Tests, Program("busybox"), "busybox-static", "the userland of those kernels"),
    need(Tests, Program("xz"), "xz-utils", "unpacking those kernels"),
    need(KernelObject, File("/usr/share/doc/rustc-web/copyright"), "rustc-web", "a Rust compiler beside rustup's, for kernel programs"),
    need(KernelObject, File(BPF_STD), "libstd-rust-web-dev-bpf", "that compiler's `core` for the kernel"),
    need(KernelObject, File("/usr/lib/llvm-22/include/llvm-c/Core.h"), "llvm-22-dev", "the LLVM that bpf-linker is built on"),
    need(KernelObject, Program("llvm-objcopy-22"), "llvm-22", "taking debug information out of the kernel object"),
];

impl Need {
    /// Whether nothing has to be done.
    pub fn met(&self) -> bool {
        match self.proof {
            Program(name) => workspace::which(name).is_some(),
            File(path) => Path::new(path).exists(),
        }
    }

    /// What is looked for, as a sentence has it.
    pub fn name(&self) -> &'static str {
        match self.proof {
            Program(name) | File(name) => name,
        }
    }
}
