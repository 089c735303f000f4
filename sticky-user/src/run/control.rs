//! The run's end of the control socket: requests come in, and answers go out to whoever asked, if they are still there.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::task::TaskTracker;

use crate::control::{Reply, Request, SOCKET};
use crate::say::say;

/// The longest request.
const LONGEST: u64 = 64 * 1024;
/// How long it may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last answers may take to be read.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long to wait when no connection can be accepted, for want of descriptors say.
const PAUSE: Duration = Duration::from_millis(100);

/// A request, and who made it.
pub struct Order {
    /// What is to be done.
    pub request: Request,
    /// Who is told.
    pub asker: Asker,
}

/// Who asked for something: a command that waits at the other end of the socket, or nobody, as with a signal.
pub struct Asker(Option<UnboundedSender<Reply>>);

impl Asker {
    /// Nobody who could be told.
    pub fn nobody() -> Self {
        Self(None)
    }

    /// Tells how far it is.
    pub fn tell(&self, text: impl Display) {
        say(&text);
        self.send(Reply::Progress(text.to_string()));
    }

    /// Tells that it is done.
    pub fn done(self, text: impl Display) {
        say(&text);
        self.send(Reply::Done(text.to_string()));
    }

    /// Answers what was only a question.
    pub fn answer(self, text: String) {
        self.send(Reply::Done(text));
    }

    /// Tells that it failed.
    pub fn failed(self, text: impl Display) {
        say(&text);
        self.send(Reply::Failed(text.to_string()));
    }

    /// Refuses.
    pub fn refuse(self, what: impl Display, hint: impl Display) {
        if self.0.is_none() {
            say(&what);
        }
        self.send(Reply::Refused { what: what.to_string(), hint: hint.to_string() });
    }

    fn send(&self, reply: Reply) {
        if let Some(asker) = &self.0 {
            // Who went away does not want to know.
            let _ = asker.send(reply);
        }
    }
}

/// The control socket.
pub struct Control {
    orders: UnboundedReceiver<Order>,
    sender: UnboundedSender<Order>,
    served: TaskTracker,
}

impl Control {
    /// Opens it in the run's folder. Without it the run goes on all the same.
    pub fn open(dir: &Path) -> Self {
        let (sender, orders) = unbounded_channel();
        let control = Self { orders, sender, served: TaskTracker::new() };
        control.reopen(dir);
        control
    }

    /// Opens it anew, in the place of one that another process may have opened.
    pub fn reopen(&self, dir: &Path) {
        match listen(&dir.join(SOCKET)) {
            Ok(listener) => drop(tokio::spawn(accept(listener, self.sender.clone(), self.served.clone()))),
            Err(error) => say(format_args!("no command can reach this run: {error:#}")),
        }
    }

    /// Lets what was answered reach who asked.
    pub async fn finish(&self) {
        self.served.close();
        let _ = tokio::time::timeout(FAREWELL, self.served.wait()).await;
    }

    /// The next request.
    pub async fn order(&mut self) -> Order {
        match self.orders.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }
}

/// A new socket in the place of an older one, which is moved away rather than removed: there is always one to be found.
fn listen(path: &Path) -> Result<UnixListener> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let context = || format!("the socket `{}` cannot be opened", path.display());
    let listener = UnixListener::bind(&fresh).with_context(context)?;
    fs::rename(&fresh, path).with_context(context)?;
    Ok(listener)
}

async fn accept(listener: UnixListener, orders: UnboundedSender<Order>, served: TaskTracker) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(served.spawn(serve(stream, orders.clone()))),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Passes one request on, and its answers back. An error is that of somebody who went away.
async fn serve(stream: UnixStream, orders: UnboundedSender<Order>) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut line = Vec::new();
    let mut from = BufReader::new(from.take(LONGEST));
    tokio::time::timeout(PATIENCE, from.read_until(b'\n', &mut line)).await??;
    let (sender, mut replies) = unbounded_channel();
    let asker = Asker(Some(sender));
    match serde_json::from_slice(&line) {
        Ok(request) => drop(orders.send(Order { request, asker })),
        Err(error) => asker.refuse(
            format_args!("the run does not know this request: {error}"),
            "use the `sticky` that runs it, or upgrade the run: `sticky upgrade`",
        ),
    }
    while let Some(reply) = replies.recv().await {
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        to.write_all(&line).await?;
    }
    Ok(())
}
