//! One request: its client → the client's slot → a connection to that worker → the worker's answer.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use sticky_ebpf::abi::{Config, Event, Slot};
use sticky_ebpf::client::Client;

use super::connection::Proxy;
use super::framing::{self, Framing, Malformed};
use super::message::{Download, Upload, remove_hop_fields};
use super::present::Here;
use super::upstream::{Failure, Key, Line};
use super::{Lane, Limits, interim, tunnel};
use crate::say::Seldom;

/// A worker's answer, and the connection it comes over.
type Answer = (Response<Incoming>, Line);

/// Answers a request from `proxy` with what the worker of its client says.
pub async fn forward(lane: &Lane, proxy: &Rc<Proxy>, mut request: Request<Incoming>) -> Response<Download> {
    lane.events.count(Event::Request);
    let answering = proxy.exchange.answering();
    let version = request.version();
    let answer = match prepare(lane, proxy, &mut request) {
        Ok((config, client, upgrade)) => {
            let here = Rc::new(lane.present.enter(client));
            let wanted = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
            let answer = Forward::new(lane, proxy, config, client, request, version).run().await;
            let answer = answer.and_then(|answer| pass_on(lane, proxy, answer, wanted, &here));
            answer.map(|(answer, line)| (answer, line, here))
        }
        Err(status) => Err(status),
    };
    // The rest of a request that is answered early is not read, so nothing can follow it: RFC 9110 section 10.1.1.
    let early = answer.as_ref().is_ok_and(|(_, line, _)| line.is_sending());
    let mut answer = match answer {
        Ok((answer, line, here)) => answer.map(|body| Download::from_worker(body, line, here, answering)),
        Err(status) => refusal(lane, status).map(|text| Download::text(text, answering)),
    };
    if (early || lane.stop.is_cancelled())
        && version < Version::HTTP_2
        && answer.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Finds the client, and makes the request one that a worker gets over a connection of HTTP/1.1. Returns the protocol
/// to upgrade to, if the proxy asks for one.
fn prepare(
    lane: &Lane,
    proxy: &Rc<Proxy>,
    request: &mut Request<Incoming>,
) -> Result<(Config, Client, Option<HeaderValue>), StatusCode> {
    if request.method() == Method::CONNECT {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let (config, client) = who(lane, proxy, request.headers()).map_err(|error| {
        static TOLD: Seldom = Seldom::new();
        TOLD.say(format_args!("the client of a request cannot be found: {error:#}"));
        StatusCode::SERVICE_UNAVAILABLE
    })?;
    let version = std::mem::replace(request.version_mut(), Version::HTTP_11);
    if version == Version::HTTP_2 {
        from_http2(lane, request)?;
    }
    let headers = request.headers_mut();
    let upgrade = remove_hop_fields(headers, Some(&config.proxies.header));
    // HTTP/2 in the middle of HTTP/1.1 would take the connection's other requests out of sight.
    let upgrade = upgrade
        .filter(|protocol| version == Version::HTTP_11 && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"));
    if let Some(protocol) = &upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    // HTTP/1.1 wants one, if only an empty one: RFC 9112 section 3.2.
    headers.entry(header::HOST).or_insert(HeaderValue::from_static(""));
    Ok((config, client, upgrade))
}

/// How the pool is steered, and whose the request is.
fn who(lane: &Lane, proxy: &Rc<Proxy>, headers: &HeaderMap) -> Result<(Config, Client)> {
    let config = lane.choice.config()?;
    let peer = proxy.address.ip().into();
    let client = if proxy.trusted { lane.choice.client(&config, peer, headers)? } else { peer };
    match proxy.first.get() {
        None => proxy.first.set(Some(config.masks.apply(client))),
        Some(first) if first != config.masks.apply(client) && !proxy.shared.replace(true) => {
            lane.events.count(Event::Shared);
        }
        Some(_) => {}
    }
    Ok((config, client))
}

/// What HTTP/2 says in other ways than HTTP/1.1: RFC 9113 section 8.
fn from_http2(lane: &Lane, request: &mut Request<Incoming>) -> Result<(), StatusCode> {
    let uri = request.uri().clone();
    let authority = uri.authority().map(|authority| authority.as_str());
    let bad = |_| StatusCode::BAD_REQUEST;
    match (authority, request.headers().get(header::HOST)) {
        (Some(authority), Some(host)) if host.as_bytes() != authority.as_bytes() => {
            return Err(StatusCode::BAD_REQUEST);
        }
        (Some(authority), None) => {
            let host = HeaderValue::from_str(authority).map_err(bad)?;
            request.headers_mut().insert(header::HOST, host);
        }
        (None, None) => return Err(StatusCode::BAD_REQUEST),
        (_, Some(_)) => {}
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    // Cut up to compress better; one field again: section 8.2.3.
    let cookies: Vec<_> =
        request.headers().get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1 {
        let cookie = HeaderValue::from_bytes(&cookies.join(&b"; "[..])).map_err(bad)?;
        request.headers_mut().insert(header::COOKIE, cookie);
    }
    well_formed(lane, request).map_err(|malformed| match malformed {
        Malformed::Syntax(_) => StatusCode::BAD_REQUEST,
        Malformed::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    })
}

/// Holds a request to what a head of HTTP/1.1 is held to: one Host, one Content-Length, and so on.
fn well_formed(lane: &Lane, request: &Request<Incoming>) -> Result<(), Malformed> {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri()).into_bytes();
    for (name, value) in request.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    let Limits { header_bytes, headers, .. } = lane.limits;
    Framing::new(framing::Limits { header_bytes, headers }).take(&head).map(drop)
}

/// A request on its way to the worker of `client`.
struct Forward<'a> {
    lane: &'a Lane,
    proxy: &'a Rc<Proxy>,
    config: Config,
    client: Client,
    request: Request<Upload>,
    /// The same once more, if it does no harm to send it twice: RFC 9110 section 9.2.2.
    spare: Option<Request<Upload>>,
}

impl<'a> Forward<'a> {
    fn new(
        lane: &'a Lane,
        proxy: &'a Rc<Proxy>,
        config: Config,
        client: Client,
        request: Request<Incoming>,
        version: Version,
    ) -> Self {
        let (mut parts, body) = request.into_parts();
        let empty = body.is_end_stream();
        if !empty && body.size_hint().exact().is_none() {
            // Without it hyper takes it for granted that GET and HEAD have no content.
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let repeatable = empty && parts.method.is_idempotent();
        let upload = if empty { Upload::Empty } else { Upload::Body(body, Arc::default()) };
        let mut request = Request::from_parts(parts, upload);
        let spare = repeatable.then(|| copy(&request));
        interim::listen(&mut request, (version == Version::HTTP_11).then_some(&proxy.exchange));
        Self { lane, proxy, config, client, request, spare }
    }

    async fn run(mut self) -> Result<Answer, StatusCode> {
        let mut tried = Vec::new();
        let mut fresh = false;
        while let Some((slot, cookie)) = self.slot(&tried)? {
            let (mut line, reused) = match self.line(slot, cookie, fresh).await {
                Ok(line) => line,
                Err(Failure::Gone) => {
                    self.lane.events.count(Event::Retried);
                    tried.push(slot);
                    continue;
                }
                Err(Failure::Slow) => return Err(StatusCode::GATEWAY_TIMEOUT),
                Err(Failure::Here(_)) => return Err(StatusCode::SERVICE_UNAVAILABLE),
            };
            let unsent = match line.send(self.request).await {
                Ok(answer) => return Ok((answer, line)),
                Err(unsent) => unsent,
            };
            // What was sent is sent again only once: a request that kills workers is not to kill them all. It does not
            // count over an older connection: that was closed already, most likely.
            let spare = self.spare.take();
            if reused {
                self.spare = spare.as_ref().map(copy);
            }
            self.request = unsent.or(spare).ok_or(StatusCode::BAD_GATEWAY)?;
            self.lane.events.count(Event::Retried);
            if reused {
                fresh = true;
            } else {
                tried.push(slot);
            }
        }
        Err(StatusCode::SERVICE_UNAVAILABLE)
    }

    fn slot(&self, tried: &[Slot]) -> Result<Option<(Slot, u64)>, StatusCode> {
        let slot = self.lane.choice.slot(self.client, tried);
        slot.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    }

    /// A connection to the worker in `slot`, and whether it was used before.
    async fn line(&self, slot: Slot, cookie: u64, fresh: bool) -> Result<(Line, bool), Failure> {
        let upstream = &self.lane.upstream;
        let real = self.config.proxies.real_client_address() && upstream.can_show(self.client);
        let shown = if real { self.client } else { Client::from(self.proxy.address.ip()) };
        let key = Key { slot, cookie, shown };
        match upstream.reuse(key).filter(|_| !fresh) {
            Some(line) => Ok((line, true)),
            None => Ok((upstream.connect(key, self.proxy.address.port()).await?, false)),
        }
    }
}

/// A request without a body once more. It lacks the case that header names were written in: a copy is made of every
/// request, and sent of next to none.
fn copy(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Makes a worker's answer one for the proxy; after a 101 that was `wanted`, the connections become a tunnel.
fn pass_on(
    lane: &Lane,
    proxy: &Rc<Proxy>,
    (mut answer, line): Answer,
    wanted: Option<OnUpgrade>,
    here: &Rc<Here>,
) -> Result<Answer, StatusCode> {
    let protocol = remove_hop_fields(answer.headers_mut(), None);
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(protocol), Some(wanted)) = (protocol, wanted) else { return Err(StatusCode::BAD_GATEWAY) };
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        answer.headers_mut().insert(header::UPGRADE, protocol);
        proxy.exchange.become_tunnel();
        lane.events.count(Event::Tunnel);
        let worker = hyper::upgrade::on(&mut answer);
        let (proxy, here) = (Rc::clone(proxy), Rc::clone(here));
        lane.tasks.spawn_local(async move {
            tunnel::upgraded(wanted, worker).await;
            drop((proxy, here));
        });
    }
    Ok((answer, line))
}

/// An answer of our own.
fn refusal(lane: &Lane, status: StatusCode) -> Response<String> {
    let event = if status.is_client_error() { Event::Malformed } else { Event::Unserved };
    lane.events.count(event);
    let reason = status.canonical_reason().unwrap_or_default();
    let mut answer = Response::new(format!("{} {reason}\n", status.as_str()));
    *answer.status_mut() = status;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}
