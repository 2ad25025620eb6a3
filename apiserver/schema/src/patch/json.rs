//! JSON Patch, RFC 6902, with the behaviour and the texts of the library that upstream uses: negative array indexes count
//! from the end, an absent key is `null` and may be replaced, `remove` of an absent key fails.

use serde_json::Value;

use super::{MAX_COPIED_BYTES, MAX_OPERATIONS, PatchError, Patched, kind, parse};

/// Applies a list of operations in order; none takes effect unless all do. `checked`: their form is looked at, too.
///
/// # Errors
/// [`PatchError::Malformed`] when the patch is not a list of operations, [`PatchError::DoesNotApply`] when one of them
/// fails, [`PatchError::TooLarge`] when there are too many.
pub fn json(current: &Value, patch: &[u8], checked: bool) -> Result<Patched, PatchError> {
    let (prefix, list_type, operation_type) = match checked {
        true => (
            "error decoding patch: ",
            "[]handlers.jsonPatchOp",
            "handlers.jsonPatchOp",
        ),
        false => ("", "jsonpatch.Patch", "jsonpatch.Operation"),
    };
    let refused = |why: String| PatchError::Malformed(format!("{prefix}{why}"));
    let wrong = |value: &Value, into: &str| {
        refused(format!(
            "json: cannot unmarshal {} into Go value of type {into}",
            kind(value)
        ))
    };
    let parsed = parse(patch).map_err(refused)?;
    let operations = match parsed.value {
        Value::Array(operations) => operations,
        Value::Null => Vec::new(),
        other => return Err(wrong(&other, list_type)),
    };
    let mut strict = Vec::new();
    for (index, operation) in operations.iter().enumerate().filter(|(_, o)| !o.is_null()) {
        let fields = operation.as_object().ok_or_else(|| wrong(operation, operation_type))?;
        for (name, value) in fields.iter().filter(|_| checked) {
            match (name.as_str(), value) {
                ("op" | "path" | "from", Value::String(_) | Value::Null) | ("value", _) => {}
                ("op" | "path" | "from", value) => {
                    return Err(refused(format!(
                        "json: cannot unmarshal {} into Go struct field jsonPatchOp.{name} of type string",
                        kind(value)
                    )));
                }
                _ => strict.push(format!("json patch unknown field \"[{index}].{name}\"")),
            }
        }
    }
    strict.extend(parsed.strict.iter().map(|text| format!("json patch {text}")));
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut value = current.clone();
    let mut copied = 0;
    for operation in &operations {
        apply(&mut value, operation, &mut copied)?;
    }
    Ok(Patched {
        value,
        strict,
        shown: None,
    })
}

fn fail<T>(text: String) -> Result<T, PatchError> {
    Err(PatchError::DoesNotApply(text))
}

fn apply(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let kind = text("op").unwrap_or("unknown");
    // None is null.
    let value = || operation.get("value").cloned().unwrap_or_default();
    let pointer = |name: &str| {
        text(name)
            .ok_or_else(|| PatchError::DoesNotApply(format!("{kind} operation failed to decode {name}: missing value")))
    };
    match kind {
        "add" => add(document, pointer("path")?, value(), kind),
        "remove" => remove(document, pointer("path")?, kind).map(drop),
        "replace" => replace(document, pointer("path")?, value()),
        "test" => test(document, pointer("path")?, &value()),
        "move" => {
            let value = remove(document, pointer("from")?, kind)?;
            add(document, pointer("path")?, value, kind)
        }
        "copy" => {
            let value = get(document, pointer("from")?, kind)?.unwrap_or_default();
            let path = pointer("path")?;
            *copied += value.to_string().len();
            if *copied > MAX_COPIED_BYTES {
                return fail(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
                ));
            }
            add(document, path, value, kind)
        }
        other => fail(format!("Unexpected kind: {other}")),
    }
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// The object or list that holds what a pointer names, and the name in it. What stands before the first slash does not
/// count.
fn holder<'a>(document: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parents, name) = path.rsplit_once('/')?;
    let holder = parents
        .split('/')
        .skip(1)
        .try_fold(document, |value, token| match value {
            Value::Object(map) => map.get_mut(&unescape(token)),
            Value::Array(items) => index_of(token, items.len()).and_then(|index| items.get_mut(index)),
            _ => None,
        })?;
    (holder.is_object() || holder.is_array()).then(|| (holder, unescape(name)))
}

