//! Codecs: bytes to objects and back, driven by the table of facts.
//!
//! Every request body, every stored value and every answer passes here. Three media types are read and written; a
//! stored protobuf value can be turned into JSON text without an object in between ([`protobuf_to_json`]), and a
//! revision spliced into stored bytes ([`with_resource_version`]): these two are the hot path of reads.
//!
//! The form of a decoded [`Value`] is what Go would print after decoding the same body, nulls left out:
//!
//! - it holds `apiVersion` and `kind`, and no field its type does not have;
//! - scalars without `omitempty` and structs that Go holds by value are there even if the body left them out (`spec`,
//!   `status`, `metadata`, `resources`: `{}`); a scalar with `omitempty` is not there when it is zero or empty;
//! - a list or map is there, if only empty, when the body has it; what goes to the store and back forgets it ([`forget`]);
//! - a list kind has `items`, if only empty ones;
//! - no field is null; any other list or map without `omitempty` that nobody set is absent (and printed as `null` again);
//! - quantities, times and durations are in canonical form.
//!
//! What stays true: nothing here panics, whatever the bytes, and recursion is bounded ([`MAX_DEPTH`]).

mod envelope;
pub mod forget;
mod json;
pub mod part;
mod proto;
mod scalar;
mod splice;
mod yaml;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use crate::facts::{Gvk, Type, facts};

pub use envelope::{Envelope, is_protobuf};
pub use json::{check_json, escape_json, is_json_object_end};
pub(crate) use scalar::canonical_base64;
pub use scalar::{format_duration, format_micro_time, format_time, parse_duration, parse_time};

/// How deep values may nest, in every media type.
pub const MAX_DEPTH: usize = 256;

/// How many values a body may decode to. Two bytes can ask for a struct with everything that Go prints unasked, so the
/// size of a body does not bound what it becomes. 3 MiB of ordinary JSON hold about a third of this.
const MAX_VALUES: usize = 1 << 20;

/// What a struct counts for, its map included.
const STRUCT_VALUES: usize = 8;

const TOO_MANY: &str = "the object has too many fields";

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaType {
    Json,
    Yaml,
    Protobuf,
}

impl MediaType {
    /// The media type as it stands in `Content-Type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// An object and what strict decoding has against it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// Upstream's texts, at most 100: `unknown field "spec.foo"`, `duplicate field "spec.replicas"`.
    pub strict: Vec<String>,
}

/// A body that is no object. Texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Neither kind nor version could be read.
    #[error("{0}")]
    Unreadable(String),
    /// The body says what it is, but there is no such kind here.
    #[error("no kind {:?} is registered for version {:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\"", .0.kind, .0.api_version())]
    UnknownKind(Gvk),
    /// The body says what it is, and is not of that shape.
    #[error("{text}")]
    Malformed { gvk: Gvk, text: String },
}

impl DecodeError {
    /// Upstream's `BadRequest` message for a body that should have been of `expected` kind.
    #[must_use]
    pub fn bad_request(&self, expected: &str, body: &[u8]) -> String {
        match self {
            Self::Unreadable(text) => {
                format!(
                    "the object provided is unrecognized (must be of type {expected}): {text} ({})",
                    summary(body)
                )
            }
            Self::UnknownKind(gvk) | Self::Malformed { gvk, .. } => {
                format!(
                    "{} in version {:?} cannot be handled as a {expected}: {self}",
                    gvk.kind, gvk.version
                )
            }
        }
    }
}

