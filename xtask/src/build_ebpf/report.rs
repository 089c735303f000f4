//! What each kernel program costs, against what it may.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::tools::Tools;
use crate::{say, workspace};

/// Size of an instruction; a 64-bit constant takes two.
const INSTRUCTION: u64 = 8;

/// How many instructions a program may have.
fn budget(program: &str) -> u64 {
    match program {
        "steer" => 1800,
        // What goes through a head is a function of its own.
        "reader" => 1800,
        // The log lines, which are only loaded when asked for.
        "steer_traced" | "reader_traced" => 2500,
        "peer4" | "peer6" => 200,
        _ => 100,
    }
}

/// Prints each program's instructions; fails when one has more than it may.
pub fn report(tools: &Tools, object: &Path) -> Result<()> {
    let symbols = workspace::output(tools.readelf().args(["--symbols", "--wide"]).arg(object))?;
    let programs: Vec<_> = symbols.lines().filter_map(program).collect();
    ensure!(
        !programs.is_empty(),
        "`{}` has no programs: build it anew after `cargo clean`",
        object.display()
    );
    let size = object.metadata().context("the object has gone")?.len();
    say(format_args!("kernel object: {size} bytes"));
    for (name, instructions) in &programs {
        say(format_args!("  {name:<16} {instructions:>5} instructions, at most {}", budget(name)));
    }
    let over = programs.iter().find(|(name, instructions)| *instructions > budget(name));
    ensure!(
        over.is_none(),
        "`{}` has more instructions than it may: make it smaller, or raise its budget in `{}`",
        over.map_or("", |(name, _)| *name),
        file!()
    );
    Ok(())
}

/// A program's name and number of instructions, from its line of `readelf --symbols`.
///
/// Programs are the functions that the object shows to the outside; `memcpy` and its like are hidden.
fn program(line: &str) -> Option<(&str, u64)> {
    let columns: Vec<_> = line.split_whitespace().collect();
    let [_, _, size, "FUNC", "GLOBAL", "DEFAULT", _, name] = columns[..] else {
        return None;
    };
    let bytes = match size.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => size.parse().ok()?,
    };
    Some((name, bytes / INSTRUCTION))
}

#[cfg(test)]
mod tests {
    use super::program;

    #[test]
    fn programs_are_told_from_other_symbols() {
        let of = |line| program(line);
        assert_eq!(
            of("    17: 0000000000000010 14096 FUNC    GLOBAL DEFAULT     5 steer"),
            Some(("steer", 1762))
        );
        assert_eq!(
            of("    17: 0000000000000010 0x20000 FUNC  GLOBAL DEFAULT     5 big"),
            Some(("big", 16384))
        );
        assert_eq!(of("    21: 0000000000000120    64 FUNC    GLOBAL HIDDEN      2 memset"), None);
        assert_eq!(of("    18: 0000000000000000    28 OBJECT  GLOBAL DEFAULT    10 CONFIG"), None);
        assert_eq!(of("   Num:    Value          Size Type    Bind   Vis      Ndx Name"), None);
    }
}
