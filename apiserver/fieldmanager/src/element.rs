//! One step of a field's path: a field of a struct or map, an element of a list by its keys, its value or its place.

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Value};

/// A value that identifies an element of a list. Ordered as upstream orders them: numbers, strings, booleans, the rest.
#[derive(Clone, Debug)]
pub struct Scalar(pub Value);

impl Scalar {
    fn rank(&self) -> u8 {
        match self.0 {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            _ => 3,
        }
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a
                    .as_f64()
                    .unwrap_or_default()
                    .total_cmp(&b.as_f64().unwrap_or_default()),
            },
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            _ => self
                .rank()
                .cmp(&other.rank())
                .then_with(|| self.0.to_string().cmp(&other.0.to_string())),
        }
    }
}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scalar {}

/// One step of a path. Shown as conflicts name it: `.spec`, `[name="web"]`, `[="a"]`, `[0]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    Field(String),
    /// The element of a list with these values in its key fields, sorted by name.
    Key(Vec<(String, Scalar)>),
    /// The element of a set.
    Value(Scalar),
    /// An element by its place; never written by a server, but read.
    Index(i64),
}

impl Element {
    /// A field by its name.
    #[must_use]
    pub fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }

    /// The key under which the element stands in `fieldsV1`.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => {
                let keys: Map<String, Value> = keys.iter().map(|(k, v)| (k.clone(), v.0.clone())).collect();
                format!("k:{}", Value::Object(keys))
            }
            Self::Value(value) => format!("v:{}", value.0),
            Self::Index(at) => format!("i:{at}"),
        }
    }

    /// The inverse of [`Self::to_text`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((kind, rest)) = text.split_once(':').filter(|(kind, _)| kind.len() == 1) else {
            return Err(format!("missing colon: {text}"));
        };
        match kind {
            "f" => Ok(Self::field(rest)),
            "v" => serde_json::from_str(rest)
                .map(|value| Self::Value(Scalar(value)))
                .map_err(|e| e.to_string()),
            "k" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).map_err(|e| e.to_string())?;
                let mut keys: Vec<_> = keys.into_iter().map(|(k, v)| (k, Scalar(v))).collect();
                keys.sort();
                Ok(Self::Key(keys))
            }
            "i" => rest.parse().map(Self::Index).map_err(|_| format!("bad index: {text}")),
            _ => Err("unknown path element type".into()),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                f.write_str("[")?;
                for (i, (name, value)) in keys.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={}", value.0)?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={}]", value.0),
            Self::Index(at) => write!(f, "[{at}]"),
        }
    }
}

/// A path as conflicts name it.
#[must_use]
pub fn path_text(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn elements_are_read_as_they_are_written() {
        for text in [
            "f:spec",
            "f:a:b",
            r#"k:{"containerPort":80,"protocol":"TCP"}"#,
            r#"v:"x.io/finalizer""#,
            "v:7",
            "i:3",
        ] {
            assert_eq!(Element::parse(text).unwrap().to_text(), text);
        }
    }

    #[test]
    fn what_is_no_element_is_refused() {
        for text in ["", "f", "spec", "x:1", "k:[]", "v:", "i:one", "ff:x"] {
            assert!(Element::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_shown_as_upstream_shows_them() {
        let key = Element::parse(r#"k:{"protocol":"TCP","containerPort":80}"#).unwrap();
        let path = [Element::field("spec"), key, Element::Value(Scalar("a\"b".into()))];
        assert_eq!(path_text(&path), r#".spec[containerPort=80,protocol="TCP"][="a\"b"]"#);
    }
}
