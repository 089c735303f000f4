//! The programs under test and those that test them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

/// `sticky`.
pub fn sticky() -> Command {
    Command::new(workspace::target().join("release/sticky"))
}

/// The example `name` of sticky-user.
pub fn example(name: &str) -> Command {
    Command::new(workspace::target().join("release/examples").join(name))
}

/// A process that ends with its owner, and is spoken to over its standard input and output.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("`{}` does not start", command.get_program().display()))?;
        let output = child.stdout.take().context("standard output is a pipe")?;
        Ok(Self { input: child.stdin.take(), child, output: BufReader::new(output) })
    }

    /// Waits for its next line of output.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.output.read_line(&mut line)? > 0,
            "it ended too early; what it says above is the reason"
        );
        Ok(line.trim_end().to_owned())
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// The workers of one port.
pub struct Pool {
    /// The port.
    pub port: u16,
    _workers: Vec<Process>,
}

impl Pool {
    /// Starts `workers` workers and waits until all listen.
    pub fn start(port: u16, workers: usize) -> Result<Self> {
        Self::of_listeners(port, workers, 1)
    }

    /// The same, of processes that have so many listening sockets each.
    pub fn of_listeners(port: u16, processes: usize, listeners: usize) -> Result<Self> {
        let mut started = Vec::new();
        for _ in 0..processes {
            let mut worker = example("bench_worker");
            worker.arg(port.to_string()).arg(format!("--listeners={listeners}"));
            let mut worker = Process::start(&mut worker)?;
            worker.line().context("a worker does not listen")?;
            started.push(worker);
        }
        Ok(Self { port, _workers: started })
    }
}
