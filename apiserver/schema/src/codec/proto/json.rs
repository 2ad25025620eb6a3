//! Protobuf straight into JSON text: what most reads do. No object is built; strings are copied once.
//!
//! Go prints fields in their order of declaration, the wire has them by number. So a message's fields are first located
//! (a scan that copies nothing), then printed in order. Output equals what decoding and encoding would give; a property
//! test holds them to it.

use super::read::ReadError;
use super::read::{IntOrText, SchemaOr, duration, float, int_or_string, quantity, raw, schema_or, timestamp};
use super::wire::{Reader, WireError};
use crate::codec::json::{compact_json, push_json_string};
use crate::codec::{EncodeError, Envelope, MAX_DEPTH, scalar};
use crate::facts::{Field, Shape, Ty, Type, facts};

pub(in crate::codec) fn to_json(body: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let envelope = Envelope::open(body).map_err(EncodeError::Damaged)?;
    let Some(ty) = facts().kind_of(envelope.api_version, envelope.kind) else {
        let (api_version, kind) = (envelope.api_version.into(), envelope.kind.into());
        return Err(EncodeError::UnknownKind { api_version, kind });
    };
    let mut writer = Writer {
        out,
        located: Vec::with_capacity(64),
    };
    writer.out.extend_from_slice(b"{\"kind\":");
    push_json_string(writer.out, envelope.kind);
    writer.out.extend_from_slice(b",\"apiVersion\":");
    push_json_string(writer.out, envelope.api_version);
    let mut first = false;
    writer
        .fields(ty, envelope.raw, 0, &mut first)
        .map_err(|e| EncodeError::Damaged(e.to_string()))?;
    writer.out.push(b'}');
    Ok(())
}

/// One field's value on the wire.
#[derive(Clone, Copy)]
enum Found<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Writer<'a, 'o> {
    out: &'o mut Vec<u8>,
    /// A stack of the fields of the messages being printed: number and value, each message's sorted by number.
    located: Vec<(u32, Found<'a>)>,
}

impl<'a> Writer<'a, '_> {
    fn key(&mut self, name: &str, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(b',');
        }
        // Field names are plain ASCII.
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// Locates the fields of a message on top of the stack and returns where they start.
    fn locate(&mut self, ty: &Type, bytes: &'a [u8]) -> Result<usize, ReadError> {
        let start = self.located.len();
        let (mut reader, mut last, mut sorted) = (Reader::new(bytes), 0, true);
        while let Some((number, wire)) = reader.tag()? {
            if ty.numbered(number).is_none() {
                reader.skip(wire)?;
                continue;
            }
            let found = match wire {
                0 => Found::Number(reader.varint()?),
                1 => Found::Number(reader.fixed64()?),
                2 => Found::Bytes(reader.bytes()?),
                other => return Err(WireError::WireType(other).into()),
            };
            sorted &= last <= number;
            last = number;
            self.located.push((number, found));
        }
        if !sorted {
            // Stable: elements of a list stay in order.
            self.located[start..].sort_by_key(|(number, _)| *number);
        }
        Ok(start)
    }

    /// The fields of a message, without braces.
    fn fields(&mut self, ty: &Type, bytes: &'a [u8], depth: usize, first: &mut bool) -> Result<(), ReadError> {
        if depth > MAX_DEPTH {
            return Err(WireError::Depth.into());
        }
        let start = self.locate(ty, bytes)?;
        let end = self.located.len();
        for field in &ty.fields {
            // The stack grows and shrinks while a field is printed; this message's part stays where it is.
            let low = start + self.located[start..end].partition_point(|(n, _)| *n < field.number);
            let high = low + self.located[low..end].partition_point(|(n, _)| *n == field.number);
            let range = if field.number == 0 { (start, start) } else { (low, high) };
            self.field(ty, field, range, depth, first)?;
        }
        self.located.truncate(start);
        Ok(())
    }

    fn field(
        &mut self,
        ty: &Type,
        field: &Field,
        (low, high): (usize, usize),
        depth: usize,
        first: &mut bool,
    ) -> Result<(), ReadError> {
        let found = (low < high).then(|| self.located[high - 1].1);
        match &field.ty.shape {
            Shape::Struct(inner) if field.inline => {
                let bytes = found.map_or(Ok(&[][..]), |f| bytes_of(field, f))?;
                self.fields(inner, bytes, depth + 1, first)
            }
            Shape::List(element) => {
                if low == high {
                    if !field.omitempty {
                        self.key(field.json, first);
                        // Upstream prints an empty list kind's items as a list, anything else that is nil as null.
                        let items = field.json == "items" && ty.is_list();
                        self.out.extend_from_slice(if items { b"[]" } else { b"null" });
                    }
                    return Ok(());
                }
                self.key(field.json, first);
                for at in low..high {
                    self.out.push(if at == low { b'[' } else { b',' });
                    let item = self.located[at].1;
                    self.value(element, field, item, depth)?;
                }
                self.out.push(b']');
                Ok(())
            }
            Shape::Map(element) => self.map(element, field, (low, high), depth, first),
            _ => self.single(field, found, depth, first),
        }
    }

