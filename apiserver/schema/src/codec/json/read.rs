//! JSON into objects, against their types, with Go's view of what is wrong.
//!
//! A value of the wrong type is remembered and reading goes on (Go does the same and reports the first); a faulty
//! quantity or time stops at once. Unknown and duplicate fields are collected with their paths.

use serde_json::{Map, Value};

use super::scan::{Cursor, check, unescape};
use crate::codec::{DecodeError, Decoded, MAX_VALUES, STRUCT_VALUES, TOO_MANY, proto, scalar};
use crate::facts::{Field, Gvk, Shape, Ty, Type, facts};

/// Upstream keeps no more strict errors than this.
const MAX_STRICT: usize = 100;

/// Fills in what a body leaves out of its group, version and kind.
pub(in crate::codec) fn fill_gvk(actual: &mut Gvk, default: &Gvk) {
    if actual.kind.is_empty() {
        actual.kind.clone_from(&default.kind);
    }
    if actual.version.is_empty() && actual.group.is_empty() {
        actual.group.clone_from(&default.group);
        actual.version.clone_from(&default.version);
    }
    if actual.version.is_empty() && actual.group == default.group {
        actual.version.clone_from(&default.version);
    }
}

/// Reads an object. `original` is what the client sent, which differs from `body` for YAML; it is quoted in errors.
pub(in crate::codec) fn decode(body: &[u8], original: &[u8], default: Option<&Gvk>) -> Result<Decoded, DecodeError> {
    let mut gvk = interpret(body)
        .map_err(|e| DecodeError::Unreadable(format!("couldn't get version/kind; json parse error: {e}")))
        .and_then(|(api_version, kind)| {
            if api_version.matches('/').count() > 1 {
                return Err(DecodeError::Unreadable(format!(
                    "unexpected GroupVersion string: {api_version}"
                )));
            }
            Ok(Gvk::from_api_version(&api_version, &kind))
        })?;
    if let Some(default) = default {
        fill_gvk(&mut gvk, default);
    }
    for (missing, name) in [(gvk.kind.is_empty(), "Kind"), (gvk.version.is_empty(), "apiVersion")] {
        if missing {
            let body = String::from_utf8_lossy(original);
            return Err(DecodeError::Unreadable(format!(
                "Object '{name}' is missing in '{body}'"
            )));
        }
    }
    let Some(ty) = facts().kind(&gvk.group, &gvk.version, &gvk.kind) else {
        return Err(DecodeError::UnknownKind(gvk));
    };
    match read(ty, body) {
        Ok(mut decoded) => {
            if let Some(object) = decoded.value.as_object_mut() {
                object.insert("apiVersion".into(), Value::String(gvk.api_version()));
                object.insert("kind".into(), Value::String(gvk.kind));
            }
            Ok(decoded)
        }
        Err(text) => Err(DecodeError::Malformed { gvk, text }),
    }
}

/// Reads a value of a type that need not be a kind.
pub(in crate::codec) fn decode_as(ty: &'static Type, body: &[u8]) -> Result<Decoded, String> {
    check(body)?;
    read(ty, body)
}

/// Reads any JSON.
pub(in crate::codec) fn decode_untyped(body: &[u8]) -> Result<Decoded, String> {
    check(body)?;
    let mut reader = Reader::new(body);
    let value = reader.any(true).map_err(|Stop(text)| text)?;
    match reader.wrong {
        Some(text) => Err(text),
        None => Ok(Decoded {
            value,
            strict: reader.strict,
        }),
    }
}

fn read(ty: &'static Type, checked: &[u8]) -> Result<Decoded, String> {
    let mut reader = Reader::new(checked);
    let value = reader.object(ty, &ty.go).map_err(|Stop(text)| text)?;
    if let Some(text) = reader.wrong {
        return Err(text);
    }
    let value = if value.is_null() {
        Value::Object(zero_struct(ty))
    } else {
        value
    };
    Ok(Decoded {
        value,
        strict: reader.strict,
    })
}

