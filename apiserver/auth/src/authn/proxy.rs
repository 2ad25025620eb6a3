//! The front proxy: a trusted server (the aggregation layer) that says in headers whom it speaks for.
//!
//! The headers count only from a connection whose certificate the front proxy's own authority signed, and whose common
//! name is allowed; from anybody else they are ignored, never an identity.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;

use super::peer::{CaPool, Peer};
use crate::user::UserInfo;

/// The `--requestheader-*` flags.
pub struct FrontProxy {
    /// `--requestheader-client-ca-file`.
    pub ca: Arc<CaPool>,
    /// `--requestheader-allowed-names`; empty allows every certificate of that authority.
    pub allowed_names: Vec<String>,
    /// `--requestheader-username-headers`, for instance `X-Remote-User`.
    pub username_headers: Vec<String>,
    /// `--requestheader-uid-headers`, for instance `X-Remote-Uid`.
    pub uid_headers: Vec<String>,
    /// `--requestheader-group-headers`, for instance `X-Remote-Group`.
    pub group_headers: Vec<String>,
    /// `--requestheader-extra-headers-prefix`, for instance `X-Remote-Extra-`.
    pub extra_prefixes: Vec<String>,
}

impl FrontProxy {
    /// The user that a front proxy speaks for; `None` when the request does not claim to come from one.
    ///
    /// # Errors
    /// When the connection's certificate is not a front proxy's.
    pub(super) fn user(&self, peer: &Peer, headers: &HeaderMap, now: Timestamp) -> Result<Option<UserInfo>, String> {
        if peer.is_none() {
            return Ok(None);
        }
        peer.check(&self.ca, now)?;
        let name = peer.common_name();
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(&name) {
            return Err(format!("x509: subject with cn={name} is not in the allowed list"));
        }
        let user = first(headers, &self.username_headers);
        if user.is_empty() {
            return Ok(None);
        }
        let groups = self
            .group_headers
            .iter()
            .flat_map(|h| headers.get_all(h))
            .map(text)
            .filter(|g| !g.is_empty());
        Ok(Some(UserInfo {
            name: user,
            uid: first(headers, &self.uid_headers),
            groups: groups.collect(),
            extra: extra(headers, &self.extra_prefixes),
        }))
    }

    /// Every header that may carry an identity: removed from a request once it is authenticated.
    pub fn is_identity_header(&self, name: &str) -> bool {
        let named = [&self.username_headers, &self.uid_headers, &self.group_headers];
        named.into_iter().flatten().any(|h| h.eq_ignore_ascii_case(name))
            || self.extra_prefixes.iter().any(|p| suffix(name, p).is_some())
    }
}

fn text(value: &http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn first(headers: &HeaderMap, names: &[String]) -> String {
    names
        .iter()
        .filter_map(|n| headers.get(n))
        .map(text)
        .find(|v| !v.is_empty())
        .unwrap_or_default()
}

fn suffix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let head = name.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &name[prefix.len()..])
}

fn extra(headers: &HeaderMap, prefixes: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for prefix in prefixes {
        for (name, value) in headers {
            if let Some(key) = suffix(name.as_str(), prefix) {
                out.entry(unescape(&key.to_ascii_lowercase()))
                    .or_default()
                    .push(text(value));
            }
        }
    }
    out
}

/// Undoes percent-encoding; a text with a broken escape, or that is not UTF-8 afterwards, stays as it is.
pub(crate) fn unescape(encoded: &str) -> String {
    let mut out = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next(), bytes.next()].map(|b| b.and_then(|b| char::from(b).to_digit(16)));
        let [Some(high), Some(low)] = digits else {
            return encoded.to_owned();
        };
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).unwrap_or_else(|_| encoded.to_owned())
}
