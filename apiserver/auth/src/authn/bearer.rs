//! Where a request carries its bearer token: the Authorization header, or a WebSocket subprotocol (browsers cannot set
//! headers).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};

/// Prefix of the subprotocol that carries a token, base64url without padding behind it.
pub const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The token in `Authorization: Bearer <token>`; everything else in that header is nobody's business here.
pub(super) fn from_header(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, rest) = value.split_once(' ')?;
    let token = rest.split(' ').next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The token among the subprotocols of a WebSocket request.
///
/// # Errors
/// When there are several, when it is not base64url of UTF-8, or when no other subprotocol is left to answer with.
pub(super) fn from_websocket(headers: &HeaderMap) -> Result<Option<String>, String> {
    let mentions = |name, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.to_ascii_lowercase().contains(word))
    };
    if !mentions(UPGRADE, "websocket") || !mentions(CONNECTION, "upgrade") {
        return Ok(None);
    }
    let (mut token, mut others) = (None, 0usize);
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for protocol in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            let Some(encoded) = protocol.strip_prefix(PROTOCOL_PREFIX) else {
                others += 1;
                continue;
            };
            if token.is_some() {
                return Err("multiple base64.bearer.authorization tokens specified".into());
            }
            let invalid = "invalid base64.bearer.authorization token encoding";
            let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| invalid)?;
            let text = String::from_utf8(bytes).map_err(|_| "invalid base64.bearer.authorization token")?;
            token = Some(text);
        }
    }
    match token {
        Some(token) if !token.is_empty() && others == 0 => {
            let _ = token;
            Err("missing additional subprotocol".into())
        }
        Some(token) if !token.is_empty() => Ok(Some(token)),
        _ => Ok(None),
    }
}

/// The subprotocols without the one that carries a token: what the request is passed on with, and answered from.
pub fn without_token(protocols: &str) -> String {
    let kept = protocols
        .split(',')
        .map(str::trim)
        .filter(|p| !p.starts_with(PROTOCOL_PREFIX));
    kept.collect::<Vec<_>>().join(",")
}
