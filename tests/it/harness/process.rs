//! Processes that end with the test, and what they print.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::Value;

use super::DEADLINE;

/// A running process. Dropped, it is killed.
pub struct Process {
    child: Child,
    lines: Arc<Lines>,
}

#[derive(Default)]
struct Lines {
    seen: Mutex<Vec<String>>,
    more: Condvar,
}

impl Process {
    /// Starts a command whose standard output and error are read line by line.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Should the test be killed, nobody is left to end it: prctl(2), PR_SET_PDEATHSIG.
        // SAFETY: between fork and exec there is one system call, which allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("`{name}` does not start ({error}); `cargo xtask setup` installs what tests need")
        });
        let lines = Arc::new(Lines::default());
        collect(child.stdout.take().expect("piped"), &lines);
        collect(child.stderr.take().expect("piped"), &lines);
        Self { child, lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains `text`, beyond the first `skip` such lines, and returns it.
    #[track_caller]
    pub fn wait_for_nth(&self, text: &str, skip: usize) -> String {
        let begin = Instant::now();
        let mut seen = self.lines.seen.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = seen.iter().filter(|line| line.contains(text)).nth(skip) {
                return line.clone();
            }
            let left = DEADLINE.saturating_sub(begin.elapsed());
            assert!(!left.is_zero(), "no line with {text:?} in {DEADLINE:?}; there were {seen:#?}");
            (seen, _) = self.lines.more.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_for_nth(text, 0)
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the process is there");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(
                begin.elapsed() < DEADLINE,
                "still running after {DEADLINE:?}; it said {:#?}",
                self.lines()
            );
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// SIGTERM, and its exit code.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait().code()
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "a failing test shows what its processes said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("process {} said {:#?}", self.pid(), self.lines());
        }
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        // sticky ends its workers itself when it is asked; only then is it killed.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(stream: impl Read + Send + 'static, lines: &Arc<Lines>) {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.seen.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            lines.more.notify_all();
        }
    });
}

/// The `sticky` under test, to be given arguments.
pub fn sticky() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sticky"))
}

/// Starts `sticky` with these arguments.
#[track_caller]
pub fn start_sticky(arguments: &[&str]) -> Process {
    Process::start(sticky().args(arguments))
}

/// Runs `sticky` to its end, which must come soon: exit code 124 says that it did not.
#[track_caller]
pub fn run_sticky(arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg(DEADLINE.as_secs().to_string()).arg(sticky().get_program()).args(arguments);
    command.output().expect("sticky starts")
}

/// Runs `sticky` to its end, which must be a good one; its standard output.
#[track_caller]
pub fn sticky_ok(arguments: &[&str]) -> String {
    let output = run_sticky(arguments);
    assert!(output.status.success(), "`sticky {arguments:?}`: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The pools on a port.
#[track_caller]
pub fn pools(target: &str) -> Vec<Value> {
    own_pools(&["status", target, "--json"])
}

/// All pools of the test.
#[track_caller]
pub fn all_pools() -> Vec<Value> {
    own_pools(&["status", "--json"])
}

/// What `status` says, without other tests' pools: all share one bpffs.
#[track_caller]
fn own_pools(status: &[&str]) -> Vec<Value> {
    let text = sticky_ok(status);
    let namespace = own_namespace();
    let pools: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    pools.into_iter().filter(|pool| pool["network_namespace"] == namespace).collect()
}

/// The one pool on a port.
#[track_caller]
pub fn pool(target: &str) -> Value {
    let mut pools = pools(target);
    assert_eq!(pools.len(), 1, "{pools:#?}");
    pools.remove(0)
}

/// The PID in each slot.
#[track_caller]
pub fn pids(pool: &Value) -> Vec<Option<u64>> {
    let slots = pool["slots"].as_array().expect("slots");
    slots.iter().map(|slot| slot["pids"][0].as_u64()).collect()
}

/// How often the program decided like this.
#[track_caller]
pub fn outcome(pool: &Value, name: &str) -> u64 {
    pool["outcomes"][name].as_u64().unwrap_or_else(|| panic!("no outcome {name} in {pool:#?}"))
}

/// How often the program chose by the client: as it knew it, or by the lookup table's first candidate.
#[track_caller]
pub fn by_client(pool: &Value) -> u64 {
    outcome(pool, "known") + outcome(pool, "table")
}

fn own_namespace() -> u64 {
    sticky::kernel::network_namespace().expect("a network namespace")
}
