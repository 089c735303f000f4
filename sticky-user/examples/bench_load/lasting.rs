//! Requests over connections that stay, many at a time in one thread, so that little is left of the load's own cost.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::connecting::ask;
use crate::pace::Pace;
use crate::tally::{Tally, body};
use crate::{Args, Mode, request};

/// How long there may be no answer at all.
const LIMIT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// A connection with at most one request under way.
pub struct Connection {
    stream: TcpStream,
    /// Whose request it carries.
    client: usize,
    since: Instant,
    /// What there is of the answer.
    answer: Vec<u8>,
}

/// Opens the connections. Each has had an answer when this returns.
pub fn open(args: &Args) -> Result<Vec<Connection>> {
    let count = match args.mode {
        Mode::Forwarded => args.at_a_time,
        Mode::KeepAlive | Mode::Connect | Mode::Drawn | Mode::Closing => args.clients,
    };
    let requests = requests(args);
    let connection = |number| {
        let client = number % args.clients;
        let address = match args.mode {
            Mode::Forwarded => Ipv4Addr::LOCALHOST,
            Mode::KeepAlive | Mode::Connect | Mode::Drawn | Mode::Closing => args.address(client),
        };
        let mut stream = args.connect(SocketAddrV4::new(address, 0))?;
        ask(&mut stream, &requests[client])?;
        stream.set_nonblocking(true)?;
        Ok(Connection { stream, client, since: Instant::now(), answer: Vec::with_capacity(512) })
    };
    (0..count).map(connection).collect()
}

/// What each client sends.
fn requests(args: &Args) -> Vec<Vec<u8>> {
    (0..args.clients).map(|client| request::of(args, client)).collect()
}

/// The connection that has rested longest sends the next request, when an answer has come or it is time for one.
pub fn run(args: &Args, connections: &mut [Connection]) -> Result<Tally> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, connection) in connections.iter().enumerate() {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&epoll, &connection.stream, data, epoll::EventFlags::IN)?;
    }
    let mut resting: VecDeque<_> = (0..connections.len()).collect();
    let most = args.rate.map_or(args.at_a_time.min(connections.len()), |_| connections.len());
    let mut requests = Requests { of: requests(args), shared: args.mode == Mode::Forwarded, next: 0 };
    let mut events = Vec::with_capacity(args.at_a_time);
    let mut tally = Tally::begin(args.clients);
    let mut pace = Pace::begin(args);
    loop {
        while connections.len() - resting.len() < most
            && let Some(since) = pace.due()
            && let Some(next) = resting.pop_front()
        {
            requests.send(&mut connections[next], since)?;
        }
        let waiting = connections.len() - resting.len();
        let rest = if waiting < most { pace.rest() } else { None };
        if waiting == 0 && rest.is_none() {
            return Ok(tally);
        }
        events.clear();
        let count = epoll::wait(&epoll, spare_capacity(&mut events), Some(&rest.unwrap_or(LIMIT)))?;
        ensure!(count > 0 || rest.is_some(), "no answer for 10 s");
        for event in &events {
            let number = event.data.u64() as usize;
            if connections[number].receive(&mut tally)? {
                resting.push_back(number);
            }
        }
    }
}

struct Requests {
    /// What each client sends.
    of: Vec<Vec<u8>>,
    /// Whether any connection is for any client.
    shared: bool,
    /// Whose turn it is then.
    next: usize,
}

impl Requests {
    /// The answer is waited for `since` then.
    fn send(&mut self, connection: &mut Connection, since: Instant) -> Result<()> {
        if self.shared {
            connection.client = self.next;
            self.next = (self.next + 1) % self.of.len();
        }
        connection.since = since;
        connection.stream.write_all(&self.of[connection.client]).context("cannot send")
    }
}

impl Connection {
    /// Reads on; true when the answer is complete.
    fn receive(&mut self, tally: &mut Tally) -> Result<bool> {
        let mut buffer = [0; 512];
        match self.stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Ok(0) => anyhow::bail!("the connection ended after {}", self.answer.escape_ascii()),
            read => self.answer.extend_from_slice(&buffer[..read.context("no answer")?]),
        }
        let Some(worker) = body(&self.answer)? else { return Ok(false) };
        self.answer.clear();
        tally.answer(self.client, worker, self.since.elapsed());
        Ok(true)
    }
}
