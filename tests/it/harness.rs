//! What tests share: a network of their own, processes that end with the test, clients with their own addresses.

pub mod affinity;
pub mod client;
pub mod http;
pub mod load;
pub mod net;
pub mod process;
pub mod proxy;
pub mod recorder;
pub mod scene;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long anything may take to happen.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The file of this name among the test's applications.
pub fn app(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/apps").join(name);
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// Asks again and again until `ready` has an answer; fails with `what` after the deadline.
///
/// For states that nobody announces. Where there is an event, wait for the event.
#[track_caller]
pub fn eventually<T>(what: &(impl std::fmt::Display + ?Sized), mut ready: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ready() {
            return answer;
        }
        assert!(begin.elapsed() < DEADLINE, "still not after {DEADLINE:?}: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
