//! JSON Merge Patch, RFC 7386: objects merge, `null` removes, everything else replaces.

use serde_json::{Map, Value};

use super::{PatchError, Patched, kind, parse};
use crate::field::go_json;

/// Applies `patch` to `current`. `checked`: its form is looked at, too.
///
/// # Errors
/// When the patch is not a JSON object.
pub fn merge(current: &Value, patch: &[u8], checked: bool) -> Result<Patched, PatchError> {
    let invalid = || PatchError::Malformed("Invalid JSON Patch".into());
    let parsed = parse(patch).map_err(|why| match checked {
        true => PatchError::Malformed(format!("error decoding patch: {why}")),
        false => invalid(),
    })?;
    let patch = match parsed.value {
        Value::Object(patch) => patch,
        Value::Null => return Err(invalid()),
        other if checked => {
            return Err(PatchError::Malformed(format!(
                "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                kind(&other)
            )));
        }
        // Upstream takes a list for the outcome, and then finds that it is no object.
        Value::Array(mut items) => {
            items.iter_mut().for_each(without_nulls);
            return Err(PatchError::Misfit {
                shown: go_json(&Value::Array(items)),
                why: NO_OBJECT.into(),
            });
        }
        _ => return Err(invalid()),
    };
    let mut value = current.clone();
    merge_into(&mut value, patch);
    Ok(Patched {
        value,
        strict: parsed.strict,
        shown: None,
    })
}

const NO_OBJECT: &str = "couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }";

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

fn merge_into(target: &mut Value, patch: Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(nested) => merge_into(target.entry(key).or_insert(Value::Null), nested),
            value => {
                target.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn merge(current: &Value, patch: &[u8]) -> Result<Value, PatchError> {
        super::merge(current, patch, true).map(|p| p.value)
    }

    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (current, patch, expected) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"a":1,"e":null})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            assert_eq!(
                merge(&current, patch.to_string().as_bytes()),
                Ok(expected),
                "{current} with {patch}"
            );
        }
    }

    #[test]
    fn a_patch_that_is_no_object_is_refused() {
        assert!(matches!(merge(&json!({}), b"[]"), Err(PatchError::Malformed(_))));
        assert!(matches!(merge(&json!({}), b"{"), Err(PatchError::Malformed(_))));
    }

    #[test]
    fn a_list_that_nobody_checks_is_no_object() {
        let refused = super::merge(&json!({}), br#"[{"a":null}]"#, false);
        assert!(
            matches!(refused, Err(PatchError::Misfit { shown, why }) if shown == "[{}]" && why.contains(r#"Kind string "json:\"kind,omitempty\""#))
        );
    }

    proptest! {
        #[test]
        fn applying_a_merge_patch_twice_changes_nothing_more(a in 0..4, b in 0..4, null in any::<bool>()) {
            let current = json!({"x": {"y": a, "z": b}});
            let patch = json!({"x": {"y": if null { Value::Null } else { json!(b) }}}).to_string();
            let once = merge(&current, patch.as_bytes()).unwrap();
            prop_assert_eq!(merge(&once, patch.as_bytes()).unwrap(), once);
        }
    }
}
