//! The gate before hyper: a proxy's bytes as they come in, of which only well-framed messages go on, one at a time.
//!
//! hyper is lenient where senders are sloppy, and an attacker lives on two readers that see different messages in the
//! same bytes. So nothing of a head goes on before all of it is there and is in order ([`super::framing`]), and of a
//! body nothing that is out of order. The next message waits until the last one is answered: then what is wrong with it
//! is told after that answer, and what follows a request to upgrade is the tunnel's.
//!
//! The time limits for what a proxy sends are kept here too.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use sticky_ebpf::abi::Event;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::events::Events;
use super::framing::{Framing, Malformed};
use super::{Limits, framing};
use crate::say::Seldom;

/// What hyper says when content that is expected is wanted: not an answer yet.
const INVITATION: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// The most bytes of interim answers that wait to be sent.
const INTERIM: usize = 64 * 1024;
/// How long is read what follows a refused message, so that the refusal is not lost in a reset.
const LINGER: Duration = Duration::from_secs(1);

/// What a connection's guard and its requests tell each other.
#[derive(Default)]
pub struct Exchange {
    /// Messages whose answer is complete.
    answered: AtomicU64,
    /// Whether the connection is a tunnel: no messages, only bytes.
    tunnel: AtomicBool,
    /// Interim answers (1xx) that go out before anything else.
    interim: Mutex<(BytesMut, Option<Waker>)>,
}

impl Exchange {
    /// A token for the answer to the current message.
    pub fn answering(self: &Arc<Self>) -> Answering {
        Answering(Arc::clone(self))
    }

    /// Lets everything through from now on.
    pub fn become_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    /// Sends these bytes, a whole interim answer, as soon as nothing else is being sent; a proxy that does not read
    /// gets only so many.
    pub fn send_interim(&self, bytes: &[u8]) {
        let mut interim = self.interim.lock().unwrap_or_else(PoisonError::into_inner);
        if interim.0.len() + bytes.len() > INTERIM {
            return;
        }
        interim.0.extend_from_slice(bytes);
        if let Some(waker) = interim.1.take() {
            waker.wake();
        }
    }
}

/// Dropped when the answer to a message is complete, or will not come.
pub struct Answering(Arc<Exchange>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the proxy is to send next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A message, if it likes.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// Nothing: a message is being answered.
    Held,
}

/// A proxy's connection, guarded.
pub struct Guard {
    /// None once it was refused.
    stream: Option<TcpStream>,
    /// What was read and not yet passed on.
    kept: BytesMut,
    /// How much of `kept` is in order.
    in_order: usize,
    framing: Framing,
    /// Messages that were passed on to their end.
    passed: u64,
    /// Messages whose answers were sent to their end.
    sent: u64,
    /// Whether some of the next answer was sent, beyond interim ones.
    sending: bool,
    phase: Phase,
    /// Whether something was read since the timer was set.
    moved: bool,
    timer: Option<Pin<Box<Sleep>>>,
    limits: Limits,
    exchange: Arc<Exchange>,
    events: Arc<Events>,
}

impl Guard {
    /// Guards `stream`, of which `first` was read already.
    pub fn new(
        stream: TcpStream,
        first: BytesMut,
        limits: Limits,
        exchange: Arc<Exchange>,
        events: Arc<Events>,
    ) -> Self {
        let framing =
            Framing::new(framing::Limits { header_bytes: limits.header_bytes, headers: limits.headers });
        Self {
            stream: Some(stream),
            kept: first,
            in_order: 0,
            framing,
            passed: 0,
            sent: 0,
            sending: false,
            phase: Phase::Idle,
            moved: false,
            timer: None,
            limits,
            exchange,
            events,
        }
    }

    /// How many of `bytes` may go on, to the end of the message at most.
    fn check(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut taken = 0;
        while taken < bytes.len() {
            let more = self.framing.take(&bytes[taken..])?;
            if more == 0 {
                break;
            }
            taken += more;
            if self.framing.between_messages() {
                self.passed += 1;
                break;
            }
        }
        Ok(taken)
    }

    /// Answers instead of hyper, and has the connection closed.
    fn refuse(&mut self, status: &'static str, why: &str) -> io::Error {
        static TOLD: Seldom = Seldom::new();
        self.events.count(Event::Malformed);
        if let Some(stream) = self.stream.take() {
            if let Ok(peer) = stream.peer_addr() {
                TOLD.say(format_args!("a message of the proxy {peer} was refused ({status}): {why}"));
            }
            // A second answer, or one in the middle of another, would be somebody else's.
            let answered = self.sending || self.sent > self.passed;
            tokio::task::spawn_local(hang_up(stream, (!answered).then_some(status)));
        }
        io::Error::new(io::ErrorKind::InvalidData, why)
    }

    fn malformed(&mut self, malformed: Malformed) -> io::Error {
        match malformed {
            Malformed::Syntax(why) => self.refuse("400 Bad Request", why),
            Malformed::TooLarge => {
                self.refuse("431 Request Header Fields Too Large", "its head is larger than the limits")
            }
        }
    }

