//! Being told to stop: SIGTERM, SIGINT (Ctrl-C), and for some SIGHUP (the terminal went away).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that mean stop, caught from the moment this is made.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Stop {
    /// Catches the signals. Made before anything that would have to be undone. Without `hangup` that signal means
    /// something else.
    pub fn new(hangup: bool) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if hangup { Some(signal(SignalKind::hangup())?) } else { None },
        })
    }

    /// Returns when told to stop; called again, when told once more.
    pub async fn told(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}
