//! YAML into JSON text and back, as upstream's `sigs.k8s.io/yaml`: YAML never meets a type, JSON does.
//!
//! The parser bounds events, nesting and what aliases expand to. Duplicate keys: the last wins, and strict decoding
//! hears of the first duplicate. `0777` is octal, as Go reads it; `yes` and `on` are true.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::MAX_DEPTH;

/// YAML as JSON text.
pub(super) struct Converted {
    pub json: Vec<u8>,
    /// What a strict reader has against duplicate keys: nothing, or upstream's text.
    pub duplicates: Option<String>,
}

fn options(duplicates: serde_saphyr::DuplicateKeyPolicy) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_documents: 64,
        },
        duplicate_keys: duplicates,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// Reads one YAML document; of several, the first (as upstream does).
pub(super) fn to_json(body: &[u8]) -> Result<Converted, String> {
    use serde_saphyr::DuplicateKeyPolicy::{Error, LastWins};
    // JSON is YAML, and most of what kubectl sends as YAML was JSON before.
    if body.trim_ascii_start().first() == Some(&b'{') && super::json::check(body).is_ok() {
        return Ok(Converted {
            json: body.to_vec(),
            duplicates: None,
        });
    }
    let first = first_document(body);
    match read(first, Error) {
        Ok(json) => Ok(Converted { json, duplicates: None }),
        Err(strict) => {
            let json = read(first, LastWins).map_err(|e| failure(&e))?;
            Ok(Converted {
                json,
                duplicates: Some(duplicate(&strict)),
            })
        }
    }
}

fn read(document: &[u8], duplicates: serde_saphyr::DuplicateKeyPolicy) -> Result<Vec<u8>, serde_saphyr::Error> {
    serde_saphyr::from_slice_with_options::<Json>(document, options(duplicates)).map(|Json(text)| text)
}

/// go-yaml's form of an error: `yaml: line 3: what`. The words are our parser's.
fn failure(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    match error.location() {
        Some(at) => {
            let what = text.split(" at line ").next().unwrap_or(&text);
            format!("yaml: line {}: {what}", at.line())
        }
        None => format!("yaml: {text}"),
    }
}

/// go-yaml's text for a key that is there twice.
fn duplicate(error: &serde_saphyr::Error) -> String {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey {
            key: Some(key),
            location,
        } => {
            format!("line {}: key {key:?} already set in map", location.line())
        }
        _ => failure(error),
    }
}

/// A YAML node as JSON text.
struct Json(Vec<u8>);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut out = Vec::new();
        Node(&mut out).deserialize(deserializer)?;
        Ok(Self(out))
    }
}

/// Writes the next node as JSON.
struct Node<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any YAML")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E>(self, b: bool) -> Result<(), E> {
        self.0.extend_from_slice(if b { b"true" } else { b"false" });
        Ok(())
    }

    fn visit_i64<E>(self, n: i64) -> Result<(), E> {
        self.0.extend_from_slice(n.to_string().as_bytes());
        Ok(())
    }

    fn visit_u64<E>(self, n: u64) -> Result<(), E> {
        self.0.extend_from_slice(n.to_string().as_bytes());
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, f: f64) -> Result<(), E> {
        if !f.is_finite() {
            let name = if f.is_nan() {
                "NaN"
            } else if f > 0.0 {
                "+Inf"
            } else {
                "-Inf"
            };
            return Err(E::custom(format!("json: unsupported value: {name}")));
        }
        // Whole numbers lose their point, as in Go: `1e3` may stand for an integer.
        self.0.extend_from_slice(format!("{f}").as_bytes());
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        super::json::push_json_string(self.0, text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let out = self.0;
        out.push(b'[');
        let mut length = out.len();
        while items.next_element_seed(Node(out))?.is_some() {
            length = out.len();
            out.push(b',');
        }
        out.truncate(length);
        out.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let out = self.0;
        out.push(b'{');
        let mut length = out.len();
        while let Some(Key(key)) = entries.next_key()? {
            super::json::push_json_string(out, &key);
            out.push(b':');
            entries.next_value_seed(Node(out))?;
            length = out.len();
            out.push(b',');
        }
        out.truncate(length);
        out.push(b'}');
        Ok(())
    }
}

/// A mapping's key as text: YAML resolves it first, so `yes` is `true` and `0x10` is `16`.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a scalar key")
    }

    fn visit_bool<E>(self, b: bool) -> Result<Key, E> {
        Ok(Key(b.to_string()))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Key, E> {
        Ok(Key(n.to_string()))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Key, E> {
        Ok(Key(n.to_string()))
    }

    fn visit_f64<E>(self, f: f64) -> Result<Key, E> {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "upstream prints keys with the precision of a float32"
        )]
        let short = f as f32;
        Ok(Key(short.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Key, E> {
        Ok(Key(text.to_owned()))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Key, E> {
        Err(E::custom("unsupported map key of type: %!s(<nil>), key: <nil>"))
    }
}

/// What stands before the second `---` line.
fn first_document(body: &[u8]) -> &[u8] {
    let (mut at, mut content) = (0, false);
    for line in body.split_inclusive(|b| *b == b'\n') {
        let text = line.trim_ascii_end();
        let separator = text == b"---" || text.starts_with(b"--- ");
        if separator && content || text == b"..." {
            return &body[..at];
        }
        content |= !separator && !text.is_empty() && !text.starts_with(b"#");
        at += line.len();
    }
    body
}

/// JSON text as YAML, keys sorted.
pub(super) fn from_json(json: &[u8]) -> Result<Vec<u8>, String> {
    let value = super::decode_untyped(json)?.value;
    serde_saphyr::to_string(&value)
        .map(String::into_bytes)
        .map_err(|e| e.to_string())
}
