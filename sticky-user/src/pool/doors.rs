//! Sockets of our own in a pool's group, for trusted proxies: the redirect's, and the gate's where there can be one.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result};
use aya::maps::{MapData, ProgramArray};
use aya::programs::{ProgramFd, SkReuseport, SocketFilter};
use rustix::net::sockopt;
use sticky_ebpf::abi::{Config, GATE, Gate as State, ProxyProtocol, REDIRECT, SINK, Sharing, maps};

use super::pins::Pins;
use super::{Pool, steer};
use crate::gate::{self, Gate, Reaper};
use crate::group::Member;
use crate::kernel;
use crate::redirect::{Redirect, peers::Peers};
use crate::say::say;
use crate::trust;

/// How long to wait before the redirect is tried again. Its very attempt wakes whoever waits for listeners.
const RETRY: Duration = Duration::from_secs(2);

/// What a pool has opened for trusted proxies.
#[derive(Default)]
pub struct Doors {
    gate: Option<Gate>,
    redirect: Option<Redirect>,
    /// The cookies of their sockets, and of those of a process before this one that still has connections.
    cookies: Vec<u64>,
    /// Leads the program to the one that reads requests, for as long as it is open.
    reader: Option<ProgramArray<MapData>>,
    /// When to try to open the redirect once more.
    retry: Option<Instant>,
    peers: Peers,
}

impl Doors {
    /// None yet, beside those of another process.
    pub fn beside(pins: &Pins) -> Result<Self> {
        let others = [REDIRECT, GATE, SINK].map(|slot| pins.cookie(slot));
        let others = others.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Self { cookies: others.into_iter().flatten().collect(), ..Self::default() })
    }
}

impl Pool {
    /// Opens the redirect and the gate once somebody is trusted. `members` are the group's sockets; they open beside the
    /// first of them that is in a slot.
    ///
    /// They stay when nobody is trusted any more, for the connections that are there: nobody else is sent to them.
    pub fn serve_proxies(&mut self, members: &[Member]) -> Result<()> {
        let waiting = self.doors.retry.is_some_and(|at| at > Instant::now());
        if self.lacks_redirect() && !waiting {
            self.doors.retry = Some(Instant::now() + RETRY);
            let cookies = self.pins.cookies()?;
            let placed = members.iter().find(|member| cookies.contains(&Some(member.listener.cookie)));
            let Some(member) = placed else {
                self.doors.retry = None;
                return Ok(());
            };
            self.open_doors(member.listener.uid)?;
            say(format_args!("{} trusts {}", self.id, trust::List(&self.pins.trusted()?)));
        }
        self.show_peers(members);
        Ok(())
    }

    /// Has the processes of these sockets see the proxy, or its client, as the peer of redirected connections.
    pub fn show_peers(&mut self, members: &[Member]) {
        if self.doors.redirect.is_some() {
            self.doors.peers.show(&mut self.program, members);
        }
    }

    /// Whether somebody is trusted whose connections nobody takes.
    pub fn lacks_redirect(&self) -> bool {
        self.doors.redirect.is_none() && self.pins.trusted().is_ok_and(|trusted| !trusted.is_empty())
    }

    /// Whether a socket is our own, and no worker's.
    pub fn is_own(&self, cookie: u64) -> bool {
        self.doors.cookies.contains(&cookie)
    }

    /// Closes the gate and takes the redirect away, for its connections to end in their time.
    pub fn take_redirect(&mut self) -> Option<Redirect> {
        self.doors.gate = None;
        self.doors.redirect.take()
    }

    /// Closes what another process has put its own in the place of, for new ones to be opened.
    pub fn reopen_doors(&mut self) -> Result<()> {
        let Some(redirect) = &self.doors.redirect else { return Ok(()) };
        let gate = self.pins.config()?.proxies.gate();
        let stand = self.pins.cookie(REDIRECT)? == Some(redirect.cookie)
            && self.doors.gate.as_ref().is_none_or(|door| door.stands() && gate == State::Open);
        if !stand {
            self.doors.retry = None;
            drop(self.take_redirect());
        }
        Ok(())
    }

