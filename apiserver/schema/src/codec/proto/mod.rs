//! Protobuf: envelopes into objects ([`read`]), into JSON text ([`json`]), and objects into envelopes ([`write`]).
//!
//! Table-driven: no generated code. `apiVersion` and `kind` are in the envelope, not in the message.

mod json;
mod read;
pub(super) mod wire;
mod write;

pub(super) use json::to_json;
pub(super) use read::{decode, float};
pub(super) use write::encode;
