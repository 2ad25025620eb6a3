//! The query string, read as Go's `net/url` reads it: `+` is a space, malformed pairs are dropped.

use percent_encoding::percent_decode_str;

/// Decoded pairs in the order of the URL.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Never fails: a pair with a bad escape, a `;` or invalid UTF-8 is left out.
    pub fn parse(text: &str) -> Self {
        let decode = |text: &str| unescape(&text.replace('+', " "));
        let pairs = text
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.contains(';'))
            .filter_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((decode(key)?, decode(value)?))
            });
        Self(pairs.collect())
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Every pair.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// A boolean as upstream reads it: absent is `None`, `false` and `0` are false, anything else (also empty) is true.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)
            .map(|value| !(value.eq_ignore_ascii_case("false") || value == "0"))
    }

    /// A 64-bit integer; absent and empty are `None`.
    ///
    /// # Errors
    /// Go's text for the bad number.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(text) => go_int(text).map(Some),
        }
    }
}

/// Go's `strconv.ParseInt(text, 10, 64)` with its error texts.
pub fn go_int(text: &str) -> Result<i64, String> {
    text.parse::<i64>().map_err(|error| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.ParseInt: parsing {text:?}: {why}")
    })
}

/// Percent-decoding that refuses bad escapes and invalid UTF-8.
pub fn unescape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(found) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|byte| *byte == b'%'))
    {
        let hex = bytes.get(at + found + 1..at + found + 3)?;
        if !hex.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        at += found + 3;
    }
    percent_decode_str(text)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_as_go_does() {
        let query = Query::parse("a=1&b=x+y%2Cz&c&d=%zz&a=2&e;f=1");
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.get("b"), Some("x y,z"));
        assert_eq!(query.flag("c"), Some(true));
        assert_eq!(query.get("d"), None);
        assert_eq!(query.pairs().len(), 4);
    }

    #[test]
    fn bad_integers_have_gos_text() {
        assert_eq!(go_int("12"), Ok(12));
        assert_eq!(
            go_int("x"),
            Err("strconv.ParseInt: parsing \"x\": invalid syntax".into())
        );
        assert_eq!(
            go_int("9223372036854775808"),
            Err("strconv.ParseInt: parsing \"9223372036854775808\": value out of range".into())
        );
    }
}
