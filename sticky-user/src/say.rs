//! What sticky tells while it works: one line each, on standard error, since standard output is the workers'.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// Tells a service manager that this is the process to watch (`NotifyAccess=all`), as another was before.
pub fn main_process() {
    if let Err(error) = sd_notify::notify(&[NotifyState::MainPid(std::process::id())]) {
        say(format_args!("the service manager cannot be told: {error}"));
    }
}

/// Tells a service manager that the pool is being reloaded; [`ready`] ends it (`Type=notify-reload`).
pub fn reloading() {
    let told =
        NotifyState::monotonic_usec_now().and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]));
    if let Err(error) = told {
        say(format_args!("the service manager cannot be told: {error}"));
    }
}

/// What is wrong for as long as it is: said once, however often it is tried again.
#[derive(Default)]
pub struct Trouble(Option<String>);

impl Trouble {
    /// Says what went wrong this time, unless it was the same the last time; `None`: nothing did.
    pub fn is(&mut self, what: Option<String>) {
        if let Some(what) = what.as_ref().filter(|what| self.0.as_ref() != Some(what)) {
            say(format_args!("{what}; trying again"));
        }
        self.0 = what;
    }
}

/// A place that says something at most once a second, however often it happens.
pub struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Nothing said yet.
    pub const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Writes one line, or counts it for the next one.
    pub fn say(&self, line: impl Display) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, unsaid) = *state;
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            state.1 += 1;
            return;
        }
        *state = (Some(Instant::now()), 0);
        match unsaid {
            0 => say(line),
            more => say(format_args!("{line} (and {more} more like it)")),
        }
    }
}

impl Default for Seldom {
    fn default() -> Self {
        Self::new()
    }
}
