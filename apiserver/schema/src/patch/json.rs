//! JSON Patch, RFC 6902, with the behaviour and the texts of the library that upstream uses: negative array indexes count
//! from the end, `test` of an absent path passes against `null`, `remove` of an absent key fails.

use serde_json::Value;

use super::{MAX_COPIED_BYTES, MAX_OPERATIONS, PatchError, parse};

/// Applies a list of operations in order; none takes effect unless all do.
///
/// # Errors
/// [`PatchError::Malformed`] when the patch is not a list of operations, [`PatchError::DoesNotApply`] when one of them
/// fails, [`PatchError::TooLarge`] beyond the limits.
pub fn json(current: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let Value::Array(operations) = parse(patch)? else {
        return Err(PatchError::Malformed(
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch".into(),
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut document = current.clone();
    let mut copied = 0;
    for operation in &operations {
        apply(&mut document, operation, &mut copied)?;
    }
    Ok(document)
}

fn fail<T>(text: String) -> Result<T, PatchError> {
    Err(PatchError::DoesNotApply(text))
}

fn apply(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let kind = text("op").unwrap_or("unknown");
    let value = || operation.get("value").cloned();
    let Some(path) = text("path") else {
        return fail(format!("{kind} operation failed to decode path: missing value"));
    };
    match kind {
        "add" => match value() {
            Some(value) => add(document, path, value, "add"),
            None => fail(format!(
                "error in add for path: '{path}': operation, missing value field: missing value"
            )),
        },
        "remove" => remove(document, path).map(drop),
        "replace" => {
            let Some(value) = value() else {
                return fail(format!(
                    "error in replace for path: '{path}': operation, missing value field: missing value"
                ));
            };
            replace(document, path, value)
        }
        "test" => test(document, path, operation.get("value").unwrap_or(&Value::Null)),
        "move" => {
            let from = from(operation, "move")?;
            if is_within(path, from) {
                return fail(format!(
                    "error in move for path: '{path}': cannot move a value into itself"
                ));
            }
            let value = match find(document, from) {
                Found::Value(_) => remove(document, from)?,
                Found::NoParent => {
                    return fail(format!(
                        "move operation does not apply: doc is missing from path: {from}: missing value"
                    ));
                }
                Found::NoChild => return fail(format!("error in move for path: '{from}': missing value")),
            };
            add(document, path, value, "move")
        }
        "copy" => {
            let from = from(operation, "copy")?;
            let value = match find(document, from) {
                Found::Value(value) => value.clone(),
                _ => {
                    return fail(format!(
                        "copy operation does not apply: doc is missing from path: {from}: missing value"
                    ));
                }
            };
            *copied += value.to_string().len();
            if *copied > MAX_COPIED_BYTES {
                return Err(PatchError::TooLarge(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
                )));
            }
            add(document, path, value, "copy")
        }
        other => fail(format!("Unexpected kind: {other}")),
    }
}

fn from<'a>(operation: &'a Value, kind: &str) -> Result<&'a str, PatchError> {
    operation.get("from").and_then(Value::as_str).ok_or_else(|| {
        PatchError::DoesNotApply(format!(
            "{kind} operation failed to decode from: operation, missing from field: missing value"
        ))
    })
}

fn is_within(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.starts_with('/'))
}

/// Splits a pointer into its parent and its last, unescaped, token.
fn parent_of(path: &str) -> Option<(&str, String)> {
    let at = path.rfind('/')?;
    Some((&path[..at], unescape(&path[at + 1..])))
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

fn pointer_mut<'a>(document: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    if path.is_empty() {
        return Some(document);
    }
    path.strip_prefix('/')?
        .split('/')
        .try_fold(document, |value, token| match value {
            Value::Object(map) => map.get_mut(&unescape(token)),
            Value::Array(items) => {
                let index = index_of(token, items.len())?;
                items.get_mut(index)
            }
            _ => None,
        })
}

enum Found<'a> {
    Value(&'a mut Value),
    NoChild,
    NoParent,
}

fn find<'a>(document: &'a mut Value, path: &str) -> Found<'a> {
    let Some((parent, _)) = parent_of(path) else {
        return Found::Value(document);
    };
    if !pointer_mut(document, parent).is_some_and(|p| p.is_object() || p.is_array()) {
        return Found::NoParent;
    }
    pointer_mut(document, path).map_or(Found::NoChild, Found::Value)
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

fn add(document: &mut Value, path: &str, value: Value, kind: &str) -> Result<(), PatchError> {
    let Some((parent, token)) = parent_of(path) else {
        if path.is_empty() {
            *document = value;
            return Ok(());
        }
        return fail(format!(
            "{kind} operation does not apply: doc is missing path: \"{path}\": missing value"
        ));
    };
    match pointer_mut(document, parent) {
        Some(Value::Object(map)) => {
            map.insert(token, value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            // One past the end is a place to add at, so a negative index counts from there.
            let place = if token == "-" {
                Some(items.len())
            } else {
                index_of(&token, items.len() + 1)
            };
            let place = place.ok_or_else(|| bad_index(kind, path, &token))?;
            items.insert(place, value);
            Ok(())
        }
        _ => fail(format!(
            "{kind} operation does not apply: doc is missing path: \"{path}\": missing value"
        )),
    }
}

fn remove(document: &mut Value, path: &str) -> Result<Value, PatchError> {
    let missing = || {
        PatchError::DoesNotApply(format!(
            "remove operation does not apply: doc is missing path: \"{path}\": missing value"
        ))
    };
    let (parent, token) = parent_of(path).ok_or_else(missing)?;
    match pointer_mut(document, parent) {
        Some(Value::Object(map)) => map.remove(&token).ok_or_else(|| {
            PatchError::DoesNotApply(format!(
                "error in remove for path: '{path}': Unable to remove nonexistent key: {token}: missing value"
            ))
        }),
        Some(Value::Array(items)) => {
            let index = index_of(&token, items.len()).ok_or_else(|| bad_index("remove", path, &token))?;
            Ok(items.remove(index))
        }
        _ => Err(missing()),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    match find(document, path) {
        Found::Value(place) => {
            *place = value;
            Ok(())
        }
        Found::NoParent => fail(format!(
            "replace operation does not apply: doc is missing path: {path}: missing value"
        )),
        Found::NoChild => fail(format!(
            "replace operation does not apply: doc is missing key: {path}: missing value"
        )),
    }
}

fn test(document: &mut Value, path: &str, wanted: &Value) -> Result<(), PatchError> {
    let holds = match find(document, path) {
        Found::Value(value) => value == wanted,
        Found::NoChild => wanted.is_null(),
        Found::NoParent => {
            return fail(format!(
                "test operation does not apply: is missing path: {path}: missing value"
            ));
        }
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
        super::json(current, operations.to_string().as_bytes()).map_err(|e| e.to_string())
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
                json!([{"op":"replace","path":"/x","value":1}]),
                "replace operation does not apply: doc is missing key: /x: missing value",
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
            .map(|i| json!({"op":"copy","from":"","path":format!("/k{i}")}))
            .collect();
        let result = super::json(&json!({"a":"x"}), Value::Array(doubling).to_string().as_bytes());
        assert!(matches!(result, Err(PatchError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn no_pointer_panics(path in "(/[-~a01]{0,3}){0,3}", from in "(/[-~a01]{0,3}){0,3}", op in prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test"])) {
            let _ = run(&json!({"a":[{"a":1}], "": 2}), &json!([{"op":op,"path":path,"from":from,"value":1}]));
        }
    }
}
