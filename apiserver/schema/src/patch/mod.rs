//! The three client-side patch types: JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386), strategic merge patch.
//!
//! Called by the API server's patch verb with the object as the client sees it (its version, as JSON) and the patch from
//! the request's body. The result is decoded, defaulted and validated like any other new object; nothing of that happens
//! here. Pure, and bounded: operations are counted and copies are paid for, so a small patch cannot make a large object.

mod json;
mod merge;
mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;

use serde_json::Value;

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
    /// 413: over [`MAX_OPERATIONS`] or [`MAX_COPIED_BYTES`].
    #[error("{0}")]
    TooLarge(String),
}

fn parse(patch: &[u8]) -> Result<Value, PatchError> {
    serde_json::from_slice(patch).map_err(|e| PatchError::Malformed(format!("error decoding patch: {e}")))
}