    /// Whether the time for the next bytes is up; called when there are none.
    fn overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let phase = match () {
            () if self.passed > self.sent => Phase::Held,
            () if !self.framing.between_messages() => Phase::Body,
            () if self.kept.is_empty() => Phase::Idle,
            () => Phase::Head,
        };
        let limit = match phase {
            Phase::Held => {
                (self.phase, self.timer) = (phase, None);
                return false;
            }
            Phase::Head => self.limits.header_timeout,
            Phase::Idle | Phase::Body => self.limits.idle_timeout,
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        // A head has its time as a whole; everything else from byte to byte.
        if phase != self.phase || (self.moved && phase != Phase::Head) {
            timer.as_mut().reset(Instant::now() + limit);
        }
        (self.phase, self.moved) = (phase, false);
        timer.as_mut().poll(cx).is_ready()
    }

    fn poll_messages(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.in_order > 0 {
            let count = self.in_order.min(into.remaining());
            into.put_slice(&self.kept[..count]);
            self.kept.advance(count);
            self.in_order -= count;
            if self.kept.is_empty() {
                // An idle connection holds no buffer.
                self.kept = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if self.passed > self.sent {
            return self.poll_gone(cx);
        }
        if self.kept.is_empty() {
            // Mostly a whole message, which then is not copied.
            let before = into.filled().len();
            ready!(self.poll_bytes(cx, into))?;
            let bytes = into.filled().get(before..).unwrap_or_default();
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let count = self.check(bytes).map_err(|error| self.malformed(error))?;
            self.kept.extend_from_slice(&bytes[count..]);
            into.set_filled(before + count);
            if count > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        loop {
            let kept = std::mem::take(&mut self.kept);
            let checked = self.check(&kept);
            self.kept = kept;
            self.in_order = checked.map_err(|error| self.malformed(error))?;
            if self.in_order > 0 {
                return self.poll_messages(cx, into);
            }
            if ready!(self.poll_more(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// While a message is answered: only whether the proxy has gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        self.exchange.interim.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(cx.waker().clone());
        if self.kept.is_empty() && ready!(self.poll_more(cx))? == 0 {
            return Poll::Ready(Ok(()));
        }
        // hyper is woken when the answer has been sent.
        Poll::Pending
    }

    /// Reads some more into `kept`.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [0; 4096];
        let mut more = ReadBuf::new(&mut space);
        ready!(self.poll_bytes(cx, &mut more))?;
        self.kept.extend_from_slice(more.filled());
        Poll::Ready(Ok(more.filled().len()))
    }

    /// Reads; when the time is up, an idle proxy seems to have hung up.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(self.stream()?).poll_read(cx, into) {
            Poll::Pending if self.overdue(cx) => Poll::Ready(match self.phase {
                Phase::Head => Err(self.refuse("408 Request Timeout", "its head takes too long")),
                Phase::Body => Err(self.refuse("408 Request Timeout", "its body takes too long")),
                Phase::Idle | Phase::Held => Ok(()),
            }),
            Poll::Pending => Poll::Pending,
            Poll::Ready(read) => {
                self.moved = true;
                Poll::Ready(read)
            }
        }
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
        let mut interim = self.exchange.interim.lock().unwrap_or_else(PoisonError::into_inner);
        while !interim.0.is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, &interim.0))?;
            interim.0.advance(count);
        }
        Poll::Ready(Ok(()))
    }

    fn stream(&mut self) -> io::Result<&mut TcpStream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Writes several parts, mostly one, for which the kernel has a shorter way.
pub fn poll_write_parts(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    parts: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let mut full = parts.iter().filter(|part| !part.is_empty());
    match (full.next(), full.next()) {
        (Some(one), None) => Pin::new(stream).poll_write(cx, one),
        _ => Pin::new(stream).poll_write_vectored(cx, parts),
    }
}

/// Sends a refusal, and reads on for a moment: closed with bytes unread, the connection would be reset, and the refusal
/// lost on its way.
async fn hang_up(mut stream: TcpStream, status: Option<&'static str>) {
    let answer =
        status.map(|status| format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
    let polite = async {
        stream.write_all(answer.unwrap_or_default().as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(LINGER, polite).await;
}

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        if !guard.exchange.tunnel.load(Ordering::Relaxed) {
            return guard.poll_messages(cx, into);
        }
        if guard.kept.is_empty() {
            return Pin::new(guard.stream()?).poll_read(cx, into);
        }
        let count = guard.kept.len().min(into.remaining());
        into.put_slice(&guard.kept.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        ready!(guard.poll_interim(cx))?;
        guard.sending |= from != INVITATION;
        Pin::new(guard.stream()?).poll_write(cx, from)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        ready!(guard.poll_interim(cx))?;
        guard.sending |= from.iter().any(|part| !part.is_empty() && **part != *INVITATION);
        poll_write_parts(guard.stream()?, cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A TCP stream holds nothing back, and now hyper does not either: the next message may be read.
        let guard = self.get_mut();
        let answered = guard.exchange.answered.load(Ordering::Relaxed);
        if answered > guard.sent {
            (guard.sent, guard.sending) = (answered, false);
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}
