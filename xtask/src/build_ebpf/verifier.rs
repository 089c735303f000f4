//! What the kernel's verifier says when it loads the programs.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{privilege, say, workspace};

/// What a program costs the verifier: instructions that it went through on all ways together, the states that it kept
/// of them, the most of those at a time, and the bytes of stack of all functions of the program.
///
/// The kernel's limit of 512 bytes of stack is that of functions that call one another.
pub type Cost = [u64; 4];

/// The costs of the object's programs, by name.
///
/// Without the right to load programs they are unknown, and that is an error when they `must` be known; then `sudo` is
/// tried as well.
pub fn ask(object: &Path, must: bool) -> Result<Option<HashMap<String, Cost>>> {
    workspace::run(workspace::cargo().args([
        "build",
        "--quiet",
        "--package",
        "xtask",
        "--example",
        "verifier",
    ]))?;
    let verifier = workspace::target().join("debug/examples/verifier");
    let mut command = if must { privilege::as_root(verifier) } else { Command::new(verifier) };
    let output = command.arg(object).output().context("the verifier answers root only")?;
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => {
            out.lines().map(|line| cost(line).with_context(|| unclear(line))).collect::<Result<_>>().map(Some)
        }
        Some(2) if !must => {
            say(format_args!(
                "what the verifier says is not known, since it cannot be asked: {}",
                errors.trim_end()
            ));
            Ok(None)
        }
        _ => bail!("the programs do not load ({}): {}", output.status, errors.trim_end()),
    }
}

fn unclear(line: &str) -> String {
    format!("the verifier's words are not those of `{}`: `{line}`", file!())
}

/// A program's name and cost, from its line.
fn cost(line: &str) -> Option<(String, Cost)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let after = |key: &str| words.iter().skip_while(|word| **word != key).nth(1);
    let number = |key: &str| after(key)?.parse().ok();
    let stack =
        after("depth")?.split('+').map(|function| function.parse::<u64>().ok()).sum::<Option<u64>>()?;
    Some((
        (*words.first()?).to_owned(),
        [number("processed")?, number("total_states")?, number("peak_states")?, stack],
    ))
}

#[cfg(test)]
mod tests {
    use super::cost;

    #[test]
    fn costs_are_read_from_the_log() {
        let line = "reader verification time 346852 usec stack depth 120+0+96 processed 114529 insns (limit 1000000) \
                    max_states_per_insn 23 total_states 6630 peak_states 2743 mark_read 0 ";
        assert_eq!(cost(line), Some(("reader".to_owned(), [114529, 6630, 2743, 216])));
        assert_eq!(cost("reader R1 !read_ok processed 1 insns (limit 1000000)"), None);
    }
}
