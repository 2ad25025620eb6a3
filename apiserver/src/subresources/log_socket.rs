//! A container's log over a WebSocket: each piece of the kubelet's answer becomes a message, and a close frame ends it.
//!
//! Called by [`super::node_streams`] for a log request that asks for an upgrade. Subprotocols are upstream's:
//! `binary.k8s.io` (also without any) and `base64.binary.k8s.io`. What the client sends is read and thrown away, so that
//! its leaving is noticed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use steersman_schema::status::Status;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::body::Body;

/// RFC 6455, section 1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// Answers with the upgrade and goes on sending the log behind it.
///
/// # Errors
/// 400 when the client speaks no subprotocol that we do, or no proper WebSocket at all.
pub fn answer(log: Response<Body>, headers: &HeaderMap, client: Option<OnUpgrade>) -> Result<Response<Body>, Status> {
    let protocol = protocol(headers)?;
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Status::bad_request("missing Sec-WebSocket-Key"))?;
    let mut response = Response::new(crate::body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept =
        HeaderValue::from_str(&accept(key.as_bytes())).map_err(|e| Status::internal(format!("bad answer: {e}")))?;
    out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        out.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
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
            message(0x1, &Bytes::from(STANDARD.encode(&data)))
        } else {
            message(0x2, &data)
        };
        to.write_all(&message).await?;
        to.flush().await?;
    }
    to.write_all(&message(0x8, &Bytes::new())).await?;
    to.shutdown().await
}

/// One whole frame, unmasked as a server's are.
fn message(opcode: u8, data: &Bytes) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match (u8::try_from(data.len()), u16::try_from(data.len())) {
        (Ok(short), _) if short < 126 => frame.push(short),
        (_, Ok(medium)) => {
            frame.push(126);
            frame.extend(medium.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((data.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(data);
    frame
}

fn accept(key: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, MAGIC].concat());
    STANDARD.encode(digest)
}

/// The first subprotocol offered that we speak; `None` if none was offered.
fn protocol(headers: &HeaderMap) -> Result<Option<&'static str>, Status> {
    let offered: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .filter(|p| !p.starts_with(steersman_auth::authn::PROTOCOL_PREFIX) && !p.is_empty())
        .collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_accepted_as_the_standards_example_has_it() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frames_tell_their_length_in_one_of_three_ways() {
        let head = |n: usize| message(0x2, &Bytes::from(vec![0; n]))[..4].to_vec();
        assert_eq!(head(5), [0x82, 5, 0, 0]);
        assert_eq!(head(300), [0x82, 126, 1, 44]);
        assert_eq!(head(70_000), [0x82, 127, 0, 0]);
    }
}
