//! A type of the table as an OpenAPI v3 schema.

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use crate::facts::{Facts, Field, ListType, MapType, Shape, Ty, Type};

/// Types that are values on the wire, not objects: name, `type`, `format`.
const SCALARS: &[(&str, &str, &str)] = &[
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "string", "date-time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "string", "date-time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Duration", "string", ""),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "object", ""),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "object", ""),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "object", ""),
];
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// A reference to a schema of the same document.
pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The schemas of `roots` and of everything that they mention.
pub fn closure(facts: &'static Facts, roots: &[String], texts: &Descriptions) -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut open: Vec<String> = roots.to_vec();
    while let Some(name) = open.pop() {
        if schemas.contains_key(&name) {
            continue;
        }
        let (schema, mentioned) = one(facts, &name, texts);
        schemas.insert(name, schema);
        open.extend(mentioned);
    }
    schemas
}

fn one(facts: &'static Facts, name: &str, texts: &Descriptions) -> (Value, Vec<String>) {
    let mut schema = Map::new();
    let mut mentioned = Vec::new();
    if !texts.of_type(name).is_empty() {
        schema.insert("description".into(), texts.of_type(name).into());
    }
    if let Some((_, ty, format)) = SCALARS.iter().find(|(n, ..)| *n == name) {
        schema.insert("type".into(), (*ty).into());
        if !format.is_empty() {
            schema.insert("format".into(), (*format).into());
        }
    } else if name == QUANTITY || name == INT_OR_STRING {
        let number = if name == QUANTITY { "number" } else { "integer" };
        if name == INT_OR_STRING {
            schema.insert("format".into(), "int-or-string".into());
        }
        schema.insert("oneOf".into(), json!([{"type": "string"}, {"type": number}]));
    } else if let Some(ty) = facts.named(name) {
        object(ty, name, texts, &mut schema, &mut mentioned);
    }
    (Value::Object(schema), mentioned)
}

fn object(
    ty: &'static Type,
    name: &str,
    texts: &Descriptions,
    schema: &mut Map<String, Value>,
    mentioned: &mut Vec<String>,
) {
    schema.insert("type".into(), "object".into());
    let mut properties = Map::new();
    if ty.kind {
        for field in ["apiVersion", "kind"] {
            properties.insert(
                field.into(),
                json!({"description": texts.of_field(name, field), "type": "string"}),
            );
        }
    }
    for field in ty.flat_fields() {
        let description = texts.of_field(name, field.json);
        properties.insert(field.json.into(), property(field, description, mentioned));
    }
    let required: Vec<&str> = ty.flat_fields().filter(|f| f.required).map(|f| f.json).collect();
    if !required.is_empty() {
        schema.insert("required".into(), json!(required));
    }
    schema.insert("properties".into(), Value::Object(properties));
    if ty.atomic {
        schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if let Some(gvk) = ty.gvk() {
        // Options and Status belong to every group-version; documents name them under the core one.
        let group = if gvk.group == "meta.k8s.io" { "" } else { &gvk.group };
        schema.insert(
            "x-kubernetes-group-version-kind".into(),
            json!([{"group": group, "version": gvk.version, "kind": gvk.kind}]),
        );
    }
}

fn property(field: &'static Field, description: &str, mentioned: &mut Vec<String>) -> Value {
    let mut schema = of(field.ty, mentioned);
    // A reference stands alone; what is said beside it needs this detour.
    if let Some(target) = schema.remove("$ref") {
        schema.insert("allOf".into(), json!([{"$ref": target}]));
    }
    if !description.is_empty() {
        schema.insert("description".into(), description.into());
    }
    if let Some(default) = default_of(field) {
        schema.insert("default".into(), default);
    }
    let values = field.enum_values();
    if !values.is_empty() && matches!(field.ty.shape, Shape::String) {
        schema.insert("enum".into(), json!(values));
    }
    match &field.list {
        Some(ListType::Atomic) => drop(schema.insert("x-kubernetes-list-type".into(), "atomic".into())),
        Some(ListType::Set) => drop(schema.insert("x-kubernetes-list-type".into(), "set".into())),
        Some(ListType::Map(keys)) => {
            schema.insert("x-kubernetes-list-type".into(), "map".into());
            schema.insert("x-kubernetes-list-map-keys".into(), json!(keys));
        }
        None => {}
    }
    if field.map_type == Some(MapType::Atomic) {
        schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    let strategies = [
        ("merge", field.patch_strategy.merge),
        ("retainKeys", field.patch_strategy.retain_keys),
    ];
    let strategies: Vec<&str> = strategies
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| name)
        .collect();
    if !strategies.is_empty() {
        schema.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
    }
    if let Some(key) = field.patch_merge_key {
        schema.insert("x-kubernetes-patch-merge-key".into(), key.into());
    }
    Value::Object(schema)
}

/// The declared default, or the zero value of a field that Go always writes.
fn default_of(field: &Field) -> Option<Value> {
    if let Some(default) = &field.default {
        return Some(default.clone());
    }
    if field.pointer {
        return None;
    }
    match field.ty.shape {
        Shape::Struct(_) => Some(json!({})),
        _ if field.omitempty => None,
        Shape::String => Some(json!("")),
        Shape::Bool => Some(json!(false)),
        Shape::Int32 | Shape::Int64 | Shape::Float64 => Some(json!(0)),
        _ => None,
    }
}

fn of(ty: &'static Ty, mentioned: &mut Vec<String>) -> Map<String, Value> {
    let scalar = |kind: &str, format: &str| {
        let mut map = Map::new();
        map.insert("type".into(), kind.into());
        if !format.is_empty() {
            map.insert("format".into(), format.into());
        }
        map
    };
    let mut named = |name: &str| {
        mentioned.push(name.to_owned());
        match reference(name) {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    };
    let meta = |name: &str| format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
    match &ty.shape {
        Shape::String => scalar("string", ""),
        Shape::Bool => scalar("boolean", ""),
        Shape::Int32 => scalar("integer", "int32"),
        Shape::Int64 => scalar("integer", "int64"),
        Shape::Float64 => scalar("number", "double"),
        Shape::Bytes => scalar("string", "byte"),
        Shape::Time => named(&meta("Time")),
        Shape::MicroTime => named(&meta("MicroTime")),
        Shape::Duration => named(&meta("Duration")),
        Shape::Quantity => named(QUANTITY),
        Shape::IntOrString => named(INT_OR_STRING),
        Shape::Raw if ty.go.ends_with("FieldsV1") => named(&meta("FieldsV1")),
        Shape::Raw if ty.go.ends_with("RawExtension") => named("io.k8s.apimachinery.pkg.runtime.RawExtension"),
        Shape::Raw | Shape::Any | Shape::SchemaOrArray(_) | Shape::SchemaOrBool(_) | Shape::SchemaOrStrings(_) => {
            Map::new()
        }
        Shape::Struct(target) => named(&target.get().name),
        Shape::List(element) | Shape::Wrapped(element)
            if !matches!(element.shape, Shape::List(_)) || matches!(ty.shape, Shape::List(_)) =>
        {
            let mut map = scalar("array", "");
            map.insert("items".into(), Value::Object(of(element, mentioned)));
            map
        }
        Shape::List(inner) | Shape::Wrapped(inner) => of(inner, mentioned),
        Shape::Map(value) => {
            let mut map = scalar("object", "");
            map.insert("additionalProperties".into(), Value::Object(of(value, mentioned)));
            map
        }
    }
}
