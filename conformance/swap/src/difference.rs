//! Where two JSON values differ. Pure.

use serde_json::Value;

/// The first place where they differ, and what is there; none if they are equal.
#[must_use]
pub fn first(one: &Value, other: &Value) -> Option<String> {
    walk(one, other, &mut String::new())
}

fn walk(one: &Value, other: &Value, path: &mut String) -> Option<String> {
    let length = path.len();
    let mut step = |key: &str, a: Option<&Value>, b: Option<&Value>| {
        path.push('/');
        path.push_str(key);
        let found = match (a, b) {
            (Some(a), Some(b)) => walk(a, b, path),
            (a, b) => Some(format!("{path}: {} and {}", shown(a), shown(b))),
        };
        path.truncate(length);
        found
    };
    match (one, other) {
        _ if one == other => None,
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
            keys.filter(|k| a.get(*k) != b.get(*k))
                .find_map(|k| step(k, a.get(k), b.get(k)))
        }
        (Value::Array(a), Value::Array(b)) => (0..a.len().max(b.len()))
            .filter(|i| a.get(*i) != b.get(*i))
            .find_map(|i| step(&i.to_string(), a.get(i), b.get(i))),
        (Value::String(a), Value::String(b)) => {
            // Long texts: from shortly before they part.
            let equal = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
            let part = |text: &str| {
                text.chars()
                    .skip(equal.saturating_sub(30))
                    .take(120)
                    .collect::<String>()
            };
            Some(format!("{path}: {:?} and {:?}", part(a), part(b)))
        }
        (a, b) => Some(format!("{path}: {} and {}", shown(Some(a)), shown(Some(b)))),
    }
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |v| v.to_string().chars().take(160).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::first;

    #[test]
    fn the_first_difference_is_named_by_its_path() {
        assert_eq!(first(&json!({"a": [1, 2]}), &json!({"a": [1, 2]})), None);
        assert_eq!(
            first(&json!({"a": [1, 2]}), &json!({"a": [1, 3]})).as_deref(),
            Some("/a/1: 2 and 3")
        );
        assert_eq!(
            first(&json!({"a": 1}), &json!({"a": 1, "b": {}})).as_deref(),
            Some("/b: nothing and {}")
        );
        assert_eq!(first(&json!([1]), &json!({})).as_deref(), Some(": [1] and {}"));
        let long = |end: &str| json!(format!("{}{end}", "x".repeat(200)));
        let expected = format!(": \"{0}1\" and \"{0}2\"", "x".repeat(30));
        assert_eq!(first(&long("1"), &long("2")).as_deref(), Some(expected.as_str()));
    }
}
