//! The three client-side patch types: JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386), strategic merge patch.
//!
//! Called by the API server's patch verb with the object as the client sees it (its version, as JSON) and the patch from
//! the request's body. The result is decoded, defaulted and validated like any other new object; nothing of that happens
//! here. Pure, and bounded: operations are counted and copies are paid for, so a small patch cannot make a large object.

mod convert;
mod gotext;
mod json;
mod merge;
mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;

use serde_json::Value;

use crate::codec::{Decoded, decode_untyped};

/// Most operations in one JSON patch (upstream: `maxJSONPatchOperations`).
pub const MAX_OPERATIONS: usize = 10_000;
/// Most bytes that `copy` operations of one JSON patch may add up to: the limit of a request body.
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// A patch that cannot be applied. Each variant is one HTTP status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// 400: the patch itself is malformed.
    #[error("{0}")]
    Malformed(String),
    /// 422: well-formed, but does not fit the object.
    #[error("{0}")]
    DoesNotApply(String),
    /// 413: over [`MAX_OPERATIONS`].
    #[error("{0}")]
    TooLarge(String),
    /// 500: upstream has no status for these faults of strategic merge patches.
    #[error("{0}")]
    Unexpected(String),
    /// 422: what comes out is not of the object's type; `shown` is the patch as messages show it.
    #[error("{why}")]
    Misfit { shown: String, why: String },
}

/// What a patch makes of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Patched {
    /// Not decoded yet: it may have fields that its type does not know.
    pub value: Value,
    /// What strict decoding has against the patch itself, as in [`crate::codec::Decoded`].
    pub strict: Vec<String>,
    /// The patch as messages about the outcome show it; `None`: they show the outcome.
    pub shown: Option<String>,
}

fn parse(patch: &[u8]) -> Result<Decoded, String> {
    decode_untyped(patch)
}

/// What Go's decoder calls a value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
