//! One end of an HTTP connection, byte by byte: what a client or a worker says and hears, with no library's manners.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::client::dial;

/// How long to listen for what must not come.
const SILENCE: Duration = Duration::from_millis(50);

/// One end of a connection, and what came over it that nobody has asked for yet.
pub struct Wire {
    stream: TcpStream,
    heard: Vec<u8>,
}

/// The head of a request or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The request line or the status line.
    pub first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> io::Result<Self> {
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter(|line| !line.is_empty()).map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(|| odd(format!("no header: {line:?}")))?;
            Ok((name.to_owned(), value.trim().to_owned()))
        });
        Ok(Self { first, headers: headers.collect::<io::Result<_>>()? })
    }

    /// The headers, as they were written.
    pub fn lines(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// The values of all headers of this name, whatever its case.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of the only header of this name.
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "several {name} in {self:?}");
        all.first().copied()
    }

    /// The status of a response.
    #[track_caller]
    pub fn status(&self) -> u16 {
        let status = self.first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        status.unwrap_or_else(|| panic!("no status line: {:?}", self.first))
    }

    fn length(&self) -> io::Result<usize> {
        let length = self.get("content-length").ok_or_else(|| odd(format!("no length in {self:?}")))?;
        length.parse().map_err(|_| odd(format!("length {length:?}")))
    }

    /// Whether the other end will close the connection after this.
    pub fn closes(&self) -> bool {
        self.all("connection").iter().any(|value| value.eq_ignore_ascii_case("close"))
    }
}

impl Wire {
    /// A connection from this address, which must succeed.
    #[track_caller]
    pub fn dial(from: impl Into<IpAddr>, to: &str) -> Self {
        Self::new(dial(from.into(), to.parse().expect("an address")).expect("a connection"))
    }

    pub fn new(stream: TcpStream) -> Self {
        Self { stream, heard: Vec::new() }
    }

    /// Sends these bytes.
    #[track_caller]
    pub fn say(&mut self, text: impl AsRef<[u8]>) {
        self.try_say(text).expect("sent");
    }

    pub fn try_say(&mut self, text: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(text.as_ref())
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is there");
    }

    /// Waits for more; false at the end.
    fn more(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        // A read with a time limit may be interrupted where others go on: signal(7).
        let length = loop {
            match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.heard.extend_from_slice(&chunk[..length]);
        Ok(length > 0)
    }

    /// All up to and with `mark`.
    fn until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.heard.windows(mark.len()).position(|window| window == mark) {
                return Ok(self.heard.drain(..at + mark.len()).collect());
            }
            if !self.more()? {
                let text = String::from_utf8_lossy(&self.heard).into_owned();
                return Err(io::Error::new(ErrorKind::UnexpectedEof, format!("the end after {text:?}")));
            }
        }
    }

    pub fn try_head(&mut self) -> io::Result<Head> {
        let bytes = self.until(b"\r\n\r\n")?;
        Head::parse(str::from_utf8(&bytes).map_err(|_| odd("a head that is no text"))?)
    }

    /// The next request's or response's head.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        self.try_head().expect("a head")
    }

    pub fn try_bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.heard.len() < count {
            if !self.more()? {
                let text = format!("the end after {} of {count} bytes", self.heard.len());
                return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
            }
        }
        Ok(self.heard.drain(..count).collect())
    }

    /// The next bytes, as text.
    #[track_caller]
    pub fn text(&mut self, count: usize) -> String {
        String::from_utf8(self.try_bytes(count).expect("more bytes")).expect("text")
    }

    /// A response whose body has a length.
    pub fn try_response(&mut self) -> io::Result<(Head, Vec<u8>)> {
        let head = self.try_head()?;
        let body = self.try_bytes(head.length()?)?;
        Ok((head, body))
    }

    #[track_caller]
    pub fn response(&mut self) -> (Head, String) {
        let (head, body) = self.try_response().expect("a response");
        (head, String::from_utf8(body).expect("text"))
    }

    /// A line, without its end.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let line = self.until(b"\r\n").expect("a line");
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// The data of the next chunk; nothing of the last one.
    #[track_caller]
    pub fn chunk(&mut self) -> String {
        let size = self.line();
        let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("chunk size {size:?}"));
        let data = self.text(size);
        if size > 0 {
            assert_eq!(self.line(), "", "data goes on after its chunk");
        }
        data
    }

    /// All chunks' data up to the last one, and the trailers.
    #[track_caller]
    pub fn chunks(&mut self) -> (String, Vec<String>) {
        let mut data = String::new();
        loop {
            match self.chunk() {
                chunk if chunk.is_empty() => break,
                chunk => data += &chunk,
            }
        }
        let mut trailers = Vec::new();
        loop {
            match self.line() {
                line if line.is_empty() => return (data, trailers),
                line => trailers.push(line),
            }
        }
    }

    /// All that comes before the other end closes, which it must do.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        while self.more().expect("an orderly end") {}
        String::from_utf8(std::mem::take(&mut self.heard)).expect("text")
    }

    /// The other end closes, or breaks off, and says nothing more.
    #[track_caller]
    pub fn closed(&mut self) {
        let more = match self.more() {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            more => more.expect("an end in time"),
        };
        assert!(!more && self.heard.is_empty(), "more came: {:?}", String::from_utf8_lossy(&self.heard));
    }

    /// Whether the other end closes or breaks off, rather than say something.
    pub fn ended(&mut self) -> bool {
        self.heard.is_empty() && !matches!(self.more(), Ok(true))
    }

    /// Nothing comes, and the connection stays.
    #[track_caller]
    pub fn silent(&mut self) {
        assert!(self.heard.is_empty(), "heard {:?}", String::from_utf8_lossy(&self.heard));
        let usual = self.stream.read_timeout().expect("a socket");
        self.stream.set_read_timeout(Some(SILENCE)).expect("a socket");
        match self.more() {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            other => panic!("{other:?}, heard {:?}", String::from_utf8_lossy(&self.heard)),
        }
        self.stream.set_read_timeout(usual).expect("a socket");
    }

    /// Where the other end is.
    pub fn peer(&self) -> SocketAddr {
        let address = self.stream.peer_addr().expect("a connection");
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// Whether something has come, if only the end. Does not wait.
    pub fn has_news(&self) -> bool {
        let mut byte = [0];
        self.stream.set_nonblocking(true).expect("a socket");
        let peeked = self.stream.peek(&mut byte);
        self.stream.set_nonblocking(false).expect("a socket");
        !self.heard.is_empty() || !peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

fn odd(what: impl fmt::Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_string())
}
