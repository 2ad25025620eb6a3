//! What Kubernetes' API is, as data, and what follows from it without a server: codecs for JSON, YAML and protobuf,
//! static defaults, patches, selectors, quantities, field errors, `Status`, OpenAPI documents.
//!
//! Everything here is a pure function over bytes or [`Value`]s and over one table of facts ([`facts`]), which is
//! checked in under `data/` and written by the generator in `hack/gen`. Callers: the API server, its storage and its
//! kinds; clients use the value types ([`quantity`], [`selector`], [`status`]).
//!
//! An object is a [`Value`] that holds `apiVersion` and `kind`. [`codec`] says which form such a value has.

pub mod codec;
pub mod defaults;
pub mod facts;
pub mod field;
pub mod intstr;
pub mod name;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod selector;
pub mod status;

pub use serde_json::{Map, Value};
