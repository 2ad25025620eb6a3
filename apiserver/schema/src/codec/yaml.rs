//! YAML into JSON text and back, as upstream's `sigs.k8s.io/yaml`: YAML never meets a type, JSON does.
//!
//! The parser bounds events, nesting and what aliases expand to. Duplicate keys: the last wins, and strict decoding
//! hears of the first duplicate. `0777` is octal, as Go reads it; `yes` and `on` are true.

use serde_json::Value;

use super::MAX_DEPTH;

/// YAML as JSON text.
pub(super) struct Converted {
    pub json: Vec<u8>,
    /// What a strict reader has against duplicate keys: nothing, or upstream's text.
    pub duplicates: Option<String>,
}

fn options(duplicates: serde_saphyr::DuplicateKeyPolicy) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_documents: 64,
        },
        duplicate_keys: duplicates,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// Reads one YAML document; of several, the first (as upstream does).
pub(super) fn to_json(body: &[u8]) -> Result<Converted, String> {
    use serde_saphyr::DuplicateKeyPolicy::{Error, LastWins};
    // JSON is YAML, and most of what kubectl sends as YAML was JSON before.
    if body.trim_ascii_start().first() == Some(&b'{') && super::json::check(body).is_ok() {
        return Ok(Converted {
            json: body.to_vec(),
            duplicates: None,
        });
    }
    let first = first_document(body);
    let failed = |e: String| format!("error converting YAML to JSON: yaml: {e}");
    let (value, duplicates): (Value, _) = match serde_saphyr::from_slice_with_options(first, options(Error)) {
        Ok(value) => (value, None),
        Err(strict) => {
            let value = serde_saphyr::from_slice_with_options(first, options(LastWins));
            (
                value.map_err(|e| failed(e.to_string()))?,
                Some(failed(format!("unmarshal errors:\n  {strict}"))),
            )
        }
    };
    let json = serde_json::to_vec(&value).map_err(|e| failed(e.to_string()))?;
    Ok(Converted { json, duplicates })
}

/// What stands before the second `---` line.
fn first_document(body: &[u8]) -> &[u8] {
    let (mut at, mut content) = (0, false);
    for line in body.split_inclusive(|b| *b == b'\n') {
        let text = line.trim_ascii_end();
        let separator = text == b"---" || text.starts_with(b"--- ");
        if separator && content || text == b"..." {
            return &body[..at];
        }
        content |= !separator && !text.is_empty() && !text.starts_with(b"#");
        at += line.len();
    }
    body
}

/// JSON text as YAML, keys sorted.
pub(super) fn from_json(json: &[u8]) -> Result<Vec<u8>, String> {
    let value = super::decode_untyped(json)?.value;
    serde_saphyr::to_string(&value)
        .map(String::into_bytes)
        .map_err(|e| e.to_string())
}
