//! Small edits of JSON objects that several plugins make.

use serde_json::{Map, Value, json};

/// `object.part`, made an empty object when absent; `None` when something else than an object stands there.
pub(crate) fn part_mut<'a>(object: &'a mut Value, part: &str) -> Option<&'a mut Map<String, Value>> {
    let entry = object.as_object_mut()?.entry(part).or_insert(Value::Null);
    if entry.is_null() {
        *entry = json!({});
    }
    entry.as_object_mut()
}

/// `object.part.field` as a list, made empty when absent; `None` when something else stands in the way.
pub(crate) fn list_mut<'a>(object: &'a mut Value, part: &str, field: &str) -> Option<&'a mut Vec<Value>> {
    list_in(part_mut(object, part)?, field)
}

/// `map.field` as a list, made empty when absent; `None` when it is something else.
pub(crate) fn list_in<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Vec<Value>> {
    let entry = map.entry(field).or_insert(Value::Null);
    if entry.is_null() {
        *entry = json!([]);
    }
    entry.as_array_mut()
}

/// Five characters for a generated name, upstream's alphabet (no vowels, nothing that reads as another character).
pub(crate) fn suffix(random: u64) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = random;
    (0..5)
        .map(|_| {
            let at = usize::try_from(rest % 27).unwrap_or(0);
            rest /= 27;
            char::from(ALPHABET[at])
        })
        .collect()
}

/// A boolean at a pointer; `None` when it is absent.
pub(crate) fn flag(object: &Value, pointer: &str) -> Option<bool> {
    object.pointer(pointer).and_then(Value::as_bool)
}

/// Why no object can have this name, in the words of upstream's client, which then does not even ask.
pub fn bad_name(name: &str) -> Option<String> {
    let faults = steersman_schema::name::path_segment(name);
    (!faults.is_empty()).then(|| {
        let name = steersman_schema::field::quote(name);
        format!("invalid resource name {name}: [{}]", faults.join(" "))
    })
}
