//! Being told to stop: SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the terminal went away).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that mean stop, caught from the moment this is made.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Stop {
    /// Catches the signals. Made before anything that would have to be undone.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when told to stop; called again, when told once more.
    pub async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
