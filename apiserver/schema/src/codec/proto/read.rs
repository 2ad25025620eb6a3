//! Protobuf into objects, in the form that the codec's header describes.

use std::cell::Cell;

use serde_json::{Map, Number, Value};

use super::wire::{Reader, WireError};
use crate::codec::json::fill;
use crate::codec::{DecodeError, Decoded, Envelope, MAX_DEPTH, MAX_VALUES, STRUCT_VALUES, TOO_MANY, scalar};
use crate::facts::{Field, Gvk, Shape, Ty, Type, TypeRef, facts};

/// Why a message is not of its type.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Quantity(#[from] crate::quantity::QuantityError),
    #[error("{0}")]
    Json(String),
    #[error("{TOO_MANY}")]
    TooMany,
}

/// Opens an envelope and reads the object. Fields that the type does not have are passed over, as in Go.
pub(in crate::codec) fn decode(body: &[u8], default_gvk: Option<&Gvk>) -> Result<Decoded, DecodeError> {
    let envelope = Envelope::open(body).map_err(DecodeError::Unreadable)?;
    let mut gvk = Gvk::from_api_version(envelope.api_version, envelope.kind);
    if let Some(default) = default_gvk {
        crate::codec::json::fill_gvk(&mut gvk, default);
    }
    if gvk.kind.is_empty() {
        return Err(DecodeError::Unreadable(
            "Object 'Kind' is missing in 'unknown data'".into(),
        ));
    }
    if gvk.version.is_empty() {
        return Err(DecodeError::Unreadable(
            "Object 'apiVersion' is missing in 'unknown data'".into(),
        ));
    }
    let Some(ty) = facts().kind(&gvk.group, &gvk.version, &gvk.kind) else {
        return Err(DecodeError::UnknownKind(gvk));
    };
    match message(
        ty,
        envelope.raw,
        Within {
            depth: 0,
            left: &Cell::new(MAX_VALUES),
        },
    ) {
        Ok(mut object) => {
            object.insert("apiVersion".into(), Value::String(gvk.api_version()));
            object.insert("kind".into(), Value::String(gvk.kind));
            Ok(Decoded {
                value: Value::Object(object),
                strict: Vec::new(),
            })
        }
        Err(e) => Err(DecodeError::Malformed {
            gvk,
            text: e.to_string(),
        }),
    }
}

/// Where reading is, and how much more it may make.
#[derive(Clone, Copy)]
struct Within<'a> {
    depth: usize,
    left: &'a Cell<usize>,
}

impl Within<'_> {
    fn deeper(self) -> Self {
        Self {
            depth: self.depth + 1,
            ..self
        }
    }

    fn spend(self, values: usize) -> Result<(), ReadError> {
        let left = self.left.get().checked_sub(values).ok_or(ReadError::TooMany)?;
        self.left.set(left);
        Ok(())
    }
}

fn message(ty: &Type, bytes: &[u8], within: Within<'_>) -> Result<Map<String, Value>, ReadError> {
    within.spend(STRUCT_VALUES)?;
    let mut object = Map::new();
    fields(ty, bytes, within, &mut object)?;
    fill(ty, &mut object);
    Ok(object)
}

