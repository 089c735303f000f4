//! `sticky explain`: which worker a client gets, and why.
//!
//! Runs the library's `steer` on what is pinned, as the program does on the same maps; and, for what a trusted proxy
//! says of a client, the library's walk over its header, as the redirect does.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::Result;
use serde::Serialize;
use sticky_ebpf::abi::{Config, Known, Slot};
use sticky_ebpf::client::Client;
use sticky_ebpf::forwarded::{self, HeaderName};
use sticky_ebpf::hash::hash;
use sticky_ebpf::lookup;

use crate::clock;
use crate::group::{self, Target};
use crate::kernel;
use crate::listeners;
use crate::pool;
use crate::pool::id::PoolId;
use crate::pool::pins::Pins;
use crate::pool::view::{Snapshot, View};
use crate::refusal::Refusal;

/// What is asked: a client, or a peer with what it says.
pub struct Question {
    /// The address that connects, or that a proxy tells.
    pub ip: IpAddr,
    /// The header lines of its request, if it is to be taken for a proxy.
    pub headers: Vec<HeaderLine>,
}

/// A line of a request's head.
#[derive(Clone, Debug)]
pub struct HeaderLine {
    name: String,
    value: String,
}

impl FromStr for HeaderLine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((name, value)) if HeaderName::new(name).is_some() => {
                Ok(Self { name: name.to_ascii_lowercase(), value: value.to_owned() })
            }
            _ => Err("expected a header as a request has it, such as `X-Forwarded-For: 203.0.113.7`".into()),
        }
    }
}

/// What one pool does with a client, as `--json` shows it.
#[derive(Serialize)]
pub struct Explanation {
    #[serde(skip)]
    id: PoolId,
    pool: String,
    /// Whether the pool believes what the asked address tells of others.
    trusted: bool,
    /// Where the client was found, in words.
    found: String,
    /// The client: the address under the pool's prefix.
    client: String,
    /// Where in the lookup table the client's hash points.
    entry: usize,
    /// The slot that owns that entry.
    owner: Slot,
    /// What is remembered of the client.
    known: Option<Remembered>,
    /// The slot that gets the connection; none when it is refused.
    slot: Option<Slot>,
    worker: Option<u32>,
    pid: Option<u32>,
    program: Option<String>,
    /// The outcome that the program counts.
    outcome: &'static str,
    /// The outcome in words.
    because: &'static str,
}

/// What is remembered of a client.
#[derive(Serialize)]
struct Remembered {
    /// The slot it has.
    slot: Slot,
    /// How long ago it last came, in seconds.
    gone: u64,
    /// Whether that is longer than clients are remembered.
    expired: bool,
}

impl Remembered {
    fn new(known: Known, config: &Config) -> Self {
        let gone = clock::now().since(known.seen);
        Self {
            slot: known.slot,
            gone: clock::duration(gone).as_secs(),
            expired: gone >= config.memory.remember,
        }
    }
}

/// Answers `question` for each pool of this network namespace that `target` names, all for `None`.
pub fn explain(question: &Question, target: Option<&Target>) -> Result<Vec<Explanation>> {
    let ip = question.ip;
    let namespace = kernel::network_namespace()?;
    let pools = pool::read(|id| id.namespace == namespace && target.is_none_or(|target| target.names(id)))?;
    let mut found = Vec::new();
    for (id, _, pins) in pools {
        let connects = ip.to_canonical().is_ipv4() || id.address.is_ipv6();
        // A proxy can tell of a client that could not connect itself.
        let told = question.headers.is_empty() && pins.config()?.proxies.trusting();
        if connects || told {
            found.push(explain_pool(question, id, &RefCell::new(pins))?);
        }
    }
    if found.is_empty() {
        return Err(Refusal::new(
            format!("no pool takes connections from {ip}"),
            "`sticky status` lists the pools",
        )
        .into());
    }
    Ok(found)
}

