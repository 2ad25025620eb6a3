//! The OpenAPI v2 document: every type as a definition, in JSON and in the protobuf form that kubectl asks for.
//!
//! kubectl reads it to check what no request of its own would check: lists, kinds that nobody serves, reviews. The definitions are those of
//! the v3 documents in the older notation. Its `paths` are empty: who wants the operations reads v3.
//!
//! The protobuf form is `openapi.v2.Document` of gnostic, of which only the messages needed here are written.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::{paths, schema};
use crate::facts::facts;

/// Media types by which clients ask for protobuf; the second is what it is called in answers.
pub const PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// The document in JSON.
#[must_use]
pub fn json() -> &'static Bytes {
    static JSON: OnceLock<Bytes> = OnceLock::new();
    JSON.get_or_init(|| make().to_string().into())
}

/// The document in protobuf.
#[must_use]
pub fn protobuf() -> &'static Bytes {
    static PROTOBUF: OnceLock<Bytes> = OnceLock::new();
    PROTOBUF.get_or_init(|| encode(&make()).into())
}

fn make() -> Value {
    let resources = facts().resources().iter();
    let versions: BTreeSet<_> = resources.map(|r| (r.group, r.version)).collect();
    let types: Vec<String> = versions
        .into_iter()
        .flat_map(|(group, version)| paths::of(facts(), group, version).types)
        .collect();
    let schemas = schema::closure(facts(), &types, &Descriptions::unpack());
    let definitions: Map<String, Value> = schemas.into_iter().map(|(name, s)| (name, older(s))).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": {},
        "definitions": definitions,
    })
}

/// A schema of v3 in the notation of v2.
fn older(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else {
        return schema;
    };
    // A default or description beside a reference needs `allOf` in v3, and not in v2.
    if let Some(Value::Array(parts)) = schema.remove("allOf") {
        for part in parts {
            if let Value::Object(part) = part {
                schema.extend(part);
            }
        }
    }
    // One of several types cannot be said.
    if schema.remove("oneOf").is_some() {
        schema.insert("type".into(), "string".into());
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let target = target.replace("#/components/schemas/", "#/definitions/");
        schema.insert("$ref".into(), target.into());
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.remove(key) {
            schema.insert(key.into(), older(inner));
        }
    }
    if let Some(Value::Object(properties)) = schema.remove("properties") {
        let properties: Map<String, Value> = properties.into_iter().map(|(name, s)| (name, older(s))).collect();
        schema.insert("properties".into(), properties.into());
    }
    schema.into()
}

/// A protobuf message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: Option<&Value>) {
        if let Some(text) = text.and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// Any value: as YAML, of which JSON is a part.
    fn any(&mut self, field: u64, value: &Value) {
        let mut any = Self::default();
        any.bytes(2, value.to_string().as_bytes());
        self.message(field, &any);
    }

    /// Schemas by name, which `Definitions` and `Properties` both are.
    fn named(&mut self, field: u64, schemas: Option<&Value>) {
        let Some(schemas) = schemas.and_then(Value::as_object) else {
            return;
        };
        let mut all = Self::default();
        for (name, value) in schemas {
            let mut named = Self::default();
            named.bytes(1, name.as_bytes());
            named.message(2, &one(value));
            all.message(1, &named);
        }
        self.message(field, &all);
    }
}

fn encode(document: &Value) -> Vec<u8> {
    let mut info = Message::default();
    info.text(1, document.pointer("/info/title"));
    info.text(2, document.pointer("/info/version"));
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    out.message(2, &info);
    out.message(8, &Message::default());
    out.named(9, document.get("definitions"));
    out.0
}

/// `openapi.v2.Schema`.
fn one(schema: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, schema.get("$ref"));
    out.text(2, schema.get("format"));
    out.text(4, schema.get("description"));
    if let Some(value) = schema.get("default") {
        out.any(5, value);
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        out.text(19, Some(name));
    }
    for value in schema.get("enum").and_then(Value::as_array).into_iter().flatten() {
        out.any(20, value);
    }
    if let Some(inner) = schema.get("additionalProperties") {
        let mut item = Message::default();
        item.message(1, &one(inner));
        out.message(21, &item);
    }
    if schema.get("type").is_some() {
        let mut item = Message::default();
        item.text(1, schema.get("type"));
        out.message(22, &item);
    }
    if let Some(inner) = schema.get("items") {
        let mut item = Message::default();
        item.message(1, &one(inner));
        out.message(23, &item);
    }
    out.named(25, schema.get("properties"));
    for (name, value) in schema.as_object().into_iter().flatten() {
        if name.starts_with("x-") {
            let mut named = Message::default();
            named.bytes(1, name.as_bytes());
            named.any(2, value);
            out.message(31, &named);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_resolves_and_nothing_of_the_newer_notation_is_left() {
        let document: Value = serde_json::from_slice(json()).expect("JSON");
        let text = document.to_string();
        assert!(!text.contains("#/components/") && !text.contains("\"oneOf\":[") && !text.contains("\"allOf\":["));
        let definitions = document["definitions"].as_object().expect("definitions");
        for part in text.split("\"$ref\":\"#/definitions/").skip(1) {
            let name = part.split('"').next().expect("a name");
            assert!(definitions.contains_key(name), "{name}");
        }
        let map = &definitions["io.k8s.api.core.v1.ConfigMap"];
        assert_eq!(
            map["properties"]["metadata"]["$ref"],
            "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        assert_eq!(map["x-kubernetes-group-version-kind"][0]["kind"], "ConfigMap");
        assert_eq!(
            definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["type"],
            "string"
        );
    }

    #[test]
    fn protobuf_begins_with_the_version_and_has_every_definition() {
        let bytes = protobuf();
        assert_eq!(bytes[..5], [0x0a, 3, b'2', b'.', b'0']);
        assert!(bytes.windows(28).any(|w| w == b"io.k8s.api.core.v1.ConfigMap"));
        let mut message = Message::default();
        message.bytes(16, &[1; 300]);
        assert_eq!(message.0[..4], [0x82, 0x01, 0xac, 0x02]);
    }
}
