//! What each kernel program costs, against what it may.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::tools::Tools;
use super::verifier::Cost;
use crate::{say, workspace};

/// Size of an instruction; a 64-bit constant takes two.
const INSTRUCTION: u64 = 8;

/// What is counted of a program: its instructions, and what they cost the verifier.
const FIGURES: [&str; 5] = ["instructions", "processed", "states", "peak states", "stack"];

/// How much a program may have of each. Kernels differ in what the verifier goes through and keeps: these are a third
/// more than the most of Linux 6.1, 6.12 and 6.18.
#[rustfmt::skip]
fn budget(program: &str) -> [u64; FIGURES.len()] {
    match program {
        "steer" =>           [2100,  70_000,   2800,  900, 224],
        // What goes through a head is a function of its own.
        "reader" =>          [2400, 300_000, 19_000, 8000, 400],
        // The log lines, which are only loaded when asked for.
        "steer_traced" =>    [2500, 220_000,   7500, 1400, 512],
        "reader_traced" =>   [2500, 330_000, 19_000, 8000, 576],
        "count" =>           [ 100,     150,     12,   12,  32],
        "peer4" | "peer6" => [ 200,     130,     10,   10,  64],
        "guard" =>           [ 130,     260,     20,   20,  64],
        _ =>                 [ 100,      40,      4,    4,  32],
    }
}

/// Prints what each program costs; fails when that is more than it may.
pub fn report(tools: &Tools, object: &Path, verified: Option<&HashMap<String, Cost>>) -> Result<()> {
    let symbols = workspace::output(tools.readelf().args(["--symbols", "--wide"]).arg(object))?;
    let programs: Vec<_> = symbols.lines().filter_map(program).collect();
    ensure!(
        !programs.is_empty(),
        "`{}` has no programs: build it anew after `cargo clean`",
        object.display()
    );
    let size = object.metadata().context("the object has gone")?.len();
    say(format_args!("kernel object: {size} bytes; what its programs cost / may cost:"));
    say(row("", FIGURES));
    let mut over = None;
    for (name, instructions) in programs {
        let mut figures = vec![instructions];
        if let Some(verified) = verified {
            figures.extend(verified.get(name).with_context(|| format!("`{name}` was not loaded"))?);
        }
        let figures = figures.into_iter().zip(budget(name));
        say(row(name, figures.clone().map(|(figure, most)| format!("{figure}/{most}"))));
        over = over
            .or(figures.zip(FIGURES).find(|((figure, most), _)| figure > most).map(|(_, what)| (name, what)));
    }
    if let Some((name, what)) = over {
        bail!(
            "`{name}` costs more than it may ({what}): make it cheaper, or raise its budget in `{}`",
            file!()
        );
    }
    Ok(())
}

/// A line of the table.
fn row(name: &str, cells: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let cells = cells.into_iter().map(|cell| format!("{:>15}", cell.to_string()));
    format!("  {name:<14}{}", cells.collect::<String>())
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
