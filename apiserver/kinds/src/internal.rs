//! Upstream's internal form of pods as JSON: some messages show a whole struct, and upstream's internal structs have no
//! JSON names, so that Go's names, every field and the order of declaration appear.

use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;
use steersman_schema::codec::escape_json;

/// A field, or with an empty name a struct whose fields stand here.
struct Field {
    go: &'static str,
    /// The name in v1; with `above` set, in the object around this one.
    json: &'static str,
    above: bool,
    zero: &'static str,
    inner: &'static str,
}

static STRUCTS: LazyLock<HashMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    let mut structs: HashMap<&str, Vec<Field>> = HashMap::new();
    let mut name = "";
    for line in include_str!("internal.txt").lines().filter(|l| !l.starts_with('#')) {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        let field = match words[..] {
            [start] => {
                name = start;
                structs.entry(name).or_default();
                continue;
            }
            ["*", inner] => Field {
                go: "",
                json: "",
                above: false,
                zero: "",
                inner,
            },
            [go, json, zero, inner] => Field {
                go,
                json: json.trim_start_matches('^'),
                above: json.starts_with('^'),
                zero,
                inner,
            },
            _ => continue,
        };
        structs.entry(name).or_default().push(field);
    }
    structs
});

/// As a zero: the field is left out when it is not set.
const OMITTED: &str = "~";

enum Node {
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// `value`, a v1 object, as upstream's internal struct `name`; one line.
pub fn compact(name: &str, value: &Value) -> String {
    let mut out = String::new();
    write(&node(name, value, &Map::new()), None, &mut out);
    out
}

/// The same with one field per line, indented by one blank per level.
pub fn pretty(name: &str, value: &Value) -> String {
    let mut out = String::new();
    write(&node(name, value, &Map::new()), Some(0), &mut out);
    out.push('\n');
    out
}

fn node(name: &str, value: &Value, around: &Map<String, Value>) -> Node {
    if let Value::Array(list) = value {
        return Node::List(list.iter().map(|v| node(name, v, around)).collect());
    }
    let Some(fields) = STRUCTS.get(name) else {
        return plain(value);
    };
    let empty = Map::new();
    let object = value.as_object().unwrap_or(&empty);
    let mut out = Vec::new();
    collect(fields, object, around, &mut out);
    Node::Object(out)
}

fn collect(fields: &[Field], object: &Map<String, Value>, around: &Map<String, Value>, out: &mut Vec<(String, Node)>) {
    for field in fields {
        if field.go.is_empty() {
            match STRUCTS.get(field.inner) {
                // The only one that v1 does not inline.
                Some(inner) if field.inner == "ObjectMeta" => {
                    if let Some(metadata) = object.get("metadata").and_then(Value::as_object) {
                        collect(inner, metadata, object, out);
                    }
                }
                Some(inner) => collect(inner, object, around, out),
                None => {}
            }
            continue;
        }
        let source = if field.above { around } else { object };
        let found = source.get(field.json).filter(|v| !v.is_null());
        // An empty object that is no struct is a map.
        let empty = found.is_none_or(|v| match v {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty() && field.inner == "-",
            _ => false,
        });
        if empty && field.zero == OMITTED {
            continue;
        }
        let shown = match found {
            None if field.zero == "{}" => node(field.inner, &Value::Null, object),
            None => Node::Text(field.zero.to_owned()),
            Some(Value::Array(list)) => Node::List(list.iter().map(|v| node(field.inner, v, object)).collect()),
            Some(value) => node(field.inner, value, object),
        };
        out.push((field.go.to_owned(), shown));
    }
}

fn plain(value: &Value) -> Node {
    match value {
        Value::Array(list) => Node::List(list.iter().map(plain).collect()),
        Value::Object(map) => Node::Object(map.iter().map(|(k, v)| (k.clone(), plain(v))).collect()),
        Value::String(text) => Node::Text(escape_json(text)),
        other => Node::Text(other.to_string()),
    }
}

fn write(node: &Node, level: Option<usize>, out: &mut String) {
    let deeper = level.map(|l| l + 1);
    let line = |level: Option<usize>, out: &mut String| {
        if let Some(level) = level {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', level));
        }
    };
    match node {
        Node::Text(text) => out.push_str(text),
        Node::List(list) if list.is_empty() => out.push_str("[]"),
        Node::Object(fields) if fields.is_empty() => out.push_str("{}"),
        Node::List(list) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                line(deeper, out);
                write(item, deeper, out);
            }
            line(level, out);
            out.push(']');
        }
        Node::Object(fields) => {
            out.push('{');
            for (i, (key, item)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                line(deeper, out);
                // Writing to a String cannot fail.
                let _ = write!(out, "{}:{}", escape_json(key), if level.is_some() { " " } else { "" });
                write(item, deeper, out);
            }
            line(level, out);
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_appear_with_their_names_in_go() {
        assert_eq!(
            compact("EnvVar", &json!({"name": "A", "value": "<"})),
            r#"{"Name":"A","Value":"\u003c","ValueFrom":null}"#
        );
        // Embedded structs are inlined; what v1 has in the spec may sit in the security context.
        assert_eq!(
            compact("Volume", &json!({"name": "a", "emptyDir": {}}))
                .starts_with(r#"{"Name":"a","HostPath":null,"EmptyDir":{"Medium":"","SizeLimit":null},"#),
            true
        );
        let spec = compact("PodSpec", &json!({"hostNetwork": true, "securityContext": {}}));
        assert!(
            spec.contains(r#""SecurityContext":{"HostNetwork":true,"HostPID":false,"#),
            "{spec}"
        );
    }

    #[test]
    fn metadata_is_inlined_in_its_own_order_without_what_is_empty() {
        let template = json!({"metadata": {"annotations": {"x": "y"}, "labels": {}, "name": "n", "ownerReferences": [{"uid": "u", "name": "o", "kind": "K", "apiVersion": "v1"}]}});
        let shown = compact("PersistentVolumeClaimTemplate", &template);
        let start = r#"{"name":"n","annotations":{"x":"y"},"ownerReferences":[{"apiVersion":"v1","kind":"K","name":"o","uid":"u"}],"Spec":{"#;
        assert!(shown.starts_with(start), "{shown}");
    }

    #[test]
    fn empty_maps_of_specs_are_shown() {
        let spec = compact(
            "PodSpec",
            &json!({"nodeSelector": {}, "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {"matchLabels": {}}}]}}}),
        );
        assert!(spec.contains(r#""NodeSelector":{},"#), "{spec}");
        assert!(spec.contains(r#""LabelSelector":{},"#), "{spec}");
    }

    #[test]
    fn each_struct_named_is_described() {
        for field in STRUCTS.values().flatten() {
            let known = field.inner == "-" || STRUCTS.contains_key(field.inner);
            assert!(known, "{}", field.inner);
            assert_ne!(field.json, "???", "{}", field.go);
        }
    }
}
