//! Values as Go's `%v` prints them: messages about strategic merge patches show maps so.

use serde_json::Value;

/// `map[a:1 b:[x y]]`, keys sorted.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => number(n),
        Value::String(text) => text.clone(),
        Value::Array(items) => list(items),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", shown(v))).collect();
            format!("map[{}]", entries.join(" "))
        }
    }
}

/// `[a b]`.
pub(super) fn list(items: &[Value]) -> String {
    let items: Vec<String> = items.iter().map(shown).collect();
    format!("[{}]", items.join(" "))
}

/// What `%s` makes of a value that should have been a text.
pub(super) fn as_text(value: &Value) -> String {
    match value {
        Value::Null => "%!s(<nil>)".into(),
        Value::Bool(b) => format!("%!s(bool={b})"),
        Value::Number(n) if n.is_i64() => format!("%!s(int64={n})"),
        Value::Number(n) => format!("%!s(float64={})", number(n)),
        other => shown(other),
    }
}

/// Go's type of a value in an untyped map.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn number(n: &serde_json::Number) -> String {
    let Some(f) = n.as_f64().filter(|_| !n.is_i64()) else {
        return n.to_string();
    };
    let size = f.abs();
    if f == 0.0 || (1e-4..1e21).contains(&size) {
        return f.to_string();
    }
    let text = format!("{f:e}");
    match text.split_once('e') {
        Some((digits, power)) => {
            let (sign, power) = power.strip_prefix('-').map_or(('+', power), |p| ('-', p));
            format!("{digits}e{sign}{power:0>2}")
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn maps_lists_and_numbers_are_printed_as_go_does() {
        let value = json!({"b": [1, "x", null, true], "a": {"c": 1.5, "d": 1e21, "e": 1e-7, "f": 2.0}});
        assert_eq!(
            shown(&value),
            "map[a:map[c:1.5 d:1e+21 e:1e-07 f:2] b:[1 x <nil> true]]"
        );
        assert_eq!(as_text(&json!(1)), "%!s(int64=1)");
    }
}
