//! The decisions of a kind that decides nothing, by name, so that a kind's literal says what was considered.

use crate::Context;
use serde_json::Value;
use steersman_schema::field::FieldErrors;

/// No defaults beyond the static ones.
pub fn default(_: &mut Value) {}
/// Nothing to clear or set on create.
pub fn prepare_create(_: &mut Value, _: &Context) {}
/// Nothing to put back on update.
pub fn prepare_update(_: &mut Value, _: &Value, _: &Context) {}
/// Every well-typed object is good.
pub fn validate(_: &Value) -> FieldErrors {
    Vec::new()
}
/// Every change is good.
pub fn validate_update(_: &Value, _: &Value) -> FieldErrors {
    Vec::new()
}
/// Nothing to warn about.
pub fn warnings(_: &Value, _: Option<&Value>) -> Vec<String> {
    Vec::new()
}
/// No row conditions.
pub fn conditions(_: &Value) -> Vec<Value> {
    Vec::new()
}
