//! Objects into protobuf, byte for byte as Go's generated code writes them.
//!
//! What Go's code does and this follows: fields by ascending number; scalars and structs held by value are written even
//! when zero; pointers, lists and maps only when there is something; map entries sorted by key.

use serde_json::{Map, Value};

use super::wire::Backwards;
use crate::codec::{EncodeError, empty, envelope, object_type, scalar};
use crate::facts::{Field, Shape, Ty, Type, TypeRef};

/// An object as an envelope. `stored` leaves out what the store does not keep: resourceVersion and selfLink.
pub(in crate::codec) fn encode(value: &Value, stored: bool) -> Result<Vec<u8>, EncodeError> {
    let text = |key| value.get(key).and_then(Value::as_str).filter(|s: &&str| !s.is_empty());
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return Err(EncodeError::NoKind);
    };
    let (Some(ty), Some(object)) = (object_type(value), value.as_object()) else {
        return Err(EncodeError::UnknownKind {
            api_version: api_version.into(),
            kind: kind.into(),
        });
    };
    let encoder = Encoder { kind, stored };
    // A WatchEvent has no kind on the wire, although it is registered under one.
    let (api_version, kind) = if ty.kind { (api_version, kind) } else { ("", "") };
    envelope::write(api_version, kind, |out| encoder.message(out, ty, object, stored))
}

struct Encoder<'a> {
    kind: &'a str,
    stored: bool,
}

impl Encoder<'_> {
    fn mistyped(&self, field: &str, ty: &Ty) -> EncodeError {
        EncodeError::Mistyped {
            kind: self.kind.into(),
            field: field.into(),
            expected: ty.go.to_string(),
        }
    }

    /// The fields of a message, last first. `top` is true for the object itself, whose metadata the store trims.
    fn message(
        &self,
        out: &mut Backwards,
        ty: &Type,
        object: &Map<String, Value>,
        top: bool,
    ) -> Result<(), EncodeError> {
        let trimmed = self.stored && top && ty.short == "ObjectMeta";
        for field in ty.by_number().rev() {
            if field.inline {
                let Shape::Struct(inner) = &field.ty.shape else {
                    continue;
                };
                let mark = out.mark();
                self.message(out, inner, object, false)?;
                out.close(field.number, mark);
                continue;
            }
            let value = object.get(field.json).filter(|v| !v.is_null());
            match value {
                Some(_) if trimmed && matches!(field.json, "resourceVersion" | "selfLink") => {
                    out.bytes(field.number, b"")
                }
                Some(value) => self.field(out, field, value, top && field.json == "metadata")?,
                None if field.pointer => {}
                None => zero(out, field.number, &field.ty.shape, self)?,
            }
        }
        Ok(())
    }

    fn field(&self, out: &mut Backwards, field: &Field, value: &Value, top: bool) -> Result<(), EncodeError> {
        match &field.ty.shape {
            Shape::List(element) => {
                let Some(items) = value.as_array() else {
                    return Err(self.mistyped(field.json, field.ty));
                };
                for item in items.iter().rev() {
                    self.value(out, field.number, element, item, field.json, false)?;
                }
                Ok(())
            }
            Shape::Map(element) => {
                let Some(entries) = value.as_object() else {
                    return Err(self.mistyped(field.json, field.ty));
                };
                for (key, item) in entries.iter().rev() {
                    let mark = out.mark();
                    self.value(out, 2, element, item, field.json, false)?;
                    out.bytes(1, key.as_bytes());
                    out.close(field.number, mark);
                }
                Ok(())
            }
            _ => self.value(out, field.number, field.ty, value, field.json, top),
        }
    }

    /// One value with its tag.
    fn value(
        &self,
        out: &mut Backwards,
        number: u32,
        ty: &Ty,
        value: &Value,
        name: &str,
        top: bool,
    ) -> Result<(), EncodeError> {
        let mistyped = || self.mistyped(name, ty);
        if value.is_null() {
            return zero(out, number, &ty.shape, self);
        }
        match &ty.shape {
            Shape::String => out.bytes(number, value.as_str().ok_or_else(mistyped)?.as_bytes()),
            Shape::Bool => out.integer(number, i64::from(value.as_bool().ok_or_else(mistyped)?)),
            Shape::Int32 => {
                let n = value
                    .as_i64()
                    .filter(|n| i32::try_from(*n).is_ok())
                    .ok_or_else(mistyped)?;
                out.integer(number, n);
            }
            Shape::Int64 => out.integer(number, value.as_i64().ok_or_else(mistyped)?),
            Shape::Float64 => out.fixed64(number, value.as_f64().ok_or_else(mistyped)?.to_bits()),
            Shape::Bytes => {
                let decoded = scalar::decode_base64(value.as_str().ok_or_else(mistyped)?).map_err(|_| mistyped())?;
                out.bytes(number, &decoded);
            }
            Shape::Time | Shape::MicroTime => {
                let (seconds, nanos) =
                    scalar::parse_time(value.as_str().ok_or_else(mistyped)?).map_err(|_| mistyped())?;
                let nanos = if matches!(ty.shape, Shape::MicroTime) {
                    nanos / 1000 * 1000
                } else {
                    0
                };
                timestamp(out, number, seconds, nanos);
            }
            Shape::Duration => {
                let nanos = scalar::parse_duration(value.as_str().ok_or_else(mistyped)?).map_err(|_| mistyped())?;
                let mark = out.mark();
                out.integer(1, nanos);
                out.close(number, mark);
            }
            Shape::Quantity => {
                let text = match value {
                    Value::String(text) => std::borrow::Cow::Borrowed(text.as_str()),
                    Value::Number(n) => n.to_string().into(),
                    _ => return Err(mistyped()),
                };
                let canonical = crate::quantity::canonical(&text).map_err(|_| mistyped())?;
                let mark = out.mark();
                out.bytes(1, canonical.as_bytes());
                out.close(number, mark);
            }
            Shape::IntOrString => {
                let mark = out.mark();
                match value {
                    Value::String(text) => int_or_string(out, 1, 0, text),
                    other => {
                        let n = other
                            .as_i64()
                            .filter(|n| i32::try_from(*n).is_ok())
                            .ok_or_else(mistyped)?;
                        int_or_string(out, 0, n, "");
                    }
                }
                out.close(number, mark);
            }
            Shape::Raw | Shape::Any => {
                let text = serde_json::to_vec(value).map_err(|_| mistyped())?;
                let mark = out.mark();
                out.bytes(1, &text);
                out.close(number, mark);
            }
            Shape::Struct(inner) => {
                let object = value.as_object().ok_or_else(mistyped)?;
                let mark = out.mark();
                self.message(out, inner, object, top)?;
                out.close(number, mark);
            }
            Shape::Wrapped(element) | Shape::List(element) => {
                let items = value.as_array().ok_or_else(mistyped)?;
                let mark = out.mark();
                for item in items.iter().rev() {
                    self.value(out, 1, element, item, name, false)?;
                }
                out.close(number, mark);
            }
            // Maps of maps do not occur in the API.
            Shape::Map(_) => return Err(mistyped()),
            Shape::SchemaOrArray(schema) => self.schema_or_list(out, number, *schema, ty, value, name)?,
            Shape::SchemaOrStrings(schema) => self.schema_or_list(out, number, *schema, ty, value, name)?,
            Shape::SchemaOrBool(schema) => {
                let mark = out.mark();
                match value {
                    Value::Bool(allowed) => out.integer(1, i64::from(*allowed)),
                    Value::Object(object) => {
                        self.nested(out, 2, *schema, object)?;
                        out.integer(1, 1);
                    }
                    _ => return Err(mistyped()),
                }
                out.close(number, mark);
            }
        }
        Ok(())
    }

    fn nested(
        &self,
        out: &mut Backwards,
        number: u32,
        ty: TypeRef,
        object: &Map<String, Value>,
    ) -> Result<(), EncodeError> {
        let mark = out.mark();
        self.message(out, &ty, object, false)?;
        out.close(number, mark);
        Ok(())
    }

    /// JSONSchemaPropsOrArray and JSONSchemaPropsOrStringArray: field 1 is a schema, field 2 a list.
    fn schema_or_list(
        &self,
        out: &mut Backwards,
        number: u32,
        schema: TypeRef,
        ty: &Ty,
        value: &Value,
        name: &str,
    ) -> Result<(), EncodeError> {
        let mark = out.mark();
        match value {
            Value::Object(object) => self.nested(out, 1, schema, object)?,
            Value::Array(items) => {
                for item in items.iter().rev() {
                    match (&ty.shape, item) {
                        (Shape::SchemaOrArray(_), Value::Object(object)) => self.nested(out, 2, schema, object)?,
                        (Shape::SchemaOrStrings(_), Value::String(text)) => out.bytes(2, text.as_bytes()),
                        _ => return Err(self.mistyped(name, ty)),
                    }
                }
            }
            _ => return Err(self.mistyped(name, ty)),
        }
        out.close(number, mark);
        Ok(())
    }
}

