//! Workers that are threads of the test: they answer requests and keep every byte that they get.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, shutdown, socket_with, sockopt};

use super::DEADLINE;

/// The workers of a pool on a port. Dropped, they listen no more.
pub struct Recorders {
    listeners: Vec<Arc<TcpListener>>,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    connections: Mutex<Vec<Record>>,
    changed: Condvar,
}

/// What came over one connection.
#[derive(Clone, Default)]
pub struct Record {
    pub bytes: Vec<u8>,
    pub closed: bool,
}

/// A request as a worker understands it that is as strict as can be.
#[derive(Debug)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Recorders {
    /// So many workers, each with a listening socket of its own.
    pub fn listen(workers: usize, port: u16) -> Self {
        let log = Arc::new(Log::default());
        let listeners = (0..workers).map(|_| Arc::new(listener(port))).collect::<Vec<_>>();
        for listener in &listeners {
            let (listener, log) = (Arc::clone(listener), Arc::clone(&log));
            std::thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    let log = Arc::clone(&log);
                    std::thread::spawn(move || serve(stream, &log));
                }
            });
        }
        Self { listeners, log }
    }

    /// All connections so far.
    pub fn records(&self) -> Vec<Record> {
        self.log.connections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the connections whenever something has come until `ready` has an answer.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, mut ready: impl FnMut(&[Record]) -> Option<T>) -> T {
        let begin = Instant::now();
        let mut records = self.log.connections.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(answer) = ready(&records) {
                return answer;
            }
            let left = DEADLINE.saturating_sub(begin.elapsed());
            assert!(!left.is_zero(), "still not after {DEADLINE:?}: {what}");
            (records, _) =
                self.log.changed.wait_timeout(records, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Recorders {
    fn drop(&mut self) {
        for listener in &self.listeners {
            let _ = shutdown(listener, rustix::net::Shutdown::Both);
        }
    }
}

/// A worker's listening socket.
pub fn listener(port: u16) -> TcpListener {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.expect("a socket");
    sockopt::set_socket_reuseaddr(&socket, true).expect("a socket");
    sockopt::set_socket_reuseport(&socket, true).expect("a socket");
    bind(&socket, &std::net::SocketAddr::from(([0, 0, 0, 0], port))).expect("the port is free");
    listen(&socket, 1024).expect("a socket");
    socket.into()
}

/// Answers each request with the path it asks for; one for `/early` as soon as its head is there, for `/big/N`
/// with N bytes, and for `/twice` with more than it should. Invites the content of one for `/expect`.
fn serve(mut stream: TcpStream, log: &Log) {
    let change = |change: &dyn Fn(&mut Record), at: usize| {
        change(&mut log.connections.lock().unwrap_or_else(PoisonError::into_inner)[at]);
        log.changed.notify_all();
    };
    let own = {
        let mut connections = log.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push(Record::default());
        connections.len() - 1
    };
    let (mut rest, mut early, mut invited) = (Vec::new(), false, false);
    let mut chunk = vec![0; 16 * 1024];
    'connection: while let Ok(length @ 1..) = stream.read(&mut chunk) {
        rest.extend_from_slice(&chunk[..length]);
        change(&|record| record.bytes.extend_from_slice(&chunk[..length]), own);
        loop {
            let answer = match Request::cut(&rest) {
                Ok(Some((request, length))) => {
                    rest.drain(..length);
                    if std::mem::take(&mut early) {
                        continue;
                    }
                    answer(&request.line)
                }
                Ok(None)
                    if !early && rest.starts_with(b"POST /early") && find(&rest, b"\r\n\r\n").is_some() =>
                {
                    early = true;
                    answer(&String::from_utf8_lossy(&rest))
                }
                Ok(None)
                    if !invited
                        && rest.starts_with(b"POST /expect")
                        && find(&rest, b"\r\n\r\n").is_some() =>
                {
                    invited = true;
                    "HTTP/1.1 100 Continue\r\n\r\n".to_owned()
                }
                Ok(None) => break,
                Err(_) => break 'connection,
            };
            if stream.write_all(answer.as_bytes()).is_err() {
                break 'connection;
            }
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    change(&|record| record.closed = true, own);
}

fn answer(line: &str) -> String {
    let path = line.split(' ').nth(1).unwrap_or_default();
    let body = match path.strip_prefix("/big/") {
        Some(length) => "x".repeat(length.parse().expect("a length")),
        None => path.to_owned(),
    };
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    match path {
        // Half of it, for now.
        "/early/half" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".to_owned(),
        "/twice" => answer + "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
        _ => answer,
    }
}

impl Record {
    /// The complete requests, and what comes after them.
    pub fn requests(&self) -> Result<(Vec<Request>, &[u8]), String> {
        let (mut requests, mut rest) = (Vec::new(), &self.bytes[..]);
        while let Some((request, length)) = Request::cut(rest)? {
            requests.push(request);
            rest = &rest[length..];
        }
        Ok((requests, rest))
    }
}

impl Request {
    /// The request that `bytes` begin with and its length, once it is complete.
    pub fn cut(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let head = str::from_utf8(&bytes[..end]).map_err(|error| error.to_string())?;
        let (line, headers) = head.split_once("\r\n").ok_or("no headers")?;
        if line.split(' ').count() != 3 || !line.ends_with(" HTTP/1.1") || !tidy(line) {
            return Err(format!("not a request line: {line:?}"));
        }
        let headers = fields(headers)?;
        let mut request = Self { line: line.to_owned(), headers, body: Vec::new(), trailers: Vec::new() };
        if request.all("host").len() != 1 {
            return Err(format!("not one Host: {request:?}"));
        }
        let begin = end + 4;
        let length = match (&request.all("content-length")[..], &request.all("transfer-encoding")[..]) {
            ([], []) => Some(begin),
            ([length], []) => {
                let length: usize = length.parse().map_err(|_| format!("Content-Length {length:?}"))?;
                let body = bytes.get(begin..begin + length);
                request.body.extend_from_slice(body.unwrap_or_default());
                body.map(|_| begin + length)
            }
            ([], ["chunked"]) => request.chunks(&bytes[begin..])?.map(|length| begin + length),
            both => return Err(format!("unclear where this ends: {both:?}")),
        };
        Ok(length.map(|length| (request, length)))
    }

    /// The values of all headers of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    fn chunks(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let mut at = 0;
        loop {
            let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
            let line = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
            let size = usize::from_str_radix(&line, 16).map_err(|_| format!("chunk size {line:?}"))?;
            at += end + 2;
            if size == 0 {
                break;
            }
            let (Some(data), Some(after)) = (bytes.get(at..at + size), bytes.get(at + size..at + size + 2))
            else {
                return Ok(None);
            };
            if after != b"\r\n" {
                return Err(format!("{after:?} after a chunk"));
            }
            self.body.extend_from_slice(data);
            at += size + 2;
        }
        let rest = &bytes[at..];
        if rest.starts_with(b"\r\n") {
            return Ok(Some(at + 2));
        }
        let Some(end) = find(rest, b"\r\n\r\n") else { return Ok(None) };
        self.trailers = fields(&String::from_utf8_lossy(&rest[..end]))?;
        Ok(Some(at + end + 4))
    }
}

fn fields(lines: &str) -> Result<Vec<(String, String)>, String> {
    let field = |line: &str| match line.split_once(':') {
        Some((name, value)) if !name.is_empty() && !name.contains([' ', '\t']) && tidy(line) => {
            Ok((name.to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!("not a header: {line:?}")),
    };
    lines.split("\r\n").map(field).collect()
}

/// Without control characters, but tabs.
fn tidy(line: &str) -> bool {
    !line.contains(|c: char| c.is_control() && c != '\t')
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