fn missing(kind: &str, path: &str) -> PatchError {
    PatchError::DoesNotApply(format!(
        "{kind} operation does not apply: doc is missing path: \"{path}\": missing value"
    ))
}

/// An index of an existing element; negative ones count from the end.
fn index_of(token: &str, length: usize) -> Option<usize> {
    let index: i64 = token.parse().ok()?;
    let length = i64::try_from(length).ok()?;
    let index = if index < 0 { length + index } else { index };
    usize::try_from(index).ok().filter(|_| index < length)
}

fn bad_index(kind: &str, path: &str, token: &str) -> PatchError {
    let why = match token.parse::<i64>() {
        Ok(index) => format!("Unable to access invalid index: {index}: invalid index referenced"),
        Err(_) => {
            format!("value was not a proper array index: '{token}': strconv.Atoi: parsing \"{token}\": invalid syntax")
        }
    };
    PatchError::DoesNotApply(format!("error in {kind} for path: '{path}': {why}"))
}

/// What is there; a key that an object does not have is null, an index that a list does not have is a fault.
fn get(document: &mut Value, path: &str, kind: &str) -> Result<Option<Value>, PatchError> {
    match holder(document, path).ok_or_else(|| missing(kind, path))? {
        (Value::Array(items), token) => {
            let index = index_of(&token, items.len()).ok_or_else(|| bad_index(kind, path, &token))?;
            Ok(items.get(index).cloned())
        }
        (holder, token) => Ok(holder.get(&token).cloned()),
    }
}

fn add(document: &mut Value, path: &str, value: Value, kind: &str) -> Result<(), PatchError> {
    match holder(document, path).ok_or_else(|| missing(kind, path))? {
        (Value::Array(items), token) => {
            // One past the end is a place to add at, so a negative index counts from there.
            let place = match token.as_str() {
                "-" => Some(items.len()),
                token => index_of(token, items.len() + 1),
            };
            let place = place.ok_or_else(|| bad_index(kind, path, &token))?;
            items.insert(place, value);
        }
        (Value::Object(map), token) => drop(map.insert(token, value)),
        _ => return Err(missing(kind, path)),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str, kind: &str) -> Result<Value, PatchError> {
    match holder(document, path).ok_or_else(|| missing(kind, path))? {
        (Value::Array(items), token) => {
            let index = index_of(&token, items.len()).ok_or_else(|| bad_index(kind, path, &token))?;
            Ok(items.remove(index))
        }
        (Value::Object(map), token) => map.remove(&token).ok_or_else(|| {
            PatchError::DoesNotApply(format!(
                "error in {kind} for path: '{path}': Unable to remove nonexistent key: {token}: missing value"
            ))
        }),
        _ => Err(missing(kind, path)),
    }
}

/// A key that an object does not have is added.
fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        if !(value.is_object() || value.is_array()) {
            return fail("replace operation value must be object or array".into());
        }
        *document = value;
        return Ok(());
    }
    match holder(document, path).ok_or_else(|| missing("replace", path))? {
        (Value::Array(items), token) => {
            let index = index_of(&token, items.len()).ok_or_else(|| bad_index("replace", path, &token))?;
            items[index] = value;
        }
        (Value::Object(map), token) => drop(map.insert(token, value)),
        _ => return Err(missing("replace", path)),
    }
    Ok(())
}

