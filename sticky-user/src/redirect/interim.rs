//! Interim answers (1xx): a worker's 100 lets the body go, others go on to the proxy.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::{Request, StatusCode, ext};
use tokio::sync::Notify;

use super::guard::Exchange;
use super::message::Upload;

/// How long a body waits for the worker's 100; a client does not wait for ever either (RFC 9110 section 10.1.1).
const PATIENCE: Duration = Duration::from_secs(1);

/// Hears a worker's interim answers to `request`, and holds its body back if it is to wait for one. Others than 100 go on
/// to `exchange`, if the proxy can be told: HTTP/1.0 knows none (RFC 9110 section 15.2), and hyper sends none in HTTP/2.
pub fn listen(request: &mut Request<Upload>, exchange: Option<&Arc<Exchange>>) {
    let expects = request.headers().get(header::EXPECT).map(HeaderValue::as_bytes);
    let expects = expects.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    let wanted = expects.then(|| Arc::new(Notify::new()));
    if let Some(wanted) = wanted.clone() {
        let go = async move {
            // Late or not, the body goes.
            let _ = tokio::time::timeout(PATIENCE, wanted.notified()).await;
        };
        request.body_mut().hold_back(Box::pin(go));
    }
    let exchange = exchange.cloned();
    ext::on_informational(request, move |answer| {
        if answer.status() == StatusCode::CONTINUE {
            wanted.iter().for_each(|wanted| wanted.notify_one());
            return;
        }
        let Some(exchange) = &exchange else { return };
        let reason = answer.status().canonical_reason().unwrap_or_default();
        let mut text = format!("HTTP/1.1 {} {reason}\r\n", answer.status().as_str());
        for (name, value) in answer.headers() {
            if let Ok(value) = value.to_str() {
                let _ = write!(text, "{name}: {value}\r\n");
            }
        }
        exchange.send_interim((text + "\r\n").as_bytes());
    });
}
