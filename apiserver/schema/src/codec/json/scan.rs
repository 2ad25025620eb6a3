//! Checks that bytes are JSON, with Go's error texts, and walks over JSON that has been checked.
//!
//! [`check`] does not recurse: nesting is a stack of bits, bounded by the codec's depth. [`Cursor`] is for checked
//! text only; on anything else it returns nonsense, never out of bounds.

use crate::codec::MAX_DEPTH;

/// Go's `checkValid`.
///
/// # Errors
/// Go's text: `invalid character 'x' looking for beginning of value`, `unexpected end of JSON input`.
pub(in crate::codec) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut checker = Checker { bytes, at: 0 };
    checker.document()
}

struct Checker<'a> {
    bytes: &'a [u8],
    at: usize,
}

fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        // Go makes a rune of the byte.
        0x80..0xa0 => format!("'\\u{byte:04x}'"),
        0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        other => format!("'{}'", char::from(other)),
    }
}

impl Checker<'_> {
    fn invalid<T>(&self, context: &str) -> Result<T, String> {
        Err(match self.bytes.get(self.at) {
            None => "unexpected end of JSON input".to_owned(),
            Some(byte) => format!("invalid character {} {context}", quoted(*byte)),
        })
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn document(&mut self) -> Result<(), String> {
        // True stands for an object, false for an array.
        let mut open: Vec<bool> = Vec::with_capacity(16);
        loop {
            self.space();
            // At the beginning of a value.
            match self.bytes.get(self.at) {
                Some(bracket @ (b'{' | b'[')) => {
                    if open.len() >= MAX_DEPTH {
                        return self.invalid("exceeded max depth");
                    }
                    let object = *bracket == b'{';
                    self.at += 1;
                    self.space();
                    if self.bytes.get(self.at) == Some(if object { &b'}' } else { &b']' }) {
                        self.at += 1;
                    } else {
                        open.push(object);
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => self.string()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                _ => return self.invalid("looking for beginning of value"),
            }
            // After a value: close what ends here, until another value must follow.
            loop {
                self.space();
                match (open.last(), self.bytes.get(self.at)) {
                    (None, None) => return Ok(()),
                    (None, Some(_)) => return self.invalid("after top-level value"),
                    (Some(true), Some(b',')) => {
                        self.at += 1;
                        self.space();
                        self.key()?;
                        break;
                    }
                    (Some(false), Some(b',')) => {
                        self.at += 1;
                        break;
                    }
                    (Some(true), Some(b'}')) | (Some(false), Some(b']')) => {
                        self.at += 1;
                        open.pop();
                    }
                    (Some(true), _) => return self.invalid("after object key:value pair"),
                    (Some(false), _) => return self.invalid("after array element"),
                }
            }
        }
    }

    fn key(&mut self) -> Result<(), String> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return self.invalid("looking for beginning of object key string");
        }
        self.string()?;
        self.space();
        if self.bytes.get(self.at) != Some(&b':') {
            return self.invalid("after object key");
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.bytes.get(self.at) {
                        Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => self.at += 1,
                        Some(b'u') => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.bytes.get(self.at).is_some_and(u8::is_ascii_hexdigit) {
                                    return self.invalid("in \\u hexadecimal character escape");
                                }
                                self.at += 1;
                            }
                        }
                        _ => return self.invalid("in string escape code"),
                    }
                }
                None | Some(0..0x20) => return self.invalid("in string literal"),
                Some(_) => self.at += 1,
            }
        }
    }

    fn digits(&mut self, context: &str) -> Result<(), String> {
        if !self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            return self.invalid(context);
        }
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for expected in word.bytes() {
            if self.bytes.get(self.at) != Some(&expected) {
                return self.invalid(&format!("in literal {word} (expecting '{}')", char::from(expected)));
            }
            self.at += 1;
        }
        Ok(())
    }
}

/// A place in checked JSON text.
#[derive(Clone, Copy)]
pub(in crate::codec) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next byte that is not white space, not consumed; 0 at the end.
    pub fn peek(&mut self) -> u8 {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return *byte;
            }
            self.at += 1;
        }
        0
    }

    /// Enters an object or array, or passes to its next element. False when it closes instead (and is consumed).
    /// `first` starts as true.
    pub fn next(&mut self, first: &mut bool) -> bool {
        match self.peek() {
            b'}' | b']' | 0 => {
                self.at += 1;
                return false;
            }
            b',' if !*first => self.at += 1,
            _ => {}
        }
        *first = false;
        self.peek();
        true
    }

    /// A string's inside, escapes unresolved. The cursor is on its opening quote.
    pub fn raw_string(&mut self) -> &'a [u8] {
        let start = self.at + 1;
        let mut end = start;
        loop {
            match self.bytes.get(end) {
                Some(b'"') | None => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
            }
        }
        let end = end.min(self.bytes.len());
        self.at = (end + 1).min(self.bytes.len());
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// A key, and past its colon.
    pub fn raw_key(&mut self) -> &'a [u8] {
        let key = self.raw_string();
        if self.peek() == b':' {
            self.at += 1;
        }
        self.peek();
        key
    }

    /// The text of the value here, consumed.
    pub fn skip(&mut self) -> &'a [u8] {
        self.peek();
        let start = self.at;
        let mut depth = 0usize;
        loop {
            match self.peek() {
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                b'"' => drop(self.raw_string()),
                b',' | b':' => {
                    self.at += 1;
                    continue;
                }
                0 => break,
                _ => {
                    while self.bytes.get(self.at).is_some_and(|b| {
                        !matches!(
                            b,
                            b',' | b':' | b'}' | b']' | b'{' | b'[' | b'"' | b' ' | b'\t' | b'\r' | b'\n'
                        )
                    }) {
                        self.at += 1;
                    }
                }
            }
            if depth == 0 {
                break;
            }
        }
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// The text of a number or literal here, consumed.
    pub fn word(&mut self) -> &'a [u8] {
        let start = self.at;
        while self
            .bytes
            .get(self.at)
            .is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        {
            self.at += 1;
        }
        if self.at == start {
            self.at = (self.at + 1).min(self.bytes.len());
        }
        self.bytes.get(start..self.at).unwrap_or_default()
    }
}

/// A string's text from its inside: escapes resolved, what is not UTF-8 or half a surrogate pair replaced, as Go does.
pub(in crate::codec) fn unescape(inside: &[u8]) -> String {
    if !inside.contains(&b'\\') {
        return String::from_utf8_lossy(inside).into_owned();
    }
    let mut out: Vec<u8> = Vec::with_capacity(inside.len());
    let mut at = 0;
    while at < inside.len() {
        if inside[at] != b'\\' {
            out.push(inside[at]);
            at += 1;
            continue;
        }
        let escape = inside.get(at + 1).copied().unwrap_or(b'\\');
        at += 2;
        let plain = match escape {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let first = hex4(inside, at);
                at += 4;
                let mut code = first;
                if (0xd800..0xdc00).contains(&first) && inside.get(at..at + 2) == Some(b"\\u") {
                    let second = hex4(inside, at + 2);
                    if (0xdc00..0xe000).contains(&second) {
                        code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        at += 6;
                    }
                }
                let c = char::from_u32(code).unwrap_or('\u{fffd}');
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            other => other,
        };
        out.push(plain);
    }
    match String::from_utf8(out) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    }
}

fn hex4(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|h| std::str::from_utf8(h).ok())
        .and_then(|h| u32::from_str_radix(h, 16).ok())
        .unwrap_or(0)
}
