//! What sticky tells while it works: one line each, on standard error, since standard output is the workers'.

use std::fmt::Display;
use std::io::{self, Write as _};

use sd_notify::NotifyState;

/// Writes one line. A closed standard error is no reason to stop steering.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "sticky: {line}");
}

/// Tells a service manager, if one asked (`Type=notify`), that the pool serves. Told again, it does no harm.
pub fn ready() {
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        say(format_args!("the service manager cannot be told: {error}"));
    }
}