/// Reads a message's fields into `object`; those of inline messages too.
fn fields(ty: &Type, bytes: &[u8], within: Within<'_>, object: &mut Map<String, Value>) -> Result<(), ReadError> {
    if within.depth > MAX_DEPTH {
        return Err(WireError::Depth.into());
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.tag()? {
        let Some(field) = ty.numbered(number) else {
            reader.skip(wire)?;
            continue;
        };
        match &field.ty.shape {
            Shape::Struct(inner) if field.inline => {
                expect(field, wire, 2)?;
                fields(inner, reader.bytes()?, within.deeper(), object)?;
            }
            Shape::List(element) => {
                let value = value(element, field, wire, &mut reader, within)?;
                let slot = object.entry(field.json).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = slot {
                    items.push(value);
                }
            }
            Shape::Map(element) => {
                expect(field, wire, 2)?;
                let (key, value) = entry(element, field, reader.bytes()?, within)?;
                let slot = object.entry(field.json).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(entries) = slot {
                    entries.insert(key, value);
                }
            }
            _ => {
                let value = value(field.ty, field, wire, &mut reader, within)?;
                if value.is_null() || field.omitempty && !field.pointer && is_zero(&value, &field.ty.shape) {
                    object.remove(field.json);
                } else {
                    object.insert(field.json.into(), value);
                }
            }
        }
    }
    Ok(())
}

/// Whether Go's `omitempty` would leave the value out.
fn is_zero(value: &Value, shape: &Shape) -> bool {
    match shape {
        Shape::String | Shape::Bytes => value.as_str() == Some(""),
        Shape::Bool => value == &Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float64 => value.as_f64() == Some(0.0),
        Shape::Wrapped(_) => value.as_array().is_some_and(Vec::is_empty),
        _ => false,
    }
}

fn expect(field: &Field, wire: u8, wanted: u8) -> Result<(), WireError> {
    if wire == wanted {
        Ok(())
    } else {
        Err(WireError::mismatch(field, wire))
    }
}

fn entry(element: &Ty, field: &Field, bytes: &[u8], within: Within<'_>) -> Result<(String, Value), ReadError> {
    let mut reader = Reader::new(bytes);
    let (mut key, mut found) = (String::new(), None);
    while let Some((number, wire)) = reader.tag()? {
        match number {
            1 => {
                expect(field, wire, 2)?;
                key = text(reader.bytes()?);
            }
            2 => found = Some(value(element, field, wire, &mut reader, within)?),
            _ => reader.skip(wire)?,
        }
    }
    let value = match found {
        Some(value) => value,
        None => absent(element, within)?,
    };
    Ok((key, value))
}

/// What a map's value is when its entry does not say.
fn absent(ty: &Ty, within: Within<'_>) -> Result<Value, ReadError> {
    Ok(match &ty.shape {
        Shape::String | Shape::Bytes => Value::String(String::new()),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float64 => Value::from(0),
        Shape::Quantity => Value::String("0".into()),
        Shape::Struct(inner) => Value::Object(message(inner, &[], within.deeper())?),
        Shape::Wrapped(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn value(ty: &Ty, field: &Field, wire: u8, reader: &mut Reader<'_>, within: Within<'_>) -> Result<Value, ReadError> {
    within.spend(1)?;
    match &ty.shape {
        Shape::Bool | Shape::Int32 | Shape::Int64 => {
            expect(field, wire, 0)?;
            let raw = reader.varint()?.cast_signed();
            return Ok(match ty.shape {
                Shape::Bool => Value::Bool(raw != 0),
                #[allow(
                    clippy::cast_possible_truncation,
                    reason = "protobuf's int32 is the low half of the varint"
                )]
                Shape::Int32 => Value::from(raw as i32),
                _ => Value::from(raw),
            });
        }
        Shape::Float64 => {
            expect(field, wire, 1)?;
            return Ok(float(f64::from_bits(reader.fixed64()?)));
        }
        _ => expect(field, wire, 2)?,
    }
    let bytes = reader.bytes()?;
    Ok(match &ty.shape {
        Shape::String => Value::String(text(bytes)),
        Shape::Bytes => Value::String(scalar::encode_base64(bytes)),
        Shape::Struct(inner) => Value::Object(message(inner, bytes, within.deeper())?),
        Shape::Time | Shape::MicroTime => match timestamp(bytes)? {
            None => Value::Null,
            Some((seconds, nanos)) => Value::String(match ty.shape {
                Shape::Time => scalar::format_time(seconds),
                _ => scalar::format_micro_time(seconds, nanos),
            }),
        },
        Shape::Duration => Value::String(scalar::format_duration(duration(bytes)?)),
        Shape::Quantity => Value::String(quantity(bytes)?),
        Shape::IntOrString => match int_or_string(bytes)? {
            IntOrText::Int(n) => Value::from(n),
            IntOrText::Text(t) => Value::String(text(t)),
        },
        Shape::Raw | Shape::Any => match raw(bytes)? {
            [] => Value::Null,
            json => crate::codec::decode_untyped(json).map_err(ReadError::Json)?.value,
        },
        Shape::Wrapped(_) => {
            let mut items = Vec::new();
            let mut reader = Reader::new(bytes);
            while let Some((number, wire)) = reader.tag()? {
                if (number, wire) == (1, 2) {
                    items.push(Value::String(text(reader.bytes()?)));
                } else {
                    reader.skip(wire)?;
                }
            }
            Value::Array(items)
        }
        Shape::SchemaOrArray(_) | Shape::SchemaOrBool(_) | Shape::SchemaOrStrings(_) => match schema_or(ty, bytes)? {
            SchemaOr::Nothing => Value::Null,
            SchemaOr::Bool(b) => Value::Bool(b),
            SchemaOr::Schema(ty, bytes) => Value::Object(message(&ty, bytes, within.deeper())?),
            SchemaOr::Schemas(ty, all) => {
                let all: Result<_, ReadError> = all
                    .into_iter()
                    .map(|b| Ok(Value::Object(message(&ty, b, within.deeper())?)))
                    .collect();
                Value::Array(all?)
            }
            SchemaOr::Strings(all) => Value::Array(all.into_iter().map(|b| Value::String(text(b))).collect()),
        },
        // Lists of lists and maps of maps do not occur in the API; scalars returned above.
        Shape::List(_) | Shape::Map(_) | Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Float64 => Value::Null,
    })
}

/// A float as Go prints it: whole numbers without a point.
pub(in crate::codec) fn float(f: f64) -> Value {
    #[allow(clippy::cast_possible_truncation, reason = "the bound makes it exact")]
    if f.fract() == 0.0 && f.abs() < 1e15 {
        Value::from(f as i64)
    } else {
        Number::from_f64(f).map_or(Value::Null, Value::Number)
    }
}

/// Seconds and nanoseconds; nothing for Go's zero time, which is an empty message.
pub(super) fn timestamp(bytes: &[u8]) -> Result<Option<(i64, u32)>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.tag()? {
        match (number, wire) {
            (1, 0) => seconds = reader.varint()?.cast_signed(),
            (2, 0) => nanos = u32::try_from(reader.varint()?).unwrap_or(0),
            _ => reader.skip(wire)?,
        }
    }
    Ok((seconds != scalar::ZERO_TIME || nanos != 0).then_some((seconds, nanos)))
}

pub(super) fn duration(bytes: &[u8]) -> Result<i64, WireError> {
    let mut nanos = 0;
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.tag()? {
        match (number, wire) {
            (1, 0) => nanos = reader.varint()?.cast_signed(),
            _ => reader.skip(wire)?,
        }
    }
    Ok(nanos)
}

/// The `n`th field of a message that holds nothing else worth reading; empty when it is not there.
pub(super) fn only(bytes: &[u8], n: u32) -> Result<&[u8], WireError> {
    let mut found: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.tag()? {
        if (number, wire) == (n, 2) {
            found = reader.bytes()?;
        } else {
            reader.skip(wire)?;
        }
    }
    Ok(found)
}

/// The JSON text in a RawExtension, FieldsV1 or JSON.
pub(super) fn raw(bytes: &[u8]) -> Result<&[u8], WireError> {
    only(bytes, 1)
}

/// A quantity in canonical form.
pub(super) fn quantity(bytes: &[u8]) -> Result<String, ReadError> {
    match only(bytes, 1)? {
        [] => Ok("0".to_owned()),
        text => Ok(crate::quantity::canonical(&String::from_utf8_lossy(text))?),
    }
}

pub(super) enum IntOrText<'a> {
    Int(i64),
    Text(&'a [u8]),
}

pub(super) fn int_or_string(bytes: &[u8]) -> Result<IntOrText<'_>, WireError> {
    let (mut kind, mut number, mut text): (u64, i64, &[u8]) = (0, 0, &[]);
    let mut reader = Reader::new(bytes);
    while let Some((field, wire)) = reader.tag()? {
        match (field, wire) {
            (1, 0) => kind = reader.varint()?,
            #[allow(
                clippy::cast_possible_truncation,
                reason = "protobuf's int32 is the low half of the varint"
            )]
            (2, 0) => number = i64::from(reader.varint()?.cast_signed() as i32),
            (3, 2) => text = reader.bytes()?,
            _ => reader.skip(wire)?,
        }
    }
    Ok(if kind == 0 {
        IntOrText::Int(number)
    } else {
        IntOrText::Text(text)
    })
}

