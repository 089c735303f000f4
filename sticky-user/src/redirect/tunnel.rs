//! Connections that carry bytes instead of requests: what a WebSocket becomes, and all behind a PROXY header.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

/// Bytes on their way in each direction, at most.
const BUFFER: usize = 16 * 1024;

/// Carries bytes both ways until both ends have closed; when one end has sent all, the other may still send.
pub async fn carry(
    mut proxy: impl AsyncRead + AsyncWrite + Unpin,
    mut worker: impl AsyncRead + AsyncWrite + Unpin,
) {
    // An end that breaks off ends the tunnel; there is nobody to tell.
    let _ = copy_bidirectional_with_sizes(&mut proxy, &mut worker, BUFFER, BUFFER).await;
}

/// Carries bytes once both connections have left HTTP.
pub async fn upgraded(proxy: OnUpgrade, worker: OnUpgrade) {
    if let (Ok(proxy), Ok(worker)) = (proxy.await, worker.await) {
        carry(TokioIo::new(proxy), TokioIo::new(worker)).await;
    }
}
