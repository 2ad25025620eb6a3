//! Request and response bodies: reading one under the size limit, and the response body type of every handler.

use std::io;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use steersman_schema::status::Status;

/// Upstream's `MaxRequestBodyBytes`: 3 MiB, twice what etcd takes (1.5 MiB), because JSON is larger than protobuf.
pub const MAX_REQUEST_BYTES: usize = 3 * 1024 * 1024;

/// Bytes of a refused body that are still read.
const MAX_DRAINED_BYTES: usize = 16 * 1024 * 1024;
/// How long one piece of a refused body may take.
const DRAIN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// The body of every response.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// The body of every request once it has left the connection.
pub type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is in memory.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No bytes at all.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// Reads a whole request body, up to [`MAX_REQUEST_BYTES`].
///
/// # Errors
/// 413 when it is larger, 400 when the connection broke.
pub async fn read<B>(mut body: B) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let declared = body.size_hint().lower();
    if declared > MAX_REQUEST_BYTES as u64 {
        drain(body, MAX_DRAINED_BYTES).await;
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    let mut first = Bytes::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("reading the request body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + whole.len() + data.len() > MAX_REQUEST_BYTES {
            drain(body, MAX_DRAINED_BYTES).await;
            return Err(too_large());
        }
        // Most bodies arrive in one frame, which then is the body without a copy.
        if first.is_empty() && whole.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

fn too_large() -> Status {
    Status::request_entity_too_large(&format!("limit is {MAX_REQUEST_BYTES}"))
}

/// Reads on for a while and forgets what it reads: a client that is still sending would not see the refusal otherwise.
async fn drain<B>(mut body: B, mut left: usize)
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    while left > 0
        && let Ok(Some(Ok(frame))) = tokio::time::timeout(DRAIN_PATIENCE, body.frame()).await
    {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len).max(1));
    }
}
