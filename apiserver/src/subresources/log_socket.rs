//! A container's log over a WebSocket: each piece of the kubelet's answer becomes a message, and a close frame ends it.
//!
//! Called by [`super::node_streams`] for a log request that asks for an upgrade. Subprotocols are upstream's:
//! `binary.k8s.io` (also without any) and `base64.binary.k8s.io`. What the client sends is read and thrown away, so that
//! its leaving is noticed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use steersman_schema::status::Status;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::body::Body;
use crate::streams::websocket;

const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// Answers with the upgrade and goes on sending the log behind it.
///
/// # Errors
/// 400 when the client speaks no subprotocol that we do, or no proper WebSocket at all.
pub fn answer(log: Response<Body>, headers: &HeaderMap, client: Option<OnUpgrade>) -> Result<Response<Body>, Status> {
    let protocol = protocol(headers)?;
    let response = websocket::accept(headers, protocol)?;
    let encoded = protocol == Some(BASE64);
    if let Some(client) = client {
        tokio::spawn(async move {
            let Ok(client) = client.await else { return };
            let (mut from, mut to) = tokio::io::split(TokioIo::new(client));
            let mut ignored = [0; 4096];
            let gone = async { while matches!(from.read(&mut ignored).await, Ok(n) if n > 0) {} };
            let sent = tokio::select! {
                sent = send(log, &mut to, encoded) => sent,
                () = gone => Ok(()),
            };
            if let Err(error) = sent {
                tracing::debug!(%error, "log stream ended");
            }
        });
    }
    Ok(response)
}

async fn send(log: Response<Body>, to: &mut (impl AsyncWrite + Unpin), encoded: bool) -> std::io::Result<()> {
    let mut body = log.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        let message = if encoded {
            websocket::message(websocket::TEXT, &[STANDARD.encode(&data).as_bytes()])
        } else {
            websocket::message(websocket::BINARY, &[&data])
        };
        to.write_all(&message).await?;
        to.flush().await?;
    }
    to.write_all(&websocket::close(websocket::NORMAL)).await?;
    to.shutdown().await
}

/// The first subprotocol offered that we speak; `None` if none was offered.
fn protocol(headers: &HeaderMap) -> Result<Option<&'static str>, Status> {
    let offered = websocket::offered(headers);
    if offered.is_empty() {
        return Ok(None);
    }
    let known = |p: &&str| [BINARY, BASE64].into_iter().find(|own| own == p);
    offered.iter().find_map(known).map(Some).ok_or_else(|| {
        Status::bad_request(format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {:?}",
            [BINARY, BASE64]
        ))
    })
}
