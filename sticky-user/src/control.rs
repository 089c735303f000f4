//! How commands talk to a running `sticky run`: over a Unix socket in the run's folder, a line of JSON there, and lines
//! of JSON back, the last of which says how it ended.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::net::sockopt::socket_peercred;
use serde::{Deserialize, Serialize};

use crate::kernel;
use crate::pool;
use crate::refusal::Refusal;

/// Where runs have their folders.
pub const RUNS: &str = "/run/sticky";
/// The socket's name in a run's folder.
pub const SOCKET: &str = "control";

/// What a run can be asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// To have this many workers.
    Scale {
        /// How many.
        workers: usize,
        /// Whether only to tell what would be done.
        dry_run: bool,
    },
    /// To put a new process in the place of each worker's.
    Reload {
        /// How many at a time.
        parallel: usize,
        /// Whether only to tell what would be done.
        dry_run: bool,
    },
    /// To leave the run to another sticky.
    Upgrade {
        /// Its program.
        binary: PathBuf,
    },
}

/// What a run answers. All but the first are the last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// How far it is.
    Progress(String),
    /// It is done.
    Done(String),
    /// It failed.
    Failed(String),
    /// It was not begun.
    Refused {
        /// What is wrong.
        what: String,
        /// The next step.
        hint: String,
    },
}

/// Asks the run of this name, or the only one there is, and prints what it answers until it is done.
pub fn ask(name: Option<&str>, request: &Request) -> Result<()> {
    let (name, mut stream) = find(name)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).with_context(|| format!("the run `{name}` cannot be asked"))?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Reply::Progress(text) => print(&text)?,
            Reply::Done(text) => return print(&text),
            Reply::Failed(text) => bail!(text),
            Reply::Refused { what, hint } => return Err(Refusal::new(what, hint).into()),
        }
    }
    bail!("the run `{name}` ended before it was done")
}

fn print(text: &str) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        // Whoever reads has seen enough; the run goes on with it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A run's name as its folder has it.
pub fn folder_name(name: &str) -> String {
    name.replace(['/', '.', ' '], "-")
}

fn find(name: Option<&str>) -> Result<(String, UnixStream)> {
    if let Some(name) = name.map(folder_name) {
        return match connect(&name) {
            Ok(stream) => Ok((name, stream)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(not_permitted().into()),
            Err(_) => Err(no_such_run(&name)?.into()),
        };
    }
    let mut found = Vec::new();
    for name in names()? {
        match connect(&name) {
            Ok(stream) if is_here(&stream) => found.push((name, stream)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(not_permitted().into());
            }
            // It was left by a sticky that is gone, or belongs elsewhere.
            Ok(_) | Err(_) => {}
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(no_run()?.into()),
        _ => {
            let names: Vec<_> = found.iter().map(|(name, _)| format!("`{name}`")).collect();
            let what = format!("{} runs are active: {}", names.len(), names.join(", "));
            Err(Refusal::new(what, format!("say which: `--name {}`", found[0].0)).into())
        }
    }
}

fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(RUNS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("`{RUNS}` cannot be read"))?,
    };
    let mut names: Vec<_> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn connect(name: &str) -> io::Result<UnixStream> {
    UnixStream::connect(Path::new(RUNS).join(name).join(SOCKET))
}

/// Whether the run at the other end is of this network namespace.
fn is_here(stream: &UnixStream) -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let peer = socket_peercred(stream).map(|peer| peer.pid.as_raw_nonzero().to_string());
    peer.is_ok_and(|peer| namespace(&peer) == namespace("self"))
}

fn not_permitted() -> Refusal {
    Refusal::new(
        format!("this user may not look into `{RUNS}`"),
        "run it as root (`sudo sticky …`), like the run",
    )
}

fn no_such_run(name: &str) -> Result<Refusal> {
    let mut active = names()?;
    active.retain(|name| connect(name).is_ok_and(|stream| is_here(&stream)));
    let hint = match active.as_slice() {
        [] => "no run is active here; `sticky run --name NAME -- COMMAND` starts one".to_owned(),
        names => format!("active here: `{}`", names.join("`, `")),
    };
    Ok(Refusal::new(format!("no run `{name}` is active"), hint))
}

fn no_run() -> Result<Refusal> {
    let own = kernel::network_namespace()?;
    let pools = pool::directories(|id| id.namespace == own)?;
    Ok(match pools.iter().find(|(_, dir)| pool::owner(dir).is_some()) {
        Some((id, _)) => Refusal::new(
            format!(
                "no `sticky run` is active here; {id} is followed by `sticky attach`, whose workers are not sticky's"
            ),
            "start and stop the workers by what started them: `sticky attach` takes new ones in by itself",
        ),
        None => Refusal::new(
            "no `sticky run` is active in this network namespace",
            "`sticky status` lists the pools; for a run in a container, enter its namespace: `nsenter --target PID --net sticky …`",
        ),
    })
}
