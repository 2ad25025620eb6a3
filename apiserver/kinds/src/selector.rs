//! Label selectors as objects: their faults, their string form, and whether they match.

use serde_json::Value;
use std::collections::BTreeMap;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;
use steersman_types::LabelSelector;

use crate::meta::validate_labels;
use crate::view::View;

/// Faults of a selector. `lenient` lets values pass that are no label values (objects stored by old releases).
pub fn validate(selector: &LabelSelector, lenient: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(labels) = &selector.match_labels {
        errors.extend(validate_labels(
            labels.iter().map(|(k, v)| (k.as_str(), v.as_str())),
            &path.child("matchLabels"),
        ));
    }
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values: &[String] = expression.values.as_deref().unwrap_or_default();
        match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(
                &path.child("operator"),
                BadValue::typed(other),
                "not a valid selector operator",
            )),
        }
        let key = path.child("key");
        errors.extend(
            name::qualified_name(&expression.key)
                .into_iter()
                .map(|m| FieldError::invalid(&key, &expression.key, m)),
        );
        if !lenient {
            for (i, value) in values.iter().enumerate() {
                let path = path.child("values").index(i);
                errors.extend(
                    name::label_value(value)
                        .into_iter()
                        .map(|m| FieldError::invalid(&path, value, m)),
                );
            }
        }
    }
    errors
}

/// Whether the selector selects nothing in particular.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether a *valid* selector matches these labels.
pub fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selector
        .match_labels
        .iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(|e| {
            let found = labels.get(&e.key);
            let listed = |v: &String| e.values.iter().flatten().any(|w| w == v);
            match e.operator.as_str() {
                "In" => found.is_some_and(listed),
                "NotIn" => !found.is_some_and(listed),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

/// The string form of a `LabelSelector` value (`a=b,c in (d,e),!f`), sorted by key as upstream prints it. Absent
/// selectors give an empty string.
pub fn format(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> = Vec::new();
    for (key, value) in selector.entries("/matchLabels").into_iter().flatten() {
        parts.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for expression in selector.items("/matchExpressions") {
        let key = expression.text("/key");
        let mut values: Vec<&str> = expression.items("/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match expression.text("/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_string(),
            "DoesNotExist" => format!("!{key}"),
            _ => continue,
        };
        parts.push((key.to_string(), text));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// The string form of a plain map of labels (`a=b,c=d`).
pub fn format_map(labels: &Value) -> String {
    let parts: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    parts.join(",")
}

/// The JSON of a selector with fields in upstream's order, as messages show it.
pub fn shown(selector: &Value) -> steersman_schema::field::BadValue {
    use steersman_schema::field::go_json;
    if !selector.is_object() {
        return BadValue::Json(Value::Null);
    }
    let mut parts = Vec::new();
    if selector.entries("/matchLabels").is_some_and(|m| !m.is_empty()) {
        parts.push(format!("\"matchLabels\":{}", go_json(selector.at("/matchLabels"))));
    }
    if !selector.items("/matchExpressions").is_empty() {
        let list: Vec<String> = selector
            .items("/matchExpressions")
            .iter()
            .map(|e| {
                let mut text = format!(
                    "{{\"key\":{},\"operator\":{}",
                    go_json(e.at("/key")),
                    go_json(e.at("/operator"))
                );
                if !e.items("/values").is_empty() {
                    text.push_str(&format!(",\"values\":{}", go_json(e.at("/values"))));
                }
                text + "}"
            })
            .collect();
        parts.push(format!("\"matchExpressions\":[{}]", list.join(",")));
    }
    BadValue::Raw(format!("{{{}}}", parts.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_print_sorted_by_key() {
        let s = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "c", "operator": "NotIn", "values": ["y", "x"]}, {"key": "a", "operator": "DoesNotExist"}]});
        assert_eq!(format(&s), "!a,b=1,c notin (x,y)");
    }

    #[test]
    fn a_bad_expression_is_explained() {
        let s: LabelSelector = steersman_types_selector(json!({"matchExpressions": [{"key": "a", "operator": "In"}]}));
        let texts: Vec<String> = validate(&s, false, &Path::new("spec"))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            ["spec.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"]
        );
    }

    fn steersman_types_selector(value: Value) -> LabelSelector {
        serde_json::from_value(value).unwrap_or_default()
    }
}