/// `apiVersion` and `kind` as the body has them.
fn interpret(body: &[u8]) -> Result<(String, String), String> {
    const GO: &str =
        r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    check(body)?;
    let mut cursor = Cursor::new(body);
    let (mut api_version, mut kind) = (String::new(), String::new());
    match cursor.peek() {
        b'{' => cursor.at += 1,
        b'n' => return Ok((api_version, kind)),
        other => {
            return Err(format!(
                "json: cannot unmarshal {} into Go value of type {GO}",
                name_of(other)
            ));
        }
    }
    let (mut first, mut wrong) = (true, None);
    while cursor.next(&mut first) {
        // Go's plain decoder does not mind the case here, and of several the last wins.
        let key = cursor.raw_key();
        let (slot, name) = if key.eq_ignore_ascii_case(b"apiVersion") {
            (&mut api_version, "apiVersion")
        } else if key.eq_ignore_ascii_case(b"kind") {
            (&mut kind, "kind")
        } else {
            cursor.skip();
            continue;
        };
        match cursor.peek() {
            b'"' => *slot = unescape(cursor.raw_string()),
            other => {
                if other != b'n' && wrong.is_none() {
                    let what = name_of(other);
                    wrong = Some(format!(
                        "json: cannot unmarshal {what} into Go struct field .{name} of type string"
                    ));
                }
                cursor.skip();
            }
        }
    }
    wrong.map_or(Ok((api_version, kind)), Err)
}

/// What Go calls the value that starts with this byte.
fn name_of(byte: u8) -> &'static str {
    match byte {
        b'{' => "object",
        b'[' => "array",
        b'"' => "string",
        b't' | b'f' => "bool",
        b'n' => "null",
        _ => "number",
    }
}

/// The zero value that Go prints for a field nobody set; nothing when it prints none, or `null`.
pub(in crate::codec) fn zero_value(field: &Field) -> Option<Value> {
    if field.pointer {
        return None;
    }
    let scalar = !field.omitempty;
    match &field.ty.shape {
        Shape::String => scalar.then(|| Value::String(String::new())),
        Shape::Bool => scalar.then_some(Value::Bool(false)),
        Shape::Int32 | Shape::Int64 | Shape::Float64 => scalar.then(|| Value::from(0)),
        _ if field.omitzero => None,
        Shape::Struct(inner) => Some(Value::Object(zero_struct(inner))),
        Shape::Quantity => Some(Value::String("0".into())),
        Shape::IntOrString => Some(Value::from(0)),
        Shape::Duration => Some(Value::String("0s".into())),
        _ => None,
    }
}

fn zero_struct(ty: &Type) -> Map<String, Value> {
    let mut object = Map::new();
    fill(ty, &mut object);
    object
}

/// Adds what Go prints although nobody set it.
pub(in crate::codec) fn fill(ty: &Type, object: &mut Map<String, Value>) {
    // Upstream takes care that a list kind's items are never null.
    if ty.is_list() && !object.contains_key("items") {
        object.insert("items".into(), Value::Array(Vec::new()));
    }
    for field in ty.unset_fields() {
        if !object.contains_key(field.json)
            && let Some(zero) = zero_value(field)
        {
            object.insert(field.json.into(), zero);
        }
    }
}