/// The start of a body, as upstream shows it: text if it looks like JSON, otherwise hexadecimal.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let (shown, more) = (
        &body[..body.len().min(SHOWN)],
        if body.len() > SHOWN { " ..." } else { "" },
    );
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => {
            let hex: String = shown.iter().map(|b| format!("{b:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// An object that cannot be written. This is a fault of this project or of what is stored, never of a request's form:
/// decoding has checked it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("object has no kind or apiVersion")]
    NoKind,
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind { api_version: String, kind: String },
    /// A field holds a value of another type than its own.
    #[error("{kind}: field {field:?} is not of type {expected}")]
    Mistyped {
        kind: String,
        field: String,
        expected: String,
    },
    /// Stored bytes are damaged.
    #[error("stored object: {0}")]
    Damaged(String),
    #[error("{0}")]
    Yaml(String),
}

/// Reads a body. `default_gvk` stands in for what the body leaves out (upstream: the kind of the request's resource).
///
/// # Errors
/// When the body cannot be read at all. Unknown and duplicate fields are not errors here; see [`Decoded::strict`].
pub fn decode(media: MediaType, body: &[u8], default_gvk: Option<&Gvk>) -> Result<Decoded, DecodeError> {
    match media {
        MediaType::Json => json::decode(body, body, default_gvk),
        MediaType::Yaml => {
            let converted = yaml::to_json(body).map_err(DecodeError::Unreadable)?;
            let mut decoded = json::decode(&converted.json, body, default_gvk)?;
            // The YAML reader has told of duplicate keys, in its own words.
            decoded.strict.retain(|text| !text.starts_with("duplicate"));
            decoded.strict.splice(0..0, converted.duplicates);
            Ok(decoded)
        }
        MediaType::Protobuf => proto::decode(body, default_gvk),
    }
}

/// Reads JSON that belongs to no known type (custom resources, patches), noticing duplicate keys. Nulls stay.
///
/// # Errors
/// When it is not JSON or too deep. Texts are upstream's.
pub fn decode_untyped(body: &[u8]) -> Result<Decoded, String> {
    json::decode_untyped(body)
}

/// Reads YAML (or JSON) as [`decode_untyped`] reads JSON: an apply configuration.
///
/// # Errors
/// With upstream's text when it is neither.
pub fn decode_untyped_yaml(body: &[u8]) -> Result<Decoded, String> {
    let converted = yaml::to_json(body)?;
    let mut decoded = json::decode_untyped(&converted.json)?;
    if let Some(duplicates) = converted.duplicates {
        // The YAML reader has told of duplicate keys, in its own words.
        decoded.strict = vec![duplicates];
    }
    Ok(decoded)
}

/// Reads JSON as a value of one type, which need not be a kind: what is left of an object after a patch. The result has
/// the form that [`decode`] gives.
///
/// # Errors
/// With upstream's text when the body is not JSON or not of that shape.
pub fn decode_as(ty: &'static Type, body: &[u8]) -> Result<Decoded, String> {
    json::decode_as(ty, body)
}

/// Writes an object.
///
/// # Errors
/// When the object has no kind, a kind that is not in the table (protobuf only), or a mistyped field.
pub fn encode(media: MediaType, value: &Value) -> Result<Vec<u8>, EncodeError> {
    match media {
        MediaType::Json => {
            let mut out = Vec::with_capacity(1024);
            json::write(value, &mut out)?;
            Ok(out)
        }
        MediaType::Yaml => {
            let mut out = Vec::with_capacity(1024);
            json::write(value, &mut out)?;
            yaml::from_json(&out).map_err(EncodeError::Yaml)
        }
        MediaType::Protobuf => proto::encode(value, false),
    }
}

/// Turns a protobuf envelope into JSON text, appended to `out`, with no object in between. Ends without a newline.
///
/// # Errors
/// When the bytes are no envelope of a known kind.
pub fn protobuf_to_json(envelope: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    proto::to_json(envelope, out)
}

/// Reads a stored value: a protobuf envelope, or JSON.
///
/// # Errors
/// When the bytes are damaged.
pub fn decode_stored(stored: &[u8]) -> Result<Value, DecodeError> {
    if is_protobuf(stored) {
        return proto::decode(stored, None).map(|d| d.value);
    }
    let text = |t: String| DecodeError::Unreadable(t);
    let value = decode_untyped(stored).map_err(text)?.value;
    match object_type(&value) {
        // Written by us or by upstream, so it is typed already; what a newer version added stays.
        Some(_) => json::decode(stored, stored, None).map(|d| d.value),
        None => Ok(value),
    }
}

/// Writes an object for the store, as upstream does: a protobuf envelope for built-in kinds, JSON for custom resources,
/// CustomResourceDefinitions and APIServices. `metadata.resourceVersion` and `selfLink` are not stored.
///
/// # Errors
/// As [`encode`].
pub fn encode_stored(value: &Value) -> Result<Vec<u8>, EncodeError> {
    let group = value
        .get("apiVersion")
        .and_then(Value::as_str)
        .map_or("", |v| crate::facts::split_api_version(v).0);
    if object_type(value).is_some() && group != "apiextensions.k8s.io" && group != "apiregistration.k8s.io" {
        return proto::encode(value, true);
    }
    let mut out = Vec::with_capacity(1024);
    json::write_stored(value, &mut out)?;
    // Go's encoder ends with a newline, and so do upstream's stored values.
    out.push(b'\n');
    Ok(out)
}

/// Copies stored bytes with `metadata.resourceVersion` set to `revision`; the media type stays.
///
/// # Errors
/// When the bytes are damaged.
pub fn with_resource_version(stored: &[u8], revision: i64) -> Result<Vec<u8>, EncodeError> {
    splice::with_resource_version(stored, revision)
}

/// The type of an object, by its `apiVersion` and `kind`.
#[must_use]
pub fn object_type(value: &Value) -> Option<&'static Type> {
    let api_version = value.get("apiVersion")?.as_str()?;
    facts().kind_of(api_version, value.get("kind")?.as_str()?)
}

/// What stands for an object that is not there.
fn empty() -> &'static Map<String, Value> {
    static EMPTY: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
    EMPTY.get_or_init(Map::new)
}
