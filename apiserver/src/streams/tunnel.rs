//! port-forward's SPDY inside the binary messages of a WebSocket: `SPDY/3.1+portforward.k8s.io`.
//!
//! The SPDY connection is between client and kubelet; its bytes are carried, not read. As upstream, the client's upgrade succeeds
//! only when the kubelet's has, and names the stream protocol that the kubelet chose.

use std::sync::Arc;

use bytes::BytesMut;
use futures::StreamExt;
use http::{HeaderMap, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use steersman_schema::status::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::codec::FramedRead;

use super::remote::{STREAM_PROTOCOL, request};
use super::{FAREWELL, IDLE, PIECE, finish, spdy, websocket, while_there, writer};
use crate::api::Api;
use crate::body::Body;
use crate::kubelet::{Destination, pass_on};

const PREFIX: &str = "SPDY/3.1+";
const SUFFIX: &str = ".k8s.io";

/// The stream protocols that the client offers to tunnel; none, if it wants something else.
pub fn wanted(headers: &HeaderMap) -> Vec<&str> {
    if !websocket::wanted(headers) {
        return Vec::new();
    }
    let offered = websocket::offered(headers).into_iter();
    offered
        .filter(|p| p.ends_with(SUFFIX))
        .filter_map(|p| p.strip_prefix(PREFIX))
        .collect()
}

/// Connects to the kubelet, switches protocols and goes on in a task of its own until either side has left.
///
/// # Errors
/// When the kubelet cannot be reached (500), or does not switch to SPDY.
pub async fn serve(
    api: &Arc<Api>,
    to: &Destination,
    headers: &HeaderMap,
    client: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let mut answer = api.kubelets.send(to, request(wanted(headers))).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(pass_on(answer, None));
    }
    let is_spdy = answer
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(spdy::NAME.as_bytes()));
    if !is_spdy {
        return Err(Status::internal(
            "unable to upgrade: missing upgrade headers in response",
        ));
    }
    let chosen = answer.headers().get(STREAM_PROTOCOL);
    let chosen = chosen.and_then(|value| value.to_str().ok()).map(str::trim);
    let protocol = chosen.filter(|p| !p.is_empty()).map(|p| format!("{PREFIX}{p}"));
    let response = websocket::accept(headers, protocol.as_deref())?;
    let backend = hyper::upgrade::on(&mut answer);
    if let Some(client) = client {
        tokio::spawn(async move {
            match tokio::join!(client, backend) {
                (Ok(client), Ok(backend)) => join(client, backend).await,
                _ => tracing::debug!("a tunnel was left before it stood"),
            }
        });
    }
    Ok(response)
}

async fn join(client: Upgraded, backend: Upgraded) {
    let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_backend, mut to_backend) = tokio::io::split(TokioIo::new(backend));
    let (client, writing) = writer(to_client);
    let mut input = FramedRead::new(from_client, websocket::Frames::default());
    let down = async {
        let mut buffer = BytesMut::with_capacity(PIECE);
        while matches!(from_backend.read_buf(&mut buffer).await, Ok(n) if n > 0) {
            if client
                .send(websocket::message(websocket::BINARY, &[&buffer]))
                .await
                .is_err()
            {
                return;
            }
            buffer.clear();
        }
        let _ = client.send(websocket::close(websocket::NORMAL)).await;
    };
    let up = async {
        while let Ok(Some(Ok(event))) = tokio::time::timeout(IDLE, input.next()).await {
            match event {
                websocket::Event::Data { text: false, bytes, .. } => {
                    let passed = async {
                        to_backend.write_all(&bytes).await?;
                        to_backend.flush().await
                    };
                    if !matches!(while_there(&client, passed).await, Some(Ok(()))) {
                        return;
                    }
                }
                websocket::Event::Ping(payload) => drop(client.try_send(websocket::pong(&payload))),
                websocket::Event::Pong => {}
                // SPDY is no text.
                websocket::Event::Data { .. } | websocket::Event::Close => return,
            }
        }
    };
    tokio::select! { () = down => {}, () = up => {} }
    drop(client);
    let _ = tokio::time::timeout(FAREWELL, to_backend.shutdown()).await;
    finish(writing).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_protocols_of_kubernetes_are_tunnelled() {
        let offer = |upgrade: &'static str, protocols: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols));
            wanted(&headers).join("|")
        };
        assert_eq!(offer("websocket", "SPDY/3.1+portforward.k8s.io"), "portforward.k8s.io");
        assert_eq!(offer("WebSocket", "x, SPDY/3.1+v2.k8s.io ,SPDY/3.1+a.b"), "v2.k8s.io");
        assert_eq!(offer("SPDY/3.1", "SPDY/3.1+portforward.k8s.io"), "");
        assert_eq!(offer("websocket", "portforward.k8s.io"), "");
    }
}