/// One of the three unions that a CustomResourceDefinition's schema has.
pub(super) enum SchemaOr<'a> {
    Nothing,
    Bool(bool),
    Schema(TypeRef, &'a [u8]),
    Schemas(TypeRef, Vec<&'a [u8]>),
    Strings(Vec<&'a [u8]>),
}

pub(super) fn schema_or<'a>(ty: &Ty, bytes: &'a [u8]) -> Result<SchemaOr<'a>, WireError> {
    let (mut allowed, mut schema, mut all) = (false, None, Vec::new());
    let of_bool = matches!(ty.shape, Shape::SchemaOrBool(_));
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.tag()? {
        match (number, wire) {
            (1, 0) if of_bool => allowed = reader.varint()? != 0,
            (2, 2) if of_bool => schema = Some(reader.bytes()?),
            (1, 2) => schema = Some(reader.bytes()?),
            (2, 2) => all.push(reader.bytes()?),
            _ => reader.skip(wire)?,
        }
    }
    Ok(match (&ty.shape, schema) {
        (Shape::SchemaOrBool(t), Some(schema)) => SchemaOr::Schema(*t, schema),
        (Shape::SchemaOrBool(_), None) => SchemaOr::Bool(allowed),
        (Shape::SchemaOrArray(t), _) if !all.is_empty() => SchemaOr::Schemas(*t, all),
        (Shape::SchemaOrStrings(_), _) if !all.is_empty() => SchemaOr::Strings(all),
        (Shape::SchemaOrArray(t) | Shape::SchemaOrStrings(t), Some(schema)) => SchemaOr::Schema(*t, schema),
        _ => SchemaOr::Nothing,
    })
}
