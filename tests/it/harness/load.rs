//! Load: many clients at once, each over a connection of its own that it keeps.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::Value;

use super::client::dial;
use super::http::Wire;

const THREADS: usize = 4;

/// Somebody who asks again and again.
pub struct Asker {
    /// The client, as it should be known to the worker.
    pub client: IpAddr,
    /// Where it connects from.
    pub from: IpAddr,
    request: String,
    wire: Option<Wire>,
}

impl Asker {
    /// A client that connects itself.
    pub fn client(client: IpAddr) -> Self {
        Self::with_headers(client, client, "")
    }

    /// The same, over a connection for each request.
    pub fn each(client: IpAddr) -> Self {
        Self::with_headers(client, client, "Connection: close\r\n")
    }

    /// A client whose requests a proxy at `from` brings.
    pub fn behind(from: IpAddr, client: IpAddr) -> Self {
        Self::with_headers(from, client, &format!("X-Forwarded-For: {client}\r\n"))
    }

    /// The same, over a connection for each request.
    pub fn each_behind(from: IpAddr, client: IpAddr) -> Self {
        Self::with_headers(from, client, &format!("X-Forwarded-For: {client}\r\nConnection: close\r\n"))
    }

    fn with_headers(from: IpAddr, client: IpAddr, headers: &str) -> Self {
        let request = format!("GET /asked HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
        Self { client, from, request, wire: None }
    }

    /// Sends a request; over a new connection where the old one ended while nothing was asked.
    fn ask(&mut self, to: SocketAddr) -> io::Result<()> {
        if self.wire.as_ref().is_none_or(Wire::has_news) {
            self.wire = Some(Wire::new(dial(self.from, to)?));
        }
        self.wire.as_mut().expect("it was just made").try_say(&self.request)
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let wire = self.wire.as_mut().expect("something was asked");
        let (head, body) = wire.try_response()?;
        if head.closes() || self.request.contains("\r\nConnection: close\r\n") {
            self.wire = None;
        }
        Ok(Answer { status: head.status(), body: String::from_utf8_lossy(&body).into_owned() })
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// What the worker told of itself.
    #[track_caller]
    pub fn told(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

/// One request and its fate.
#[derive(Debug)]
pub struct Visit {
    pub client: IpAddr,
    pub began: Instant,
    pub ended: Instant,
    pub answer: Result<Answer, String>,
}

impl Visit {
    /// The PID that answered, or what went wrong.
    pub fn pid(&self) -> Result<u64, String> {
        match &self.answer {
            Ok(answer) if answer.status == 200 => answer.told()["pid"].as_u64().ok_or("no PID".into()),
            Ok(answer) => Err(format!("status {}: {}", answer.status, answer.body)),
            Err(error) => Err(error.clone()),
        }
    }
}

/// All `askers` ask in rounds, all of a thread's at a time, for as long as `more` says so.
pub fn load(to: SocketAddr, askers: Vec<Asker>, more: impl Fn(usize) -> bool + Sync) -> Vec<Visit> {
    let visits = Mutex::new(Vec::new());
    load_into(&visits, to, askers, more);
    visits.into_inner().expect("no thread panics")
}

/// The same, told as it happens.
pub fn load_into(
    visits: &Mutex<Vec<Visit>>,
    to: SocketAddr,
    askers: Vec<Asker>,
    more: impl Fn(usize) -> bool + Sync,
) {
    let mut shares: Vec<Vec<Asker>> = (0..THREADS).map(|_| Vec::new()).collect();
    for (n, asker) in askers.into_iter().enumerate() {
        shares[n % THREADS].push(asker);
    }
    let more = &more;
    std::thread::scope(|scope| {
        for mut share in shares {
            scope.spawn(move || {
                let mut round = 0;
                while more(round) {
                    let seen = ask_all(&mut share, to);
                    visits.lock().expect("no thread panics").extend(seen);
                    round += 1;
                }
            });
        }
    });
}

fn ask_all(askers: &mut [Asker], to: SocketAddr) -> Vec<Visit> {
    let asked: Vec<_> = askers.iter_mut().map(|asker| (Instant::now(), asker.ask(to))).collect();
    let answers = askers.iter_mut().zip(asked).map(|(asker, (began, asked))| {
        let answer = asked.and_then(|()| asker.answer()).map_err(|error| {
            asker.wire = None;
            format!("{error} ({:?})", error.kind())
        });
        Visit { client: asker.client, began, ended: Instant::now(), answer }
    });
    answers.collect()
}

/// Load in the background of something else, at `more`'s end or when this is dropped, also by a failing test.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Loads with `askers` while `during` runs; what it gave, and all visits. `during` sees the visits so far.
pub fn under_load<T>(
    to: SocketAddr,
    askers: Vec<Asker>,
    during: impl FnOnce(&Mutex<Vec<Visit>>) -> T,
) -> (T, Vec<Visit>) {
    let (stop, visits) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let given = std::thread::scope(|scope| {
        let stopping = Stop(&stop);
        scope.spawn(|| load_into(&visits, to, askers, |_| !stop.load(Ordering::Relaxed)));
        let given = during(&visits);
        drop(stopping);
        given
    });
    (given, visits.into_inner().expect("no thread panics"))
}

/// Every visit was answered by its client's worker; how many each had.
#[track_caller]
pub fn all_at_home(visits: &[Visit], homes: &HashMap<IpAddr, u64>) -> HashMap<IpAddr, usize> {
    let mut count = HashMap::new();
    for visit in visits {
        assert_eq!(visit.pid(), Ok(homes[&visit.client]), "{}", visit.client);
        *count.entry(visit.client).or_default() += 1;
    }
    count
}
