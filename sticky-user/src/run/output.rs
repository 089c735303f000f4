//! What workers print: through named pipes, line by line, with the worker's number before each line.
//!
//! Named, and opened by the workers for reading too: a worker does not die of a broken pipe when sticky is killed, and
//! the next sticky goes on reading. Until then a worker that prints more than the pipe holds (64 KiB) waits.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

/// Lines kept to be shown when a worker keeps failing.
const KEPT_LINES: usize = 10;
/// A longer line is broken.
const LONGEST_LINE: u64 = 16 * 1024;
/// Colours of worker numbers: ECMA-48 foregrounds, without black, white and red.
const COLOURS: [u8; 5] = [36, 33, 32, 35, 34];

/// The output of one worker, of all processes that ever were this worker.
pub struct Output {
    streams: [Stream; 2],
    recent: Recent,
}

type Recent = Arc<Mutex<VecDeque<String>>>;

struct Stream {
    path: PathBuf,
    /// Keeps the reader from its end for as long as workers may come.
    writer: File,
    reader: JoinHandle<()>,
}

impl Output {
    /// Begins to read the pipes `N.out` and `N.err` in `dir`, which are made if they are not there.
    pub fn new(dir: &Path, worker: usize) -> Result<Self> {
        let recent = Recent::default();
        let stream = |kind: &str, colour: bool, sink: fn() -> Box<dyn Write>| {
            let path = dir.join(format!("{worker}.{kind}"));
            let prefix = prefix(worker, colour);
            Stream::new(path.clone(), prefix, sink, Arc::clone(&recent))
                .with_context(|| format!("the pipe `{}` cannot be opened", path.display()))
        };
        let streams = [
            stream("out", io::stdout().is_terminal(), || Box::new(io::stdout()))?,
            stream("err", io::stderr().is_terminal(), || Box::new(io::stderr()))?,
        ];
        Ok(Self { streams, recent })
    }

    /// Ends of the pipes for a new process: standard output and standard error.
    pub fn stdio(&self) -> io::Result<(Stdio, Stdio)> {
        let [out, err] = &self.streams;
        Ok((open(&out.path)?.into(), open(&err.path)?.into()))
    }

    /// The last lines of output.
    pub fn recent(&self) -> Vec<String> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Prints what is left, once the worker's processes are gone, and removes the pipes.
    pub fn finish(self) {
        for Stream { path, writer, reader } in self.streams {
            drop(writer);
            let _ = reader.join();
            let _ = fs::remove_file(path);
        }
    }
}

impl Stream {
    fn new(path: PathBuf, prefix: String, sink: fn() -> Box<dyn Write>, recent: Recent) -> Result<Self> {
        match mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // A worker that runs as another user may open `/dev/stdout` anew; nobody else gets into the run's folder.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o622))?;
        let writer = open(&path)?;
        let lines = BufReader::new(File::open(&path)?);
        let reader = std::thread::spawn(move || copy(lines, &prefix, sink, &recent));
        Ok(Self { path, writer, reader })
    }
}

/// Opened for both directions a pipe blocks on neither, and always has a reader: fifo(7).
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn prefix(worker: usize, colour: bool) -> String {
    if colour && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
        format!("\x1b[{}m[{worker}]\x1b[0m ", COLOURS[(worker - 1) % COLOURS.len()])
    } else {
        format!("[{worker}] ")
    }
}

fn copy(mut lines: BufReader<File>, prefix: &str, sink: fn() -> Box<dyn Write>, recent: &Recent) {
    let mut line = Vec::new();
    loop {
        line.clear();
        line.extend_from_slice(prefix.as_bytes());
        match lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        // One write for each line, so that lines of several workers do not mix. A reader that went away is no reason
        // to stop emptying the pipe.
        let _ = sink().write_all(&line);
        let text = String::from_utf8_lossy(&line[prefix.len()..]).trim_end().to_owned();
        let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == KEPT_LINES {
            recent.pop_front();
        }
        recent.push_back(text);
    }
}
