//! JSON: typed reading that notices what strict decoding must notice, and typed writing in Go's order of fields.
//!
//! A body is first checked as a whole ([`scan`], as Go does, with Go's error texts), then read against its type
//! ([`read`]). Key lookup is by exact name: Kubernetes' decoder is case-sensitive.

mod read;
mod scan;
mod text;
mod write;

pub(super) use read::{decode, decode_as, decode_untyped, fill, fill_gvk};
pub(super) use scan::{Cursor, check};
pub(super) use text::{compact_json, push_json_string};
pub(super) use write::{write, write_stored};

/// Whether `text` is one JSON value.
///
/// # Errors
/// Go's text: `invalid character 'x' looking for beginning of value`, `unexpected end of JSON input`.
pub fn check_json(text: &[u8]) -> Result<(), String> {
    check(text)
}

/// `text` as a JSON string, quotes included, escaped as Go does it.
#[must_use]
pub fn escape_json(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_json_string(&mut out, text);
    String::from_utf8(out).unwrap_or_default()
}

/// Whether the last byte that is not white space closes an object: then it may be spliced into a list as it is.
#[must_use]
pub fn is_json_object_end(text: &[u8]) -> bool {
    text.trim_ascii_end().last() == Some(&b'}')
}
