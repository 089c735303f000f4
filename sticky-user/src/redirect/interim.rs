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

/// Hears a worker's interim answers to `request`, from a connection of `exchange`, and holds its body back if it is to
/// wait for one.
pub fn listen(request: &mut Request<Upload>, exchange: &Arc<Exchange>) {
    let expects = request.headers().get(header::EXPECT).map(HeaderValue::as_bytes);
    let wanted = Arc::new(Notify::new());
    if expects.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")) {
        let wanted = Arc::clone(&wanted);
        let go = async move {
            // Late or not, the body goes.
            let _ = tokio::time::timeout(PATIENCE, wanted.notified()).await;
        };
        request.body_mut().hold_back(Box::pin(go));
    }
    let exchange = Arc::clone(exchange);
    ext::on_informational(request, move |answer| {
        if answer.status() == StatusCode::CONTINUE {
            wanted.notify_one();
            return;
        }
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
