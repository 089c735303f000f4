//! Whether the committed object is what the sources give.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::{committed, versions_file};
use crate::{say, test};

const WHAT_TO_DO: &str = "run `cargo xtask build-ebpf` and commit `sticky-user/bpf`";

/// Compares the rebuilt object with the committed one, or tests it, when other tools made it.
pub fn check(built: &[u8], versions: &str) -> Result<()> {
    let theirs = fs::read_to_string(versions_file()).with_context(|| format!("no `TOOLS`: {WHAT_TO_DO}"))?;
    let old = fs::read(committed()).with_context(|| format!("no kernel object: {WHAT_TO_DO}"))?;
    if built == old {
        say("the committed kernel object is what the sources give, byte for byte");
        return Ok(());
    }
    if versions == theirs {
        bail!("the committed kernel object is not what the sources give: {WHAT_TO_DO}");
    }
    say("the committed kernel object was made by other tools, so its bytes tell nothing about the sources:");
    say(format_args!("\nit was made by\n{theirs}\nand rebuilt by\n{versions}"));
    say("testing the rebuilt one instead");
    let _stand_in = StandIn::put(built, old)?;
    test::end_to_end()
}

/// The rebuilt object in the place of the committed one, which returns when this is dropped.
///
/// There is but one name that sticky is built with. If the tests are killed, `git checkout sticky-user/bpf` brings the
/// committed object back.
struct StandIn {
    old: Vec<u8>,
}

impl StandIn {
    fn put(built: &[u8], old: Vec<u8>) -> Result<Self> {
        let stand_in = Self { old };
        fs::write(committed(), built).context("the committed object cannot be replaced for the tests")?;
        Ok(stand_in)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Err(error) = fs::write(committed(), &self.old) {
            say(format_args!("`{}` is not as it was ({error}): `git checkout` it", committed().display()));
        }
    }
}
