//! The bodies of requests and answers on their way, and the header fields that end at a hop.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use sticky_ebpf::forwarded;

use super::guard::Answering;
use super::present::Here;
use super::upstream::Line;

/// A request's body on its way to a worker.
pub enum Upload {
    /// No body.
    Empty,
    /// As it comes in.
    Body(Incoming, Arc<Sending>),
    /// As it comes in, once the worker wants it (`Expect: 100-continue`).
    Awaited(Incoming, Arc<Sending>, Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// There for as long as a body is not sent to its end, or given up.
#[derive(Default)]
pub struct Sending;

impl Upload {
    /// Asks for the body only once `wanted` is over.
    pub fn hold_back(&mut self, wanted: Pin<Box<dyn Future<Output = ()> + Send>>) {
        *self = match std::mem::replace(self, Self::Empty) {
            Self::Body(body, sending) | Self::Awaited(body, sending, _) => {
                Self::Awaited(body, sending, wanted)
            }
            Self::Empty => Self::Empty,
        };
    }

    /// Tells whether there is more of it to send.
    pub fn sending(&self) -> Weak<Sending> {
        match self {
            Self::Empty => Weak::new(),
            Self::Body(_, sending) | Self::Awaited(_, sending, _) => Arc::downgrade(sending),
        }
    }

    fn body(&self) -> Option<&Incoming> {
        match self {
            Self::Empty => None,
            Self::Body(body, _) | Self::Awaited(body, ..) => Some(body),
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Self::Awaited(_, _, wanted) = &mut *self {
            ready!(wanted.as_mut().poll(cx));
            if let Self::Awaited(body, sending, _) = std::mem::replace(&mut *self, Self::Empty) {
                *self = Self::Body(body, sending);
            }
        }
        match &mut *self {
            Self::Body(body, _) => Pin::new(body).poll_frame(cx),
            Self::Empty | Self::Awaited(..) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// An answer's body on its way to a proxy. Dropped, it lets the proxy's next request in.
pub struct Download {
    content: Content,
    _answering: Answering,
}

enum Content {
    Text(Full<Bytes>),
    /// With the connection it comes from, which is free afterwards, and the client it is for, who is here until then.
    Worker(Incoming, #[expect(dead_code, reason = "they are dropped, which frees them")] (Line, Rc<Here>)),
}

impl Download {
    /// A few words of our own.
    pub fn text(text: impl Into<Bytes>, answering: Answering) -> Self {
        Self { content: Content::Text(Full::new(text.into())), _answering: answering }
    }

    /// What a worker answers, over `line`, to a client that is here until it has all.
    pub fn from_worker(body: Incoming, line: Line, client: Rc<Here>, answering: Answering) -> Self {
        Self { content: Content::Worker(body, (line, client)), _answering: answering }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.content {
            Content::Text(text) => Pin::new(text).poll_frame(cx).map_err(|never| match never {}),
            Content::Worker(body, _) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Text(text) => text.is_end_stream(),
            Content::Worker(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Text(text) => text.size_hint(),
            Content::Worker(body, _) => body.size_hint(),
        }
    }
}

/// Takes out the fields that are for the next hop only (RFC 9110 section 7.6.1), and returns the protocol of
/// `Upgrade`, if `Connection` asks for one.
///
/// A sender names more of them in `Connection`. One that names `client_header`, or what else tells where a request is
/// from or for, would hide the client; it is not obeyed.
pub fn remove_hop_fields(
    headers: &mut HeaderMap,
    client_header: Option<&forwarded::HeaderName>,
) -> Option<HeaderValue> {
    let mut upgrade = false;
    let kept = |name: &HeaderName| {
        KEPT.contains(&name.as_str())
            || name.as_str().starts_with("x-forwarded-")
            || client_header.is_some_and(|client| client.as_str() == name.as_str())
    };
    for name in names(headers, &header::CONNECTION) {
        upgrade |= name == header::UPGRADE;
        if !kept(&name) {
            headers.remove(name);
        }
    }
    // Nor can a trailer say it, which some workers take for a header: hyper sends only trailers that are announced.
    let announced = names(headers, &header::TRAILER);
    let meant = |name: &&HeaderName| !kept(name) && **name != header::CONNECTION;
    let harmless: Vec<_> = announced.iter().filter(meant).map(HeaderName::as_str).collect();
    if harmless.len() < announced.len() {
        headers.remove(header::TRAILER);
        if let Ok(harmless) = HeaderValue::try_from(harmless.join(", "))
            && !harmless.is_empty()
        {
            headers.insert(header::TRAILER, harmless);
        }
    }
    let trailers = headers.get_all(header::TE).iter().any(|te| {
        te.as_bytes().split(|&byte| byte == b',').any(|te| te.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    let protocol = headers.remove(header::UPGRADE);
    for name in [header::CONNECTION, header::TE, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    protocol.filter(|_| upgrade)
}

/// The fields that a field names.
fn names(headers: &HeaderMap, field: &HeaderName) -> Vec<HeaderName> {
    let lines = headers.get_all(field).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}

/// Fields that `Connection` cannot remove, besides `X-Forwarded-…`. (`Upgrade` and `TE` are seen to afterwards.)
const KEPT: [&str; 13] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "upgrade",
    "trailer",
    "authorization",
    "cookie",
    "forwarded",
    "via",
    "x-real-ip",
    "cf-connecting-ip",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn hop_fields_end_here_and_others_go_on() {
        let mut map = headers(&[
            ("host", "h"),
            ("connection", "close, X-Token,Upgrade"),
            ("connection", "x-forwarded-for, x-real-ip, X-Secret-IP, host"),
            ("x-token", "t"),
            ("x-forwarded-for", "203.0.113.7"),
            ("x-real-ip", "203.0.113.7"),
            ("x-secret-ip", "203.0.113.7"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, Trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
        ]);
        let name = forwarded::HeaderName::new("x-secret-ip").expect("a name");
        assert_eq!(remove_hop_fields(&mut map, Some(&name)).expect("asked for"), "websocket");
        let mut left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "te", "x-forwarded-for", "x-real-ip", "x-secret-ip"]);
        assert_eq!(map["te"], "trailers");
    }

    #[test]
    fn an_upgrade_that_connection_does_not_name_is_none() {
        let mut map = headers(&[("upgrade", "websocket"), ("connection", "keep-alive")]);
        assert_eq!(remove_hop_fields(&mut map, None), None);
        assert!(map.is_empty());
    }
}
