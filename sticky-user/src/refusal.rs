//! What sticky says when it will not do something: what failed, why, and the next step.

use std::fmt;

/// An error that the user can mend: wrong usage, or an environment that lacks something. Exit code 2.
#[derive(Debug)]
pub struct Refusal {
    what: String,
    hint: String,
}

impl Refusal {
    /// A refusal that says `what` is wrong and, as a `hint`, what to do about it.
    ///
    /// Both start in lower case and have no final stop.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Refusal {}

/// `error` as the user reads it, and the exit code it stands for: 2 for a [`Refusal`], 1 for anything else.
pub fn report(error: &anyhow::Error) -> (String, u8) {
    match error.downcast_ref::<Refusal>() {
        Some(refusal) => (format!("sticky: {error:#}\n\nhint: {}", refusal.hint), 2),
        None => (format!("sticky: {error:#}"), 1),
    }
}
