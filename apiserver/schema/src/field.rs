//! Faults of single fields: where, what, and the sentence a user reads.
//!
//! Everybody who refuses an object says so with a [`FieldError`]; the server folds a list of them into one `Invalid`
//! Status. The sentences are part of the API (kubectl prints them, tests compare them), so they are upstream's to the
//! letter: `spec.containers[0].name: Required value`. Values are printed as Go prints them: strings quoted with Go's
//! escapes, numbers and booleans plain, everything else as JSON.
//!
//! This module decides no rule; rules live with the kinds and in [`crate::name`].

use serde_json::Value;
use std::collections::HashSet;
use std::fmt;

/// All faults found in one object, in the order in which the rules were checked. Empty: no fault.
pub type FieldErrors = Vec<FieldError>;

/// One fault of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: ErrorType,
    /// The path as users write it: `spec.ports[0].name`, `metadata.labels[app]`.
    pub field: String,
    pub bad_value: BadValue,
    /// May be empty.
    pub detail: String,
}

/// The class of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TooFew,
    TooShort,
    TypeInvalid,
    Internal,
}

impl ErrorType {
    /// The `reason` of a Status cause.
    pub fn cause_reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TooShort => "FieldValueTooShort",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::TooShort => "Too short",
            Self::Internal => "Internal error",
        }
    }

    /// Whether the message repeats the offending value.
    fn shows_value(self) -> bool {
        !matches!(
            self,
            Self::Required | Self::Forbidden | Self::TooLong | Self::TooShort | Self::Internal
        )
    }
}

/// The offending value, as far as the message shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum BadValue {
    Omitted,
    Json(Value),
    /// Printed as it is. For values whose printed order of fields is not alphabetical.
    Raw(String),
}

impl From<Value> for BadValue {
    fn from(value: Value) -> Self {
        Self::Json(value)
    }
}
impl From<&Value> for BadValue {
    fn from(value: &Value) -> Self {
        Self::Json(value.clone())
    }
}
impl From<&str> for BadValue {
    fn from(value: &str) -> Self {
        Self::Json(Value::from(value))
    }
}
impl From<String> for BadValue {
    fn from(value: String) -> Self {
        Self::Json(Value::from(value))
    }
}
impl From<&String> for BadValue {
    fn from(value: &String) -> Self {
        Self::Json(Value::from(value.as_str()))
    }
}
impl From<i64> for BadValue {
    fn from(value: i64) -> Self {
        Self::Json(Value::from(value))
    }
}
impl From<i32> for BadValue {
    fn from(value: i32) -> Self {
        Self::Json(Value::from(value))
    }
}
impl From<usize> for BadValue {
    fn from(value: usize) -> Self {
        Self::Json(Value::from(value))
    }
}
impl From<bool> for BadValue {
    fn from(value: bool) -> Self {
        Self::Json(Value::from(value))
    }
}
impl<T: Into<Value> + Clone> From<&[T]> for BadValue {
    fn from(value: &[T]) -> Self {
        Self::Json(Value::from(value.to_vec()))
    }
}
impl<T: Into<BadValue>> From<Option<T>> for BadValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Json(Value::Null), Into::into)
    }
}

impl BadValue {
    /// A text whose type in Go is no plain string (an enumeration, say): upstream prints it as JSON.
    pub fn typed(text: &str) -> Self {
        Self::Raw(go_json(&Value::from(text)))
    }
    /// A plain string, where a constructor would take it for a typed one.
    pub fn plain(text: &str) -> Self {
        Self::Raw(quote(text))
    }
}

