//! What a server takes: processor time and memory, of its own processes alone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A process and its children: nginx's master has none of the work, its workers have.
fn family(pid: u32) -> Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .with_context(|| format!("process {pid} is gone"))?;
    let children = children.split_ascii_whitespace().map(str::parse);
    std::iter::once(Ok(pid)).chain(children).map(|pid| Ok(pid?)).collect()
}

/// The time on processors of all threads so far: user and system time, but in nanoseconds rather than ticks.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let mut time = Duration::ZERO;
    for pid in family(pid)? {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            time += running(&thread?.path())?;
        }
    }
    Ok(time)
}

/// The same, of the first thread alone.
pub fn first_thread_time(pid: u32) -> Result<Duration> {
    running(Path::new(&format!("/proc/{pid}/task/{pid}")))
}

/// The same, of the threads whose names begin like this.
pub fn threads_time(pid: u32, name: &str) -> Result<Duration> {
    let mut time = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        if fs::read_to_string(thread.join("comm"))?.starts_with(name) {
            time += running(&thread)?;
        }
    }
    Ok(time)
}

fn running(thread: &Path) -> Result<Duration> {
    let statistics = fs::read_to_string(thread.join("schedstat"))?;
    let nanoseconds = statistics.split(' ').next().unwrap_or_default();
    Ok(Duration::from_nanos(nanoseconds.parse().context("`schedstat` begins with a number")?))
}

/// Resident memory in KiB: `VmRSS`, but counted page by page, since the kernel keeps that one up to date only roughly.
pub fn memory(pid: u32) -> Result<u64> {
    let mut memory = 0;
    for pid in family(pid)? {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB"));
        memory += line.context("`smaps_rollup` has a line `Rss`")?.parse::<u64>()?;
    }
    Ok(memory)
}
