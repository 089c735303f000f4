//! What workers print: through named pipes, line by line, with the worker's number before each line.
//!
//! Named, and opened by the workers for reading too: a worker does not die of a broken pipe when sticky is killed, and
//! the next sticky goes on reading. Until then a worker that prints more than the pipe holds (64 KiB) waits.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{PipeFlags, pipe_with};

use super::worker::Name;

/// Lines kept to be shown when a worker keeps failing.
const KEPT_LINES: usize = 10;
/// How long to wait for the last of them: whoever is to print them may have stopped.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// A longer line is broken.
const LONGEST_LINE: usize = 16 * 1024;
/// Colours of worker numbers: ECMA-48 foregrounds, without black, white and red.
const COLOURS: [u8; 5] = [36, 33, 32, 35, 34];

/// The output of one worker, of all processes of its name one after the other.
pub struct Output {
    streams: [Stream; 2],
    recent: Arc<Recent>,
}

/// What was printed last, and which of the readers have put down all that they have read.
#[derive(Default)]
struct Recent {
    heard: Mutex<(VecDeque<String>, [bool; 2])>,
    idle: Condvar,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<String>, [bool; 2])> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_down(&self, text: String) {
        let (lines, _) = &mut *self.lock();
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }

    /// Says whether the reader of a stream waits for more.
    fn waits(&self, stream: usize, waits: bool) {
        self.lock().1[stream] = waits;
        if waits {
            self.idle.notify_all();
        }
    }
}

struct Stream {
    /// 0 for standard output, 1 for standard error.
    number: usize,
    path: PathBuf,
    prefix: String,
    sink: fn() -> Box<dyn Write>,
    recent: Arc<Recent>,
    /// Keeps the reader from its end for as long as workers may come.
    writer: File,
    reader: Option<Reader>,
}

/// A thread that reads a pipe, and what ends it before the pipe does when it is dropped.
struct Reader {
    thread: JoinHandle<()>,
    stop: OwnedFd,
}

impl Output {
    /// Begins to read the pipes `NAME.out` and `NAME.err` in `dir`, which are made if they are not there.
    pub fn new(dir: &Path, worker: Name) -> Result<Self> {
        let recent = Arc::<Recent>::default();
        let stream = |number: usize, kind: &str, colour: bool, sink: fn() -> Box<dyn Write>| {
            let path = dir.join(format!("{worker}.{kind}"));
            let prefix = prefix(worker.number, colour);
            Stream::new(number, path.clone(), prefix, sink, Arc::clone(&recent))
                .with_context(|| format!("the pipe `{}` cannot be opened", path.display()))
        };
        let streams = [
            stream(0, "out", io::stdout().is_terminal(), || Box::new(io::stdout()))?,
            stream(1, "err", io::stderr().is_terminal(), || Box::new(io::stderr()))?,
        ];
        Ok(Self { streams, recent })
    }

    /// Ends of the pipes for a new process: standard output and standard error.
    pub fn stdio(&self) -> io::Result<(Stdio, Stdio)> {
        let [out, err] = &self.streams;
        Ok((open(&out.path)?.into(), open(&err.path)?.into()))
    }

    /// The last lines of output, with all that a process has printed that just ended.
    pub fn last_words(&self) -> Vec<String> {
        let unread = |stream: &Stream| ioctl_fionread(&stream.writer).is_ok_and(|bytes| bytes > 0);
        let busy = |idle: &[bool; 2]| *idle != [true; 2] || self.streams.iter().any(unread);
        let heard = self.recent.lock();
        let waited = self.recent.idle.wait_timeout_while(heard, LAST_WORDS, |(_, idle)| busy(idle));
        waited.unwrap_or_else(PoisonError::into_inner).0.0.iter().cloned().collect()
    }

    /// Reads no more, and leaves what comes to another process.
    pub fn pause(&mut self) {
        for reader in self.streams.iter_mut().filter_map(|stream| stream.reader.take()) {
            drop(reader.stop);
            let _ = reader.thread.join();
        }
    }

    /// Reads on.
    pub fn resume(&mut self) -> Result<()> {
        self.streams.iter_mut().try_for_each(Stream::read)
    }

    /// Prints what is left, once the worker's processes are gone, and removes the pipes.
    pub fn finish(self) {
        for Stream { path, writer, reader, .. } in self.streams {
            drop(writer);
            if let Some(Reader { thread, stop }) = reader {
                let _ = thread.join();
                drop(stop);
            }
            let _ = fs::remove_file(path);
        }
    }
}

impl Stream {
    fn new(
        number: usize,
        path: PathBuf,
        prefix: String,
        sink: fn() -> Box<dyn Write>,
        recent: Arc<Recent>,
    ) -> Result<Self> {
        match mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // A worker that runs as another user may open `/dev/stdout` anew; nobody else gets into the run's folder.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o622))?;
        let writer = open(&path)?;
        let mut stream = Self { number, path, prefix, sink, recent, writer, reader: None };
        stream.read()?;
        Ok(stream)
    }

    fn read(&mut self) -> Result<()> {
        if self.reader.is_none() {
            let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
            let pipe = File::open(&self.path)?;
            let (number, prefix, sink) = (self.number, self.prefix.clone(), self.sink);
            let recent = Arc::clone(&self.recent);
            let thread = std::thread::spawn(move || {
                let pass_on = |heard: &[u8]| pass_on(heard, &prefix, sink, &recent);
                copy(pipe, &stopped, |waits| recent.waits(number, waits), pass_on);
            });
            self.reader = Some(Reader { thread, stop });
        }
        Ok(())
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

/// Passes lines on until the pipe ends, or `stopped` does; and tells when it `waits` for more, and when no longer.
fn copy(mut pipe: File, stopped: &OwnedFd, waits: impl Fn(bool), pass_on: impl Fn(&[u8])) {
    let (mut chunk, mut heard) = (vec![0; LONGEST_LINE], Vec::new());
    loop {
        let mut watched = [PollFd::new(&pipe, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        waits(true);
        let ready = poll(&mut watched, None);
        waits(false);
        match ready {
            Err(Errno::INTR) => continue,
            Err(_) => break,
            Ok(_) if !watched[1].revents().is_empty() => break,
            Ok(_) => {}
        }
        match pipe.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(length) => heard.extend_from_slice(&chunk[..length]),
        }
        let mut done = 0;
        while let Some(length) = line(&heard[done..]) {
            pass_on(&heard[done..done + length]);
            done += length;
        }
        heard.drain(..done);
    }
    if !heard.is_empty() {
        pass_on(&heard);
    }
}

/// The length of the first line, if it is there to its end, or too long.
fn line(heard: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b'\n', heard).map(|end| end + 1);
    end.or((heard.len() > LONGEST_LINE).then_some(heard.len())).map(|length| length.min(LONGEST_LINE))
}

fn pass_on(heard: &[u8], prefix: &str, sink: fn() -> Box<dyn Write>, recent: &Recent) {
    let heard = heard.strip_suffix(b"\n").unwrap_or(heard);
    // One write for each line, so that lines of several workers do not mix. A reader that went away is no reason to stop
    // emptying the pipe.
    let _ = sink().write_all(&[prefix.as_bytes(), heard, b"\n"].concat());
    recent.put_down(String::from_utf8_lossy(heard).trim_end().to_owned());
}
