//! What sticky tells while it works: one line each, on standard error, since standard output is the workers'.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Writes one line. A closed standard error is no reason to stop steering.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "sticky: {line}");
}

/// Where the program's log of its decisions goes.
pub struct DecisionLog;

impl log::Log for DecisionLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        say(format_args!("trace: {}", record.args()));
    }

    fn flush(&self) {}
}