/// What Go makes of `null` (or nothing) where a list element or a map's value is due.
fn zero_element(ty: &Ty) -> Value {
    match &ty.shape {
        Shape::String | Shape::Bytes => Value::String(String::new()),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float64 | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::String("0".into()),
        Shape::Duration => Value::String("0s".into()),
        Shape::Struct(inner) => Value::Object(zero_struct(inner)),
        Shape::Wrapped(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}

/// Reading ends here, with this text.
struct Stop(String);

struct Reader<'a> {
    cursor: Cursor<'a>,
    strict: Vec<String>,
    /// Where reading is, for strict errors: `spec.containers[0]`.
    path: String,
    /// Where reading is, for type errors: field names, lists left out.
    fields: Vec<&'static str>,
    /// The struct whose field is being read.
    owner: &'static str,
    /// The first value of a wrong type.
    wrong: Option<String>,
    /// How many more values may be made.
    left: usize,
}

impl<'a> Reader<'a> {
    fn new(checked: &'a [u8]) -> Self {
        Self {
            cursor: Cursor::new(checked),
            strict: Vec::new(),
            path: String::new(),
            fields: Vec::new(),
            owner: "",
            wrong: None,
            left: MAX_VALUES,
        }
    }

    fn spend(&mut self, values: usize) -> Result<(), Stop> {
        self.left = self.left.checked_sub(values).ok_or_else(|| Stop(TOO_MANY.into()))?;
        Ok(())
    }

    fn type_error(&self, what: &str, go: &str) -> String {
        if self.fields.is_empty() {
            return format!("json: cannot unmarshal {what} into Go value of type {go}");
        }
        let path = self.fields.join(".");
        format!(
            "json: cannot unmarshal {what} into Go struct field {}.{path} of type {go}",
            self.owner
        )
    }

    /// Remembers a type error and passes over the value.
    fn mistyped(&mut self, go: &str) -> Value {
        let byte = self.cursor.peek();
        let text = self.cursor.skip();
        let what = match name_of(byte) {
            // Go quotes the number when the type is a number that cannot hold it.
            "number" if matches!(go, "int32" | "int64" | "float64") => {
                format!("number {}", String::from_utf8_lossy(text))
            }
            name => name.to_owned(),
        };
        if self.wrong.is_none() {
            self.wrong = Some(self.type_error(&what, go));
        }
        Value::Null
    }

    fn strict(&mut self, what: &str, name: &str) {
        if self.strict.len() >= MAX_STRICT {
            return;
        }
        let dot = if self.path.is_empty() { "" } else { "." };
        let text = format!("{what} field \"{}{dot}{name}\"", self.path);
        if !self.strict.contains(&text) {
            self.strict.push(text);
        }
    }

    fn enter(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        length
    }

    /// A struct; null for `null` or a value of another type.
    fn object(&mut self, ty: &'static Type, go: &str) -> Result<Value, Stop> {
        match self.cursor.peek() {
            b'{' => self.cursor.at += 1,
            b'n' => {
                self.cursor.skip();
                return Ok(Value::Null);
            }
            _ => return Ok(self.mistyped(go)),
        }
        self.spend(STRUCT_VALUES)?;
        let mut object = Map::new();
        // Which fields were there: one bit per flattened field, the last two for kind and apiVersion.
        let mut seen = 0u128;
        let (owner, depth) = (self.owner, self.fields.len());
        let mut first = true;
        while self.cursor.next(&mut first) {
            let raw = self.cursor.raw_key();
            let unescaped;
            let key = match std::str::from_utf8(raw) {
                Ok(plain) if !raw.contains(&b'\\') => plain,
                _ => {
                    unescaped = unescape(raw);
                    &unescaped
                }
            };
            let Some(at) = ty.flat_index(key) else {
                self.type_meta_or_unknown(ty, key, &mut object, &mut seen);
                continue;
            };
            let Some(field) = ty.flat_field(at) else { continue };
            let bit = 1u128.checked_shl(u32::try_from(at).unwrap_or(0)).unwrap_or(0);
            if seen & bit != 0 {
                self.strict("duplicate", field.json);
            }
            seen |= bit;
            self.owner = ty.short;
            self.fields.extend_from_slice(ty.embedded(at));
            self.fields.push(field.json);
            let length = self.enter(field.json);
            let value = self.value(field.ty)?;
            self.path.truncate(length);
            self.fields.truncate(depth);
            self.owner = owner;
            if value.is_null() || left_out(field, &value) {
                object.remove(field.json);
            } else {
                object.insert(field.json.to_owned(), value);
            }
        }
        fill(ty, &mut object);
        Ok(Value::Object(object))
    }

    /// A key that is no field of the table: `kind` and `apiVersion` of kinds, or unknown.
    fn type_meta_or_unknown(&mut self, ty: &Type, key: &str, object: &mut Map<String, Value>, seen: &mut u128) {
        let bit = match key {
            "kind" => 1u128 << 126,
            "apiVersion" => 1u128 << 127,
            _ => 0,
        };
        if !ty.kind || bit == 0 {
            self.strict("unknown", key);
            self.cursor.skip();
            return;
        }
        if *seen & bit != 0 {
            self.strict("duplicate", key);
        }
        *seen |= bit;
        match self.cursor.peek() {
            b'"' => {
                let text = unescape(self.cursor.raw_string());
                if !text.is_empty() {
                    object.insert(key.to_owned(), Value::String(text));
                }
            }
            b'n' => drop(self.cursor.skip()),
            _ => {
                let depth = self.fields.len();
                let owner = std::mem::replace(&mut self.owner, ty.short);
                self.fields
                    .extend_from_slice(&["TypeMeta", if key == "kind" { "kind" } else { "apiVersion" }]);
                self.mistyped("string");
                self.fields.truncate(depth);
                self.owner = owner;
            }
        }
    }

    /// A value of any shape; null for `null` or a value of another type.
    fn value(&mut self, ty: &'static Ty) -> Result<Value, Stop> {
        self.spend(1)?;
        let byte = self.cursor.peek();
        if byte == b'n' {
            self.cursor.skip();
            return Ok(Value::Null);
        }
        Ok(match (&ty.shape, byte) {
            (Shape::String, b'"') => Value::String(unescape(self.cursor.raw_string())),
            (Shape::Bool, b't' | b'f') => Value::Bool(self.cursor.word() == b"true"),
            (Shape::Int32 | Shape::Int64, b'-' | b'0'..=b'9') => self.integer(ty),
            (Shape::Float64, b'-' | b'0'..=b'9') => {
                let start = self.cursor;
                match text(self.cursor.word()).parse::<f64>() {
                    Ok(f) if f.is_finite() => proto::float(f),
                    _ => {
                        self.cursor = start;
                        self.mistyped(&ty.go)
                    }
                }
            }
            (Shape::Bytes, b'"') => match scalar::canonical_base64(unescape(self.cursor.raw_string())) {
                Ok(text) => Value::String(text),
                Err(e) => {
                    self.wrong.get_or_insert(e);
                    Value::Null
                }
            },
            (Shape::Struct(inner), _) => self.object(inner.get(), &ty.go)?,
            (Shape::List(element), b'[') => self.list(element)?,
            (Shape::Wrapped(element), b'[') => self.list(element)?,
            (Shape::Map(element), b'{') => self.map(element)?,
            (Shape::Time | Shape::MicroTime | Shape::Duration, _) => self.time(ty)?,
            (Shape::Quantity, _) => self.quantity()?,
            (Shape::IntOrString, b'"') => Value::String(unescape(self.cursor.raw_string())),
            (Shape::IntOrString, _) => self.int_of_int_or_string()?,
            (Shape::Raw, _) => self.any(false)?,
            (Shape::Any, _) => self.any(true)?,
            (Shape::SchemaOrBool(_), b't' | b'f') => Value::Bool(self.cursor.word() == b"true"),
            (Shape::SchemaOrBool(_), other) if other != b'{' => {
                return Err(Stop("boolean or JSON schema expected".into()));
            }
            (Shape::SchemaOrArray(t) | Shape::SchemaOrBool(t) | Shape::SchemaOrStrings(t), b'{') => {
                self.object(t.get(), &ty.go)?
            }
            (Shape::SchemaOrArray(t), b'[') => {
                let (mut items, mut first) = (Vec::new(), true);
                self.cursor.at += 1;
                while self.cursor.next(&mut first) {
                    items.push(self.object(t.get(), &t.go)?);
                }
                Value::Array(items)
            }
            (Shape::SchemaOrStrings(_), b'[') => self.any(false)?,
            (Shape::SchemaOrArray(_) | Shape::SchemaOrStrings(_), _) => {
                self.cursor.skip();
                Value::Null
            }
            _ => self.mistyped(&ty.go),
        })
    }

    fn integer(&mut self, ty: &Ty) -> Value {
        let start = self.cursor;
        let parsed = text(self.cursor.word()).parse::<i64>().ok();
        let fits = |n: &i64| !matches!(ty.shape, Shape::Int32) || i32::try_from(*n).is_ok();
        match parsed.filter(fits) {
            Some(n) => Value::from(n),
            None => {
                self.cursor = start;
                let number = String::from_utf8_lossy(self.cursor.skip()).into_owned();
                if self.wrong.is_none() {
                    self.wrong = Some(self.type_error(&format!("number {number}"), &ty.go));
                }
                Value::Null
            }
        }
    }

    fn list(&mut self, element: &'static Ty) -> Result<Value, Stop> {
        self.cursor.at += 1;
        let (mut items, mut first, length) = (Vec::new(), true, self.path.len());
        while self.cursor.next(&mut first) {
            self.path.push_str(&format!("[{}]", items.len()));
            let value = self.value(element)?;
            items.push(if value.is_null() { zero_element(element) } else { value });
            self.path.truncate(length);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, element: &'static Ty) -> Result<Value, Stop> {
        self.cursor.at += 1;
        let (mut entries, mut first) = (Map::new(), true);
        while self.cursor.next(&mut first) {
            let key = unescape(self.cursor.raw_key());
            if entries.contains_key(&key) {
                self.strict("duplicate", &key);
            }
            let length = self.enter(&key);
            let value = self.value(element)?;
            self.path.truncate(length);
            entries.insert(key, if value.is_null() { zero_element(element) } else { value });
        }
        Ok(Value::Object(entries))
    }

    fn time(&mut self, ty: &Ty) -> Result<Value, Stop> {
        let byte = self.cursor.peek();
        if byte != b'"' {
            return Err(Stop(self.type_error(name_of(byte), "string")));
        }
        let text = unescape(self.cursor.raw_string());
        if matches!(ty.shape, Shape::Duration) {
            return Ok(Value::String(scalar::format_duration(
                scalar::parse_duration(&text).map_err(Stop)?,
            )));
        }
        let parsed = match ty.shape {
            Shape::Time => scalar::parse_time(&text),
            _ => scalar::parse_micro_time(&text),
        };
        let (seconds, nanos) = parsed.map_err(Stop)?;
        if seconds == scalar::ZERO_TIME && nanos == 0 {
            return Ok(Value::Null);
        }
        Ok(Value::String(match ty.shape {
            Shape::Time => scalar::format_time(seconds),
            _ => scalar::format_micro_time(seconds, nanos),
        }))
    }

    fn quantity(&mut self) -> Result<Value, Stop> {
        let text = match self.cursor.peek() {
            b'"' => String::from_utf8_lossy(self.cursor.raw_string()).into_owned(),
            _ => String::from_utf8_lossy(self.cursor.skip()).into_owned(),
        };
        let canonical = crate::quantity::canonical(text.trim()).map_err(|e| Stop(e.to_string()))?;
        Ok(Value::String(canonical))
    }

    fn int_of_int_or_string(&mut self) -> Result<Value, Stop> {
        let byte = self.cursor.peek();
        let word = text(self.cursor.skip());
        match word.parse::<i32>() {
            Ok(n) => Ok(Value::from(n)),
            Err(_) if name_of(byte) == "number" => Err(Stop(self.type_error(&format!("number {word}"), "int32"))),
            Err(_) => Err(Stop(self.type_error(name_of(byte), "int32"))),
        }
    }

    /// JSON of no type. `strict` notices duplicate keys.
    fn any(&mut self, strict: bool) -> Result<Value, Stop> {
        self.spend(1)?;
        Ok(match self.cursor.peek() {
            b'"' => Value::String(unescape(self.cursor.raw_string())),
            b'{' => {
                self.cursor.at += 1;
                let (mut entries, mut first) = (Map::new(), true);
                while self.cursor.next(&mut first) {
                    let key = unescape(self.cursor.raw_key());
                    if strict && entries.contains_key(&key) {
                        self.strict("duplicate", &key);
                    }
                    let length = if strict { self.enter(&key) } else { self.path.len() };
                    let value = self.any(strict)?;
                    self.path.truncate(length);
                    entries.insert(key, value);
                }
                Value::Object(entries)
            }
            b'[' => {
                self.cursor.at += 1;
                let (mut items, mut first, length) = (Vec::new(), true, self.path.len());
                while self.cursor.next(&mut first) {
                    if strict {
                        self.path.push_str(&format!("[{}]", items.len()));
                    }
                    items.push(self.any(strict)?);
                    self.path.truncate(length);
                }
                Value::Array(items)
            }
            b't' | b'f' => Value::Bool(self.cursor.word() == b"true"),
            b'-' | b'0'..=b'9' => {
                let word = text(self.cursor.word());
                if let Ok(n) = word.parse::<i64>() {
                    Value::from(n)
                } else {
                    match word.parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
                        Some(n) => Value::Number(n),
                        None => {
                            let text = self.type_error(&format!("number {word}"), "float64");
                            self.wrong.get_or_insert(text);
                            Value::Null
                        }
                    }
                }
            }
            _ => {
                self.cursor.skip();
                Value::Null
            }
        })
    }
}

/// Go's `omitempty`, for a value that was read: the object does not keep what would not be printed. Empty lists and maps
/// are kept: messages show them as they were sent.
fn left_out(field: &Field, value: &Value) -> bool {
    field.omitempty
        && !field.pointer
        && match (&field.ty.shape, value) {
            (Shape::String | Shape::Bytes, Value::String(text)) => text.is_empty(),
            (Shape::Bool, Value::Bool(b)) => !b,
            (Shape::Int32 | Shape::Int64 | Shape::Float64, Value::Number(n)) => n.as_f64() == Some(0.0),
            _ => false,
        }
}

/// Numbers and literals are ASCII.
fn text(word: &[u8]) -> &str {
    std::str::from_utf8(word).unwrap_or_default()
}
