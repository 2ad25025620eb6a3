//! Objects into JSON text, in Go's order of fields and with Go's rules of what is left out.
//!
//! Custom resources and anything else that the table does not know are written as they are, keys sorted.

use serde_json::{Map, Value};

use super::text::push_json_string;
use crate::codec::{EncodeError, empty, object_type, scalar};
use crate::facts::{Field, Shape, Ty, Type, TypeRef};

/// Writes an object.
pub(in crate::codec) fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    start(value, out, false)
}

/// Writes an object without what the store does not keep.
pub(in crate::codec) fn write_stored(value: &Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    start(value, out, true)
}

fn start(value: &Value, out: &mut Vec<u8>, stored: bool) -> Result<(), EncodeError> {
    let (Some(ty), Some(object)) = (object_type(value), value.as_object()) else {
        if stored {
            let mut trimmed = value.clone();
            if let Some(metadata) = trimmed.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("resourceVersion");
                metadata.remove("selfLink");
            }
            untyped(out, &trimmed);
        } else {
            untyped(out, value);
        }
        return Ok(());
    };
    let mut writer = Writer {
        out,
        kind: ty.short,
        stored,
    };
    writer.object(ty, object, true)
}

/// Any JSON, keys sorted.
fn untyped(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::String(text) => push_json_string(out, text),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                untyped(out, item);
            }
            out.push(b']');
        }
        Value::Object(entries) => {
            out.push(b'{');
            for (i, (key, item)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                push_json_string(out, key);
                out.push(b':');
                untyped(out, item);
            }
            out.push(b'}');
        }
        scalar => out.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    kind: &'static str,
    stored: bool,
}