/// The client that `question` is about, and where it was found.
fn client(question: &Question, config: &Config, pins: &Pins) -> Result<(Client, bool, String)> {
    let peer = Client::from(question.ip);
    let header = &config.proxies.header;
    let trusted = config.proxies.trusting() && pins.is_trusted(peer)?;
    if question.headers.is_empty() {
        return Ok((peer, trusted, "the address itself".into()));
    }
    if !trusted {
        return Ok((peer, trusted, "the address itself, since it is not trusted".into()));
    }
    if config.proxies.protocol().is_some() {
        let found = "the address itself: the pool looks for a PROXY header, not into requests";
        return Ok((peer, trusted, found.into()));
    }
    let lines = question.headers.iter().filter(|line| line.name == header.as_str());
    let believed = |client| pins.is_trusted(client).unwrap_or(false);
    let client = forwarded::client(header.kind(), peer, lines.map(|line| &line.value), believed);
    let found = if client == peer {
        format!("the address itself, since `{}` names no other", header.as_str())
    } else {
        format!("named in `{}`", header.as_str())
    };
    Ok((client, trusted, found))
}

fn explain_pool(question: &Question, id: PoolId, pins: &RefCell<Pins>) -> Result<Explanation> {
    let snapshot = Snapshot::read(&pins.borrow(), None)?;
    let Snapshot { config, table, .. } = &snapshot;
    let (client, trusted, found) = client(question, config, &pins.borrow())?;
    let choice = View { snapshot: &snapshot, pins, without: &[], moves: None }.steer(client);
    let slot = choice.map(|choice| choice.slot);
    let (outcome, because) =
        choice.map_or(sticky_ebpf::abi::Outcome::Refused, |choice| choice.outcome).describe();

    let masked = config.masks.apply(client);
    let hash = hash(config.seed, masked);
    let cookie = slot.and_then(|slot| snapshot.cookie(slot));
    let was = pins.borrow().known(masked)?;
    let known = (was != Known::NOBODY).then(|| Remembered::new(was, config));
    let groups = group::find(id.protocol, |other| *other == id, listeners::processes)?;
    let mut members = groups.iter().flat_map(|group| &group.members);
    let pid = members
        .find(|member| Some(member.listener.cookie) == cookie)
        .and_then(|member| member.holders.first())
        .map(|holder| holder.pid);
    let (ipv4, ipv6) = config.masks.prefixes();
    let prefix = if masked.is_v4() { ipv4 } else { ipv6 };
    Ok(Explanation {
        id,
        pool: id.to_string(),
        trusted,
        found,
        client: format!("{}/{prefix}", IpAddr::from(masked)),
        entry: lookup::position(hash, 0),
        owner: lookup::candidate(table, hash, 0),
        known,
        slot,
        worker: slot.map(|slot| u32::from(slot) + 1),
        pid,
        program: pid.map(group::name),
        outcome,
        because,
    })
}

/// The explanations as a person reads them.
pub fn text(question: &Question, explanations: &[Explanation]) -> Result<String> {
    let mut out = String::new();
    for one in explanations {
        let ip = match question.headers.is_empty() {
            true => question.ip.to_string(),
            false => format!("a request from {}", question.ip),
        };
        let Some(slot) = one.slot else {
            writeln!(out, "{ip} is refused at {}: no worker is alive", one.id)?;
            continue;
        };
        let process = match (&one.program, one.pid) {
            (Some(program), Some(pid)) => format!(", `{program}`, process {pid}"),
            _ => String::new(),
        };
        writeln!(out, "{ip} gets worker {} at {} (slot {slot}{process})", slot + 1, one.id)?;
        let found = if question.headers.is_empty() { String::new() } else { format!(", {}", one.found) };
        writeln!(out, "  client   {}{found}", one.client)?;
        match &one.known {
            Some(known) if known.expired => {
                writeln!(out, "  known    no more: at slot {}, {}s ago", known.slot, known.gone)?
            }
            Some(known) => {
                writeln!(out, "  known    at slot {}, since it came {}s ago", known.slot, known.gone)?
            }
            None => {}
        }
        writeln!(out, "  lookup   entry {} of the table is slot {}'s", one.entry, one.owner)?;
        writeln!(out, "  outcome  {}", one.because)?;
    }
    Ok(out)
}