/// What Go writes for a value that was never set and is not behind a pointer.
fn zero(out: &mut Backwards, number: u32, shape: &Shape, encoder: &Encoder<'_>) -> Result<(), EncodeError> {
    match shape {
        Shape::String => out.bytes(number, b""),
        Shape::Bool | Shape::Int32 | Shape::Int64 => out.integer(number, 0),
        Shape::Float64 => out.fixed64(number, 0),
        Shape::List(_) | Shape::Map(_) | Shape::Bytes => {}
        Shape::Time | Shape::MicroTime | Shape::Raw | Shape::Any => out.bytes(number, b""),
        Shape::Wrapped(_) => {}
        Shape::Duration => {
            let mark = out.mark();
            out.integer(1, 0);
            out.close(number, mark);
        }
        Shape::Quantity => {
            let mark = out.mark();
            out.bytes(1, b"0");
            out.close(number, mark);
        }
        Shape::IntOrString => {
            let mark = out.mark();
            int_or_string(out, 0, 0, "");
            out.close(number, mark);
        }
        Shape::Struct(inner) => {
            let mark = out.mark();
            encoder.message(out, inner, empty(), false)?;
            out.close(number, mark);
        }
        Shape::SchemaOrArray(_) | Shape::SchemaOrStrings(_) => out.bytes(number, b""),
        Shape::SchemaOrBool(_) => {
            let mark = out.mark();
            out.integer(1, 0);
            out.close(number, mark);
        }
    }
    Ok(())
}

fn timestamp(out: &mut Backwards, number: u32, seconds: i64, nanos: u32) {
    if seconds == scalar::ZERO_TIME && nanos == 0 {
        out.bytes(number, b"");
        return;
    }
    let mark = out.mark();
    out.integer(2, i64::from(nanos));
    out.integer(1, seconds);
    out.close(number, mark);
}

fn int_or_string(out: &mut Backwards, kind: i64, number: i64, text: &str) {
    out.bytes(3, text.as_bytes());
    out.integer(2, number);
    out.integer(1, kind);
}
