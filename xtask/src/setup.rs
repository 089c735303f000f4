//! `cargo xtask setup`: what the tests and building the kernel object need, on Debian.

mod apt;
mod bpf_linker;
mod needs;
mod npm;

use anyhow::Result;

use needs::Purpose;

pub use needs::BPF_STD;

/// Installs all that is missing.
pub fn everything() -> Result<()> {
    apt::install(&[Purpose::Tests, Purpose::KernelObject])?;
    bpf_linker::install()?;
    npm::install()
}

/// Installs what is missing for the tests: they run with the committed kernel object.
pub fn for_tests() -> Result<()> {
    apt::install(&[Purpose::Tests])?;
    npm::install()
}