fn test(document: &mut Value, path: &str, wanted: &Value) -> Result<(), PatchError> {
    let holds = match path {
        "" => document == wanted,
        path => get(document, path, "test")?.unwrap_or_default() == *wanted,
    };
    if holds {
        Ok(())
    } else {
        fail(format!("testing value {path} failed: test failed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn run(current: &Value, operations: &Value) -> Result<Value, String> {
        let done = super::json(current, operations.to_string().as_bytes(), true);
        done.map(|p| p.value).map_err(|e| e.to_string())
    }

    #[test]
    fn operations_do_what_the_rfc_says() {
        for (current, operations, expected) in [
            (
                json!({"a":1}),
                json!([{"op":"add","path":"/b","value":2}]),
                json!({"a":1,"b":2}),
            ),
            (
                json!({"a":[1,3]}),
                json!([{"op":"add","path":"/a/1","value":2}]),
                json!({"a":[1,2,3]}),
            ),
            (
                json!({"a":[1]}),
                json!([{"op":"add","path":"/a/-","value":2}]),
                json!({"a":[1,2]}),
            ),
            (
                json!({"a":[1,2]}),
                json!([{"op":"remove","path":"/a/-1"}]),
                json!({"a":[1]}),
            ),
            (
                json!({"a/b":1,"c~d":2}),
                json!([{"op":"replace","path":"/a~1b","value":3},{"op":"remove","path":"/c~0d"}]),
                json!({"a/b":3}),
            ),
            (
                json!({"a":{"b":1}}),
                json!([{"op":"move","from":"/a/b","path":"/c"}]),
                json!({"a":{},"c":1}),
            ),
            (
                json!({"a":{"b":1}}),
                json!([{"op":"copy","from":"/a","path":"/c"},{"op":"test","path":"/c/b","value":1}]),
                json!({"a":{"b":1},"c":{"b":1}}),
            ),
            (json!({}), json!([{"op":"test","path":"/x","value":null}]), json!({})),
            // Beyond the RFC, as upstream: what is absent is null, and may be replaced.
            (
                json!({"a":{}}),
                json!([{"op":"replace","path":"/a/x","value":1},{"op":"copy","from":"/none","path":"/b"},{"op":"add","path":"/c"}]),
                json!({"a":{"x":1},"b":null,"c":null}),
            ),
            (json!({"a":1}), Value::Null, json!({"a":1})),
        ] {
            assert_eq!(run(&current, &operations), Ok(expected), "{operations}");
        }
    }

    #[test]
    fn refusals_carry_upstreams_texts() {
        for (operations, expected) in [
            (
                json!([{"op":"remove","path":"/x"}]),
                "error in remove for path: '/x': Unable to remove nonexistent key: x: missing value",
            ),
            (
                json!([{"op":"add","path":"","value":{}}]),
                "add operation does not apply: doc is missing path: \"\": missing value",
            ),
            (
                json!([{"op":"move","from":"/a","path":"/a/b"}]),
                "move operation does not apply: doc is missing path: \"/a/b\": missing value",
            ),
            (
                json!([{"op":"add","path":1}]),
                "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.path of type string",
            ),
            (
                json!({"op":"add"}),
                "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
            ),
            (
                json!([{"op":"add","path":"/x/y","value":1}]),
                "add operation does not apply: doc is missing path: \"/x/y\": missing value",
            ),
            (
                json!([{"op":"test","path":"/a","value":2}]),
                "testing value /a failed: test failed",
            ),
            (json!([{"op":"jump","path":"/a"}]), "Unexpected kind: jump"),
            (
                json!([{"op":"add","path":"/l/7","value":1}]),
                "error in add for path: '/l/7': Unable to access invalid index: 7: invalid index referenced",
            ),
        ] {
            assert_eq!(run(&json!({"a":1,"l":[]}), &operations), Err(expected.to_owned()));
        }
    }

    #[test]
    fn limits_are_kept() {
        let many: Vec<Value> = (0..=MAX_OPERATIONS)
            .map(|_| json!({"op":"test","path":"/a","value":1}))
            .collect();
        let text = run(&json!({"a":1}), &Value::Array(many)).unwrap_err();
        assert_eq!(
            text,
            "The allowed maximum operations in a JSON patch is 10000, got 10001"
        );
        let doubling: Vec<Value> = (0..40)
            .map(|i| json!({"op":"copy","from":"/a","path":format!("/a/k{i}")}))
            .collect();
        let text = run(&json!({"a":{"x":"y"}}), &Value::Array(doubling)).unwrap_err();
        assert!(text.starts_with("Unable to complete the copy"), "{text}");
    }

    #[test]
    fn what_is_odd_in_an_operation_is_told() {
        let patch = br#"[{"op":"add","path":"/a","value":1,"value":2,"why":"x"}]"#;
        let done = super::json(&json!({}), patch, true).unwrap();
        assert_eq!(done.value, json!({"a": 2}));
        assert_eq!(
            done.strict,
            [
                r#"json patch unknown field "[0].why""#,
                r#"json patch duplicate field "[0].value""#
            ]
        );
        let bare = super::json(&json!({}), b"[", false);
        assert_eq!(bare, Err(PatchError::Malformed("unexpected end of JSON input".into())));
    }

    proptest! {
        #[test]
        fn no_pointer_panics(path in "(/[-~a01]{0,3}){0,3}", from in "(/[-~a01]{0,3}){0,3}", op in prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test"])) {
            let _ = run(&json!({"a":[{"a":1}], "": 2}), &json!([{"op":op,"path":path,"from":from,"value":1}]));
        }
    }
}