impl FieldError {
    fn new(kind: ErrorType, path: &Path, bad_value: BadValue, detail: impl Into<String>) -> Self {
        Self {
            kind,
            field: path.to_string(),
            bad_value,
            detail: detail.into(),
        }
    }
    pub fn not_found(path: &Path, value: impl Into<BadValue>) -> Self {
        Self::new(ErrorType::NotFound, path, value.into(), "")
    }
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Required, path, "".into(), detail)
    }
    pub fn duplicate(path: &Path, value: impl Into<BadValue>) -> Self {
        Self::new(ErrorType::Duplicate, path, value.into(), "")
    }
    pub fn invalid(path: &Path, value: impl Into<BadValue>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, path, value.into(), detail)
    }
    pub fn type_invalid(path: &Path, value: impl Into<BadValue>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::TypeInvalid, path, value.into(), detail)
    }
    /// `supported` in the order given; upstream sorts most of its sets.
    pub fn not_supported(path: &Path, value: impl Into<BadValue>, supported: &[&str]) -> Self {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|v| quote(v)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        // Values of enumerations are no plain strings in Go: they are printed as JSON.
        let value = match value.into() {
            BadValue::Json(text @ Value::String(_)) => BadValue::Raw(go_json(&text)),
            other => other,
        };
        Self::new(ErrorType::NotSupported, path, value, detail)
    }
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Forbidden, path, "".into(), detail)
    }
    /// `limit` in bytes.
    pub fn too_long(path: &Path, limit: usize) -> Self {
        let unit = if limit == 1 { "byte" } else { "bytes" };
        Self::new(
            ErrorType::TooLong,
            path,
            BadValue::Omitted,
            format!("may not be more than {limit} {unit}"),
        )
    }
    /// `limit` in characters.
    pub fn too_long_characters(path: &Path, limit: usize) -> Self {
        let unit = if limit == 1 { "character" } else { "characters" };
        Self::new(
            ErrorType::TooLong,
            path,
            BadValue::Omitted,
            format!("may not be more than {limit} {unit}"),
        )
    }
    pub fn too_short(path: &Path, limit: usize) -> Self {
        let unit = if limit == 1 { "character" } else { "characters" };
        Self::new(
            ErrorType::TooShort,
            path,
            BadValue::Omitted,
            format!("must be at least {limit} {unit}"),
        )
    }
    pub fn too_many(path: &Path, actual: usize, limit: usize) -> Self {
        let unit = if limit == 1 { "item" } else { "items" };
        Self::new(
            ErrorType::TooMany,
            path,
            actual.into(),
            format!("must have at most {limit} {unit}"),
        )
    }
    pub fn too_few(path: &Path, actual: usize, limit: usize) -> Self {
        let unit = if limit == 1 { "item" } else { "items" };
        Self::new(
            ErrorType::TooFew,
            path,
            actual.into(),
            format!("must have at least {limit} {unit}"),
        )
    }
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Internal, path, BadValue::Omitted, detail)
    }

    /// The `reason` of the Status cause made from this fault.
    pub fn cause_reason(&self) -> &'static str {
        self.kind.cause_reason()
    }

    /// The message without the field: the `message` of a Status cause.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_string();
        if self.kind.shows_value() {
            match &self.bad_value {
                BadValue::Omitted => {}
                BadValue::Raw(raw) => text = format!("{text}: {raw}"),
                BadValue::Json(Value::String(s)) => text = format!("{text}: {}", quote(s)),
                BadValue::Json(value) => text = format!("{text}: {}", go_json(value)),
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// The message of a whole list as an `Invalid` Status shows it: one fault plain, several as `[a, b]`; repeated messages
/// once.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut seen = HashSet::new();
    let texts: Vec<String> = errors
        .iter()
        .map(ToString::to_string)
        .filter(|t| seen.insert(t.clone()))
        .collect();
    match texts.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Where a field is. Grows to the right; a path is a value of its own and may be kept.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Path(String);

impl Path {
    /// The root for faults of the object as a whole (upstream: a nil path).
    pub fn none() -> Self {
        Self("<nil>".into())
    }
    pub fn new(name: &str) -> Self {
        Self(name.to_string())
    }
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Self(name.to_string())
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A string between double quotes with Go's escapes (`%q`).
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c < ' ' || c == '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if !printable(c) && u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if !printable(c) => out.push_str(&format!("\\U{:08x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Go's `unicode.IsPrint`: no controls, no spaces but the ASCII one, no format, private or unassigned characters. The
/// standard library escapes by the same rule, and combining marks at the start of a text besides.
fn printable(c: char) -> bool {
    c == ' '
        || c.is_ascii_graphic()
        || (!c.is_ascii() && ['x', c].into_iter().collect::<String>().escape_debug().nth(1) != Some('\\'))
}

/// JSON as Go's `json.Marshal` writes it: `<`, `>` and `&` escaped.
pub fn go_json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    // These characters occur in JSON only inside strings, so replacing them anywhere is safe.
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec() -> Path {
        Path::new("spec").child("containers").index(0).child("name")
    }

    #[test]
    fn every_class_has_upstreams_sentence() {
        let p = spec();
        for (error, want) in [
            (FieldError::required(&p, ""), "spec.containers[0].name: Required value"),
            (
                FieldError::required(&p, "why"),
                "spec.containers[0].name: Required value: why",
            ),
            (
                FieldError::invalid(&p, "x\n", "bad"),
                r#"spec.containers[0].name: Invalid value: "x\n": bad"#,
            ),
            (
                FieldError::invalid(&p, 7_i64, "bad"),
                "spec.containers[0].name: Invalid value: 7: bad",
            ),
            (
                FieldError::invalid(&p, json!({"a": "<"}), "bad"),
                r#"spec.containers[0].name: Invalid value: {"a":"\u003c"}: bad"#,
            ),
            (
                FieldError::not_supported(&p, "x", &["a", "b"]),
                r#"spec.containers[0].name: Unsupported value: "x": supported values: "a", "b""#,
            ),
            (
                FieldError::forbidden(&p, "no"),
                "spec.containers[0].name: Forbidden: no",
            ),
            (
                FieldError::duplicate(&p, "x"),
                r#"spec.containers[0].name: Duplicate value: "x""#,
            ),
            (
                FieldError::not_found(&p, "x"),
                r#"spec.containers[0].name: Not found: "x""#,
            ),
            (
                FieldError::too_long(&p, 63),
                "spec.containers[0].name: Too long: may not be more than 63 bytes",
            ),
            (
                FieldError::too_long(&p, 1),
                "spec.containers[0].name: Too long: may not be more than 1 byte",
            ),
            (
                FieldError::too_many(&p, 5, 3),
                "spec.containers[0].name: Too many: 5: must have at most 3 items",
            ),
            (
                FieldError::internal(&p, "boom"),
                "spec.containers[0].name: Internal error: boom",
            ),
        ] {
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn several_faults_are_bracketed_and_repeated_ones_shown_once() {
        let one = FieldError::required(&Path::new("a"), "");
        let two = FieldError::required(&Path::new("b"), "");
        assert_eq!(aggregate(std::slice::from_ref(&one)), "a: Required value");
        assert_eq!(
            aggregate(&[one.clone(), two, one]),
            "[a: Required value, b: Required value]"
        );
    }

    #[test]
    fn keys_and_indexes_are_subscripts() {
        assert_eq!(
            Path::new("metadata").child("labels").key("a/b").to_string(),
            "metadata.labels[a/b]"
        );
    }

    #[test]
    fn quoting_follows_go() {
        assert_eq!(quote("a\"\\\u{1}é\u{200b}"), r#""a\"\\\x01é\u200b""#);
        // A combining mark, a letter of another plane, an ideographic space, a private character, one that is not assigned.
        assert_eq!(
            quote("e\u{301}\u{10400}\u{3000}\u{e000}\u{378}"),
            "\"e\u{301}\u{10400}\\u3000\\ue000\\u0378\""
        );
        assert_eq!(quote("\u{301}\u{e0001}\u{85}"), "\"\u{301}\\U000e0001\\u0085\"");
    }
}
