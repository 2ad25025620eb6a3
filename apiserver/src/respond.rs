//! Making responses: objects and refusals in the negotiated encoding, and the headers every answer has.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use steersman_schema::codec::{self, MediaType};
use steersman_schema::status::Status;

use crate::body::{Body, full};
use crate::negotiate::{Output, content_type};

/// Bodies above this many bytes are compressed for those who accept it (upstream: 128 KiB).
const GZIP_ABOVE: usize = 128 * 1024;

/// An object.
///
/// # Errors
/// 500 when it cannot be encoded, which is a fault of ours.
pub fn object(output: &Output, code: u16, value: &Value) -> Result<Response<Body>, Status> {
    Ok(encoded(output, code, encode(output, value)?))
}

/// An object's bytes in an encoding.
///
/// # Errors
/// 500 when it cannot be encoded.
pub fn encode(output: &Output, value: &Value) -> Result<Bytes, Status> {
    let failed = |error: &dyn std::fmt::Display| Status::internal(format!("encoding the answer: {error}"));
    let bytes = codec::encode(output.media, value).map_err(|error| failed(&error))?;
    Ok(if output.pretty && output.media == MediaType::Json {
        indent(&bytes)
    } else {
        bytes
    }
    .into())
}

/// JSON text with line breaks and two spaces per level, as Go's encoder writes it; the order of fields stays.
fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut level, mut quoted, mut escaped) = (0_usize, false, false);
    let line = |out: &mut Vec<u8>, level: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', level * 2));
    };
    for (at, byte) in json.iter().copied().enumerate() {
        let empty = |end: u8| json.get(at + 1) == Some(&end);
        if quoted {
            out.push(byte);
            quoted = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => {
                quoted = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                level += 1;
                if !empty(if byte == b'{' { b'}' } else { b']' }) {
                    line(&mut out, level);
                }
            }
            b'}' | b']' => {
                level = level.saturating_sub(1);
                if !matches!(out.last(), Some(b'{' | b'[')) {
                    line(&mut out, level);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, level);
            }
            b':' => out.extend_from_slice(b": "),
            b'\n' => {}
            other => out.push(other),
        }
    }
    out
}

/// Bytes that are already in the negotiated encoding.
pub fn encoded(output: &Output, code: u16, bytes: Bytes) -> Response<Body> {
    // Like Go's encoder: one newline at the end of a JSON text.
    let bytes = if output.media == MediaType::Json && !bytes.ends_with(b"\n") {
        let mut line = Vec::with_capacity(bytes.len() + 1);
        line.extend_from_slice(&bytes);
        line.push(b'\n');
        line.into()
    } else {
        bytes
    };
    compressed(output.gzip, code, content_type(output.media), bytes)
}

/// Any bytes, compressed when large and when the client takes gzip.
pub fn compressed(gzip: bool, code: u16, content_type: &'static str, bytes: Bytes) -> Response<Body> {
    if gzip
        && bytes.len() > GZIP_ABOVE
        && let Some(small) = squeeze(&bytes)
    {
        let mut response = plain(code, content_type, small);
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        return response;
    }
    plain(code, content_type, bytes)
}

fn squeeze(bytes: &[u8]) -> Option<Bytes> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(bytes.len() / 4), flate2::Compression::new(1));
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// Any bytes.
pub fn plain(code: u16, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Plain text, as the health endpoints answer.
pub fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = plain(code, "text/plain; charset=utf-8", text);
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The answer for paths that nobody serves.
pub fn page_not_found() -> Response<Body> {
    text(404, "404 page not found\n")
}

/// A body that is produced while it is sent.
pub fn stream(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A refusal (or a success without object).
pub fn status(output: &Output, status: &Status) -> Response<Body> {
    let value = status.to_value();
    let bytes = encode(output, &value).unwrap_or_else(|_| value.to_string().into());
    let mut response = encoded(output, status.code, bytes);
    if let Some(details) = &status.details
        && details.retry_after_seconds > 0
        && let Ok(seconds) = HeaderValue::from_str(&details.retry_after_seconds.to_string())
    {
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

/// The headers of every answer (upstream: `WithCacheControl`, `WithAuditInit`, the warning recorder).
pub fn finish(mut response: Response<Body>, audit_id: &str, warnings: &[String]) -> Response<Body> {
    let headers = response.headers_mut();
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    if let Ok(id) = HeaderValue::from_str(audit_id) {
        headers.insert("audit-id", id);
    }
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {}", quoted(warning))) {
            headers.append(header::WARNING, value);
        }
    }
    response
}

/// An HTTP quoted string; what cannot stand in a header is left out.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().filter(|c| !c.is_control()) {
        if c == '"' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indented_json_is_what_go_writes() {
        let json = br#"{"a":[1,{"b":"x:{,\"y"}],"c":{},"d":[]}"#;
        let want =
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"x:{,\\\"y\"\n    }\n  ],\n  \"c\": {},\n  \"d\": []\n}";
        assert_eq!(String::from_utf8_lossy(&indent(json)), want);
    }
}