    /// Opens them among the sockets of user `uid`.
    fn open_doors(&mut self, uid: u32) -> Result<()> {
        let sockets = self.prepare_gate(uid);
        let gate = sockets.as_ref().ok();
        let (program, steering) = (&mut self.program, &self.steering);
        let take_over = |socket: &OwnedFd| Ok(steer(program, steering)?.attach(socket)?);
        let mut redirect =
            Redirect::open(&self.id, &self.dir, uid, gate, steering.limits, self.succeeds, take_over)?;
        let state = sockets.as_ref().err().copied().unwrap_or(State::Closed);
        let proxies = |old: Config| old.proxies.trusting_somebody().with_gate(state);
        self.pins.amend(|old| Config { proxies: proxies(old), ..old })?;
        self.doors.cookies.push(redirect.cookie);
        if let Some(sockets) = gate {
            for socket in [&sockets.gate, &sockets.sink] {
                self.doors.cookies.push(sockopt::socket_cookie(socket)?);
            }
            let events = Arc::clone(&redirect.events);
            let reaper = if steering.keep_time_wait { None } else { Reaper::new(&self.id, events) };
            match Gate::open(&self.id, &self.dir, sockets, reaper) {
                Ok(gate) => {
                    redirect.close_before(gate.closes_after())?;
                    self.doors.gate = Some(gate);
                }
                Err(error) => {
                    let state = no_gate(State::NoSockets, &error);
                    self.pins.amend(|old| Config { proxies: old.proxies.with_gate(state), ..old })?;
                }
            }
        }
        self.doors.redirect = Some(redirect);
        Ok(())
    }

    /// The gate's sockets, with the program that reads requests in its place; or why there is no gate.
    fn prepare_gate(&mut self, uid: u32) -> Result<gate::Sockets, State> {
        let config = self.pins.config().map_err(|error| no_gate(State::NoSockets, &error))?;
        let strips = config.proxies.protocol() == Some(ProxyProtocol::Strip);
        if config.proxies.sharing() == Sharing::Shared || strips {
            return Err(State::Useless);
        }
        if !gate::has_cookies() {
            return Err(no_gate(State::NoCookies, &Error::msg("`net.ipv4.tcp_syncookies` is 0")));
        }
        self.load_reader().map_err(|error| no_gate(State::NoReader, &error))?;
        let filter = self.load_sink().map_err(|error| no_gate(State::NoReader, &error))?;
        gate::Sockets::open(&self.id, uid, filter).map_err(|error| no_gate(State::NoSockets, &error))
    }

    fn load_sink(&mut self) -> Result<ProgramFd> {
        let program = self.program.program_mut("sink");
        let program: &mut SocketFilter = program.context("the object has no program `sink`")?.try_into()?;
        if program.fd().is_err() {
            program.load().map_err(kernel::rejected)?;
        }
        Ok(program.fd()?.try_clone()?)
    }

    fn load_reader(&mut self) -> Result<()> {
        if self.doors.reader.is_some() {
            return Ok(());
        }
        let name = if self.steering.trace { "reader_traced" } else { "reader" };
        let program = self.program.program_mut(name);
        let program: &mut SkReuseport =
            program.with_context(|| format!("the object has no program `{name}`"))?.try_into()?;
        if program.fd().is_err() {
            program.load().map_err(kernel::rejected)?;
        }
        let program = program.fd()?.try_clone()?;
        let reader = self.program.take_map(maps::READER).context("the object has no map for the reader")?;
        let mut reader = ProgramArray::try_from(reader)?;
        reader.set(0, &program, 0)?;
        self.doors.reader = Some(reader);
        Ok(())
    }
}

/// Tells that there is no gate, and why.
fn no_gate(state: State, why: &Error) -> State {
    say(format_args!("no connection of a proxy is decided in the kernel, all are redirected: {why:#}"));
    state
}