    fn single(
        &mut self,
        field: &Field,
        found: Option<Found<'a>>,
        depth: usize,
        first: &mut bool,
    ) -> Result<(), ReadError> {
        if found.is_none() && field.pointer {
            if !field.omitempty {
                self.key(field.json, first);
                self.out.extend_from_slice(b"null");
            }
            return Ok(());
        }
        let shape = &field.ty.shape;
        let zero = matches!(
            (shape, found),
            (
                Shape::String | Shape::Bytes | Shape::Wrapped(_),
                None | Some(Found::Bytes([]))
            ) | (
                Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Float64,
                None | Some(Found::Number(0))
            )
        );
        if zero && field.omitempty && !field.pointer {
            return Ok(());
        }
        if field.omitzero && matches!(shape, Shape::Time | Shape::MicroTime) {
            let set = match found {
                Some(f) => timestamp(bytes_of(field, f)?)?.is_some(),
                None => false,
            };
            if !set {
                return Ok(());
            }
        }
        self.key(field.json, first);
        match found {
            Some(found) => self.value(field.ty, field, found, depth),
            None => self.zero(field.ty, depth),
        }
    }

    /// What Go prints for a value that was never set.
    fn zero(&mut self, ty: &Ty, depth: usize) -> Result<(), ReadError> {
        let text: &[u8] = match &ty.shape {
            Shape::String => b"\"\"",
            Shape::Bool => b"false",
            Shape::Int32 | Shape::Int64 | Shape::Float64 | Shape::IntOrString => b"0",
            Shape::Duration => b"\"0s\"",
            Shape::Quantity => b"\"0\"",
            Shape::SchemaOrBool(_) => b"false",
            Shape::Struct(inner) => return self.object(inner, &[], depth + 1),
            _ => b"null",
        };
        self.out.extend_from_slice(text);
        Ok(())
    }

    fn object(&mut self, ty: &Type, bytes: &'a [u8], depth: usize) -> Result<(), ReadError> {
        self.out.push(b'{');
        self.fields(ty, bytes, depth, &mut true)?;
        self.out.push(b'}');
        Ok(())
    }

