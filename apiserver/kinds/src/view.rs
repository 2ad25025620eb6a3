//! Reading dynamic objects without ceremony: a missing field reads as its zero value, as in Go.

use serde_json::{Map, Value};
use steersman_schema::codec::{forget, object_type};
use steersman_schema::facts::facts;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_types::Typed;

/// Short reads of a [`Value`] by JSON pointer.
pub trait View {
    /// The text there, or empty.
    fn text(&self, pointer: &str) -> &str;
    /// The number there, or 0.
    fn int(&self, pointer: &str) -> i64;
    /// The truth there, or false.
    fn flag(&self, pointer: &str) -> bool;
    /// The elements there, or none.
    fn items(&self, pointer: &str) -> &[Value];
    /// The entries there, if it is an object.
    fn entries(&self, pointer: &str) -> Option<&Map<String, Value>>;
    /// Whether something other than null is there.
    fn has(&self, pointer: &str) -> bool;
    /// The value there, null when missing.
    fn at(&self, pointer: &str) -> &Value;
}

static NULL: Value = Value::Null;

impl View for Value {
    fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }
    fn int(&self, pointer: &str) -> i64 {
        self.at(pointer).as_i64().unwrap_or_default()
    }
    fn flag(&self, pointer: &str) -> bool {
        self.at(pointer).as_bool().unwrap_or_default()
    }
    fn items(&self, pointer: &str) -> &[Value] {
        self.at(pointer).as_array().map_or(&[], Vec::as_slice)
    }
    fn entries(&self, pointer: &str) -> Option<&Map<String, Value>> {
        self.at(pointer).as_object()
    }
    fn has(&self, pointer: &str) -> bool {
        !self.at(pointer).is_null()
    }
    fn at(&self, pointer: &str) -> &Value {
        self.pointer(pointer).unwrap_or(&NULL)
    }
}

/// Puts `value` under `key` unless something is there already. Does nothing when `object` is no JSON object.
pub fn set_default(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        let slot = map.entry(key).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value.into();
        }
    }
}

/// As [`set_default`], and treats an empty string as absent: what Go sees in fields that are no pointers.
pub fn set_if_empty(object: &mut Value, key: &str, value: impl Into<Value>) {
    if object.get(key).is_none_or(|v| v.is_null() || v.as_str() == Some("")) {
        set(object, key, value);
    }
}

/// Puts `value` under `key`.
pub fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_string(), value.into());
    }
}

/// Takes `key` away.
pub fn remove(object: &mut Value, key: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(key);
    }
}

/// Makes `new[key]` what it is in `old`, absent if it is absent there.
pub fn put_back(new: &mut Value, old: &Value, key: &str) {
    match old.get(key) {
        Some(value) => set(new, key, value.clone()),
        None => remove(new, key),
    }
}

/// The object under `key`, made empty when absent. `None` when `object` is no JSON object.
pub fn child<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let slot = object.as_object_mut()?.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    Some(slot)
}

/// The elements of the list at `pointer`, to change them; none when it is no list.
pub fn each_mut<'a>(object: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    object
        .pointer_mut(pointer)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// One `Invalid` fault of `value` per message.
pub fn invalid(path: &Path, value: &str, messages: Vec<String>) -> FieldErrors {
    messages
        .into_iter()
        .map(|m| FieldError::invalid(path, value, m))
        .collect()
}

/// The fault of a number below zero.
pub fn non_negative(path: &Path, number: i64) -> FieldErrors {
    let fault = || FieldError::invalid(path, number, "must be greater than or equal to 0");
    (number < 0).then(fault).into_iter().collect()
}

/// The fault of a number that is not above zero.
pub fn positive(path: &Path, number: i64) -> FieldErrors {
    let fault = || FieldError::invalid(path, number, "must be greater than zero");
    (number <= 0).then(fault).into_iter().collect()
}

/// Texts of a list of strings.
pub fn strings(list: &[Value]) -> impl Iterator<Item = &str> {
    list.iter().filter_map(Value::as_str)
}

/// The typed view of `value`. Strict decoding has happened, so a failure is ours: it becomes an internal fault.
///
/// # Errors
/// When a field has another type than the kind's.
pub fn typed<T: Typed>(value: &Value) -> Result<T, FieldErrors> {
    T::from_value(value).map_err(|e| vec![FieldError::internal(&Path::none(), e.to_string())])
}

/// Upstream's semantic equality of decoded values: absent, null and an empty list are one and the same.
pub fn equal(a: &Value, b: &Value) -> bool {
    let none = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(k, v)| equal(v, b.get(k).unwrap_or(&NULL)))
                && b.iter().all(|(k, v)| a.contains_key(k) || none(v))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (a, b) => a == b || (none(a) && none(b)),
    }
}

/// The same for values of a type in `k8s.io/api`, such as `core.v1.PodSpec`: an empty map is none as well.
pub fn equal_as(ty: &str, a: &Value, b: &Value) -> bool {
    match facts().named(&format!("io.k8s.api.{ty}")) {
        Some(ty) => forget::equal(a, b, ty),
        None => equal(a, b),
    }
}

/// The same for the field `key` of two objects of a kind, which say what they are.
pub fn equal_field(a: &Value, b: &Value, key: &str) -> bool {
    match object_type(a) {
        Some(ty) => forget::equal_field(a.get(key), b.get(key), ty, key),
        None => equal(a.get(key).unwrap_or(&NULL), b.get(key).unwrap_or(&NULL)),
    }
}

/// The same for fields that are no pointers in Go: absent, null, `""`, `0`, `false`, `{}` and `[]` are one and the same.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(k, v)| same(v, b.get(k).unwrap_or(&NULL)))
                && b.iter().all(|(k, v)| a.contains_key(k) || zero(v))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b || (zero(a) && zero(b)),
    }
}

/// Equality of two maps of texts, where an empty text is one that is there.
pub fn same_texts(a: &Value, b: &Value) -> bool {
    let none = |v: &Value| v.as_object().is_none_or(Map::is_empty);
    a == b || (none(a) && none(b))
}

fn zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.values().all(zero),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_and_zero_are_the_same() {
        assert!(same(&json!({"a": {}, "b": 1}), &json!({"b": 1, "c": ""})));
        assert!(!same(&json!({"a": [0]}), &json!({"a": []})));
        assert!(!same(&json!({"a": "x"}), &json!({})));
    }

    #[test]
    fn an_empty_map_is_none_where_the_type_says_that_it_is_a_map() {
        let (bare, full) = (
            json!({"volumes": [{"emptyDir": {}}]}),
            json!({"nodeSelector": {}, "volumes": [{"emptyDir": {}}]}),
        );
        assert!(equal_as("core.v1.PodSpec", &bare, &full));
        assert!(!equal_as("core.v1.PodSpec", &bare, &json!({"volumes": [{}]})));
        let slice = |topology: Value| json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "endpoints": [topology]});
        let (bare, full) = (slice(json!({})), slice(json!({"deprecatedTopology": {}})));
        assert!(equal_field(&bare, &full, "endpoints"));
    }
}