impl Writer<'_> {
    fn mistyped(&self, name: &str, ty: &Ty) -> EncodeError {
        EncodeError::Mistyped {
            kind: self.kind.into(),
            field: name.into(),
            expected: ty.go.to_string(),
        }
    }

    fn key(&mut self, name: &str, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn object(&mut self, ty: &Type, object: &Map<String, Value>, top: bool) -> Result<(), EncodeError> {
        self.out.push(b'{');
        let mut first = true;
        if ty.kind {
            for name in ["kind", "apiVersion"] {
                if let Some(text) = object.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()) {
                    self.key(name, &mut first);
                    push_json_string(self.out, text);
                }
            }
        }
        self.fields(ty, object, top, &mut first)?;
        self.out.push(b'}');
        Ok(())
    }

    fn fields(
        &mut self,
        ty: &Type,
        object: &Map<String, Value>,
        top: bool,
        first: &mut bool,
    ) -> Result<(), EncodeError> {
        let trimmed = self.stored && top && ty.short == "ObjectMeta";
        for field in &ty.fields {
            if let (true, Shape::Struct(inner)) = (field.inline, &field.ty.shape) {
                self.fields(inner, object, false, first)?;
                continue;
            }
            if trimmed && matches!(field.json, "resourceVersion" | "selfLink") {
                continue;
            }
            match object.get(field.json).filter(|v| !v.is_null()) {
                Some(value) if left_out(field, value) => {}
                Some(value) => {
                    self.key(field.json, first);
                    self.value(field.ty, value, field.json, top && field.json == "metadata")?;
                }
                None => self.unset(ty, field, first)?,
            }
        }
        Ok(())
    }

    /// A field that was never set.
    fn unset(&mut self, ty: &Type, field: &Field, first: &mut bool) -> Result<(), EncodeError> {
        let by_value = !field.pointer
            && match &field.ty.shape {
                Shape::Struct(_) | Shape::Quantity | Shape::IntOrString | Shape::Duration | Shape::SchemaOrBool(_) => {
                    true
                }
                Shape::Raw | Shape::Time | Shape::MicroTime => !field.omitzero,
                _ => false,
            };
        if field.omitempty && !by_value {
            return Ok(());
        }
        self.key(field.json, first);
        if field.pointer {
            self.out.extend_from_slice(b"null");
            return Ok(());
        }
        if field.json == "items" && ty.is_list() {
            self.out.extend_from_slice(b"[]");
            return Ok(());
        }
        self.zero(field.ty)
    }

    fn zero(&mut self, ty: &Ty) -> Result<(), EncodeError> {
        let text: &[u8] = match &ty.shape {
            Shape::String => b"\"\"",
            Shape::Bool | Shape::SchemaOrBool(_) => b"false",
            Shape::Int32 | Shape::Int64 | Shape::Float64 | Shape::IntOrString => b"0",
            Shape::Duration => b"\"0s\"",
            Shape::Quantity => b"\"0\"",
            Shape::Struct(inner) => return self.object(inner, empty(), false),
            _ => b"null",
        };
        self.out.extend_from_slice(text);
        Ok(())
    }

    fn value(&mut self, ty: &Ty, value: &Value, name: &str, top: bool) -> Result<(), EncodeError> {
        if value.is_null() {
            return self.zero(ty);
        }
        match (&ty.shape, value) {
            (Shape::String | Shape::Bytes, Value::String(text)) => push_json_string(self.out, text),
            (Shape::Bool, Value::Bool(b)) => self.out.extend_from_slice(if *b { b"true" } else { b"false" }),
            (Shape::Int32 | Shape::Int64, Value::Number(n)) if n.as_i64().is_some() => {
                self.out.extend_from_slice(n.to_string().as_bytes());
            }
            (Shape::Float64, Value::Number(n)) => {
                let text = crate::codec::proto::float(n.as_f64().unwrap_or(0.0)).to_string();
                self.out.extend_from_slice(text.as_bytes());
            }
            (Shape::Time, Value::String(text)) => {
                let (seconds, _) = scalar::parse_time(text).map_err(|_| self.mistyped(name, ty))?;
                push_json_string(self.out, &scalar::format_time(seconds));
            }
            (Shape::MicroTime, Value::String(text)) => {
                let (seconds, nanos) = scalar::parse_time(text).map_err(|_| self.mistyped(name, ty))?;
                push_json_string(self.out, &scalar::format_micro_time(seconds, nanos));
            }
            (Shape::Duration, Value::String(text)) => push_json_string(self.out, text),
            (Shape::Quantity, Value::String(text)) => {
                let text = crate::quantity::canonical(text).map_err(|_| self.mistyped(name, ty))?;
                push_json_string(self.out, &text);
            }
            (Shape::Quantity, Value::Number(n)) => {
                let text = crate::quantity::canonical(&n.to_string()).map_err(|_| self.mistyped(name, ty))?;
                push_json_string(self.out, &text);
            }
            (Shape::IntOrString, Value::String(_) | Value::Number(_)) | (Shape::Raw | Shape::Any, _) => {
                untyped(self.out, value);
            }
            (Shape::Struct(inner), Value::Object(object)) => self.object(inner, object, top)?,
            (Shape::List(element) | Shape::Wrapped(element), Value::Array(items)) => self.list(element, items, name)?,
            (Shape::Map(element), Value::Object(entries)) => {
                self.out.push(b'{');
                for (i, (key, item)) in entries.iter().enumerate() {
                    if i > 0 {
                        self.out.push(b',');
                    }
                    push_json_string(self.out, key);
                    self.out.push(b':');
                    self.value(element, item, name, false)?;
                }
                self.out.push(b'}');
            }
            (Shape::SchemaOrBool(_), Value::Bool(b)) => {
                self.out.extend_from_slice(if *b { b"true" } else { b"false" });
            }
            (
                Shape::SchemaOrArray(schema) | Shape::SchemaOrBool(schema) | Shape::SchemaOrStrings(schema),
                Value::Object(object),
            ) => self.object(schema, object, false)?,
            (Shape::SchemaOrArray(schema), Value::Array(items)) => self.schemas(*schema, items, name, ty)?,
            (Shape::SchemaOrStrings(_), Value::Array(_)) => untyped(self.out, value),
            _ => return Err(self.mistyped(name, ty)),
        }
        Ok(())
    }

    fn list(&mut self, element: &Ty, items: &[Value], name: &str) -> Result<(), EncodeError> {
        self.out.push(b'[');
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            self.value(element, item, name, false)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn schemas(&mut self, schema: TypeRef, items: &[Value], name: &str, ty: &Ty) -> Result<(), EncodeError> {
        self.out.push(b'[');
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            let Value::Object(object) = item else {
                return Err(self.mistyped(name, ty));
            };
            self.object(&schema, object, false)?;
        }
        self.out.push(b']');
        Ok(())
    }
}

/// Go's `omitempty`, for a value that is set.
fn left_out(field: &Field, value: &Value) -> bool {
    field.omitempty
        && match value {
            Value::Array(items) => items.is_empty() && !matches!(field.ty.shape, Shape::Raw | Shape::Any),
            Value::Object(entries) => entries.is_empty() && matches!(field.ty.shape, Shape::Map(_)),
            _ if field.pointer => false,
            Value::String(text) => text.is_empty() && matches!(field.ty.shape, Shape::String | Shape::Bytes),
            Value::Bool(b) => !b && matches!(field.ty.shape, Shape::Bool),
            Value::Number(n) => {
                n.as_f64() == Some(0.0) && matches!(field.ty.shape, Shape::Int32 | Shape::Int64 | Shape::Float64)
            }
            Value::Null => true,
        }
}