    fn map(
        &mut self,
        element: &Ty,
        field: &Field,
        (low, high): (usize, usize),
        depth: usize,
        first: &mut bool,
    ) -> Result<(), ReadError> {
        if low == high {
            if !field.omitempty {
                self.key(field.json, first);
                self.out.extend_from_slice(b"null");
            }
            return Ok(());
        }
        let mut entries = Vec::with_capacity(high - low);
        for at in low..high {
            let mut reader = Reader::new(bytes_of(field, self.located[at].1)?);
            let (mut key, mut value) = (&[][..], None);
            while let Some((number, wire)) = reader.tag()? {
                match (number, wire) {
                    (1, 2) => key = reader.bytes()?,
                    (2, 0) => value = Some(Found::Number(reader.varint()?)),
                    (2, 1) => value = Some(Found::Number(reader.fixed64()?)),
                    (2, 2) => value = Some(Found::Bytes(reader.bytes()?)),
                    (1 | 2, other) => return Err(WireError::mismatch(field, other).into()),
                    _ => reader.skip(wire)?,
                }
            }
            entries.push((String::from_utf8_lossy(key), value));
        }
        // Go sorts; writers sort too, so this is a check. Of equal keys the last wins.
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        self.key(field.json, first);
        let mut mark = b'{';
        for (at, (key, value)) in entries.iter().enumerate() {
            if entries.get(at + 1).is_some_and(|next| next.0 == *key) {
                continue;
            }
            self.out.push(mark);
            mark = b',';
            push_json_string(self.out, key);
            self.out.push(b':');
            match value {
                Some(found) => self.value(element, field, *found, depth)?,
                None if matches!(element.shape, Shape::Bytes) => self.out.extend_from_slice(b"\"\""),
                None if matches!(element.shape, Shape::Wrapped(_)) => self.out.extend_from_slice(b"[]"),
                None => self.zero(element, depth)?,
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn value(&mut self, ty: &Ty, field: &Field, found: Found<'a>, depth: usize) -> Result<(), ReadError> {
        let number = match (&ty.shape, found) {
            (Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Float64, Found::Number(n)) => n,
            (Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Float64, Found::Bytes(_)) => {
                return Err(WireError::mismatch(field, 2).into());
            }
            _ => return self.delimited(ty, bytes_of(field, found)?, depth),
        };
        match ty.shape {
            Shape::Bool => self.out.extend_from_slice(if number == 0 { b"false" } else { b"true" }),
            #[allow(
                clippy::cast_possible_truncation,
                reason = "protobuf's int32 is the low half of the varint"
            )]
            Shape::Int32 => self.integer(i64::from(number as i32)),
            Shape::Float64 => {
                let text = float(f64::from_bits(number)).to_string();
                self.out.extend_from_slice(text.as_bytes());
            }
            _ => self.integer(number.cast_signed()),
        }
        Ok(())
    }

    fn integer(&mut self, n: i64) {
        // Three digits or fewer are most of what there is; avoid the formatter for them.
        if (0..1000).contains(&n) {
            let (hundreds, tens) = (n / 100, n / 10);
            if hundreds > 0 {
                self.out.push(b'0' + u8::try_from(hundreds).unwrap_or(0));
            }
            if tens > 0 {
                self.out.push(b'0' + u8::try_from(tens % 10).unwrap_or(0));
            }
            self.out.push(b'0' + u8::try_from(n % 10).unwrap_or(0));
        } else {
            self.out.extend_from_slice(n.to_string().as_bytes());
        }
    }

    fn quoted(&mut self, plain: &str) {
        self.out.push(b'"');
        self.out.extend_from_slice(plain.as_bytes());
        self.out.push(b'"');
    }

    fn delimited(&mut self, ty: &Ty, bytes: &'a [u8], depth: usize) -> Result<(), ReadError> {
        match &ty.shape {
            Shape::String => push_json_string(self.out, &String::from_utf8_lossy(bytes)),
            Shape::Bytes => {
                let text = scalar::encode_base64(bytes);
                self.quoted(&text);
            }
            Shape::Struct(inner) => self.object(inner, bytes, depth + 1)?,
            Shape::Time | Shape::MicroTime => match timestamp(bytes)? {
                None => self.out.extend_from_slice(b"null"),
                Some((seconds, _)) if matches!(ty.shape, Shape::Time) => self.quoted(&scalar::format_time(seconds)),
                Some((seconds, nanos)) => self.quoted(&scalar::format_micro_time(seconds, nanos)),
            },
            Shape::Duration => {
                let nanos = duration(bytes)?;
                self.quoted(&scalar::format_duration(nanos));
            }
            Shape::Quantity => {
                let text = quantity(bytes)?;
                self.quoted(&text);
            }
            Shape::IntOrString => match int_or_string(bytes)? {
                IntOrText::Int(n) => self.integer(n),
                IntOrText::Text(text) => push_json_string(self.out, &String::from_utf8_lossy(text)),
            },
            Shape::Raw | Shape::Any => match raw(bytes)? {
                [] => self.out.extend_from_slice(b"null"),
                text => compact_json(text, self.out).map_err(ReadError::Json)?,
            },
            Shape::Wrapped(_) => {
                let (mut reader, mut mark) = (Reader::new(bytes), b'[');
                while let Some((number, wire)) = reader.tag()? {
                    if (number, wire) != (1, 2) {
                        reader.skip(wire)?;
                        continue;
                    }
                    self.out.push(mark);
                    mark = b',';
                    push_json_string(self.out, &String::from_utf8_lossy(reader.bytes()?));
                }
                self.out.extend_from_slice(if mark == b'[' { b"[]" } else { b"]" });
            }
            Shape::SchemaOrArray(_) | Shape::SchemaOrBool(_) | Shape::SchemaOrStrings(_) => {
                self.schema_or(schema_or(ty, bytes)?, depth)?;
            }
            // Lists of lists and maps of maps do not occur in the API; scalars are not length-delimited.
            _ => self.out.extend_from_slice(b"null"),
        }
        Ok(())
    }

    fn schema_or(&mut self, union: SchemaOr<'a>, depth: usize) -> Result<(), ReadError> {
        match union {
            SchemaOr::Nothing => self.out.extend_from_slice(b"null"),
            SchemaOr::Bool(b) => self.out.extend_from_slice(if b { b"true" } else { b"false" }),
            SchemaOr::Schema(ty, bytes) => self.object(&ty, bytes, depth + 1)?,
            SchemaOr::Schemas(ty, all) => {
                for (i, bytes) in all.into_iter().enumerate() {
                    self.out.push(if i == 0 { b'[' } else { b',' });
                    self.object(&ty, bytes, depth + 1)?;
                }
                self.out.push(b']');
            }
            SchemaOr::Strings(all) => {
                for (i, bytes) in all.into_iter().enumerate() {
                    self.out.push(if i == 0 { b'[' } else { b',' });
                    push_json_string(self.out, &String::from_utf8_lossy(bytes));
                }
                self.out.push(b']');
            }
        }
        Ok(())
    }
}

fn bytes_of<'a>(field: &Field, found: Found<'a>) -> Result<&'a [u8], WireError> {
    match found {
        Found::Bytes(bytes) => Ok(bytes),
        Found::Number(_) => Err(WireError::mismatch(field, 0)),
    }
}
