//! Label and field selectors in their query string form (`?labelSelector=a in (b,c)&fieldSelector=spec.nodeName=n`).
//!
//! Texts of errors and the grammar are upstream's (`labels.Parse`, `fields.ParseSelector`). Matching is done on borrowed
//! maps, because it runs once per object of every filtered list and watch event.

use std::collections::BTreeMap;

use crate::name;

/// A parsed label selector: all requirements must hold. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted; empty for existence, one element for comparisons.
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// Why a selector does not parse; the text goes to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

impl LabelSelector {
    /// # Errors
    /// On a text outside the grammar, and on keys or values that no label can have.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Parser {
            lexer: Lexer { rest: text },
            peeked: None,
        }
        .selector()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }

    /// The selector of a set of labels that must all be equal (`matchLabels`).
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirements = labels
            .into_iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::Equals,
                values: vec![value.clone()],
            })
            .collect();
        Self { requirements }
    }

    /// From requirements that were validated elsewhere (`matchExpressions`).
    #[must_use]
    pub fn from_requirements(requirements: Vec<Requirement>) -> Self {
        Self { requirements }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether labels satisfy every requirement.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// As [`Self::matches`], over any container of labels.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let (key, first) = (&r.key, r.values.first().map_or("", String::as_str));
            match r.operator {
                Operator::In => write!(f, "{key} in ({})", r.values.join(","))?,
                Operator::NotIn => write!(f, "{key} notin ({})", r.values.join(","))?,
                Operator::Equals => write!(f, "{key}={first}")?,
                Operator::NotEquals => write!(f, "{key}!={first}")?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan => write!(f, "{key}>{first}")?,
                Operator::LessThan => write!(f, "{key}<{first}")?,
            }
        }
        Ok(())
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        match self.operator {
            Operator::In | Operator::Equals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value, |a, b| a > b),
            Operator::LessThan => self.compare(value, |a, b| a < b),
        }
    }

    fn compare(&self, value: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        match (
            value.and_then(|v| v.parse().ok()),
            self.values.first().and_then(|v| v.parse().ok()),
        ) {
            (Some(a), Some(b)) => holds(a, b),
            _ => false,
        }
    }

    fn checked(self) -> Result<Self, SelectorError> {
        let faults = name::qualified_name(&self.key);
        if !faults.is_empty() {
            return Err(SelectorError(format!(
                "key: Invalid value: {:?}: {}",
                self.key,
                faults.join("; ")
            )));
        }
        for (i, value) in self.values.iter().enumerate() {
            let faults = name::label_value(value);
            if !faults.is_empty() {
                return Err(SelectorError(format!(
                    "values[{i}][{}]: Invalid value: {value:?}: {}",
                    self.key,
                    faults.join("; ")
                )));
            }
            let numeric = matches!(self.operator, Operator::GreaterThan | Operator::LessThan);
            if numeric && value.parse::<i64>().is_err() {
                return Err(SelectorError(format!(
                    "values[{i}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                )));
            }
        }
        Ok(self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    End,
}

impl<'a> Token<'a> {
    fn literal(self) -> &'a str {
        match self {
            Self::Word(s) | Self::Symbol(s) => s,
            Self::End => "",
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = self.rest.chars().next() else {
            return Token::End;
        };
        let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
        let length = if special(first) {
            ["==", "!="]
                .iter()
                .find(|s| self.rest.starts_with(**s))
                .map_or(1, |s| s.len())
        } else {
            self.rest
                .find(|c: char| special(c) || c.is_ascii_whitespace())
                .unwrap_or(self.rest.len())
        };
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        if special(first) {
            Token::Symbol(token)
        } else {
            Token::Word(token)
        }
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    peeked: Option<Token<'a>>,
}

impl<'a> Parser<'a> {
    fn peek(&mut self) -> Token<'a> {
        let token = self.peeked.unwrap_or_else(|| self.lexer.next());
        self.peeked = Some(token);
        token
    }

    fn next(&mut self) -> Token<'a> {
        self.peeked.take().unwrap_or_else(|| self.lexer.next())
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Symbol("!") => {
                    let requirement = self
                        .requirement()
                        .map_err(|e| SelectorError(format!("unable to parse requirement: {}", e.0)))?;
                    requirements.push(requirement);
                    match self.next() {
                        Token::End => return Ok(requirements),
                        Token::Symbol(",") => match self.peek() {
                            Token::Word(_) | Token::Symbol("!") => {}
                            other => return expected(other, "identifier after ','"),
                        },
                        other => return expected(other, "',' or 'end of string'"),
                    }
                }
                other => return expected(other, "!, identifier, or 'end of string'"),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek() == Token::Symbol("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(word) => word.to_owned(),
            other => return expected(other, "identifier"),
        };
        let alone = |operator| {
            Requirement {
                key: key.clone(),
                operator,
                values: Vec::new(),
            }
            .checked()
        };
        if absent {
            return alone(Operator::DoesNotExist);
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return alone(Operator::Exists);
        }
        let operator = match self.next() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Symbol("=" | "==") => Operator::Equals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            other => return expected(other, "!=, <, =, ==, >, in, notin"),
        };
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        values.sort();
        values.dedup();
        Requirement { key, operator, values }.checked()
    }

    /// `(a,b,c)`. An empty place between commas is the empty value.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return Err(SelectorError(format!("found '{}' expected: '('", other.literal()))),
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                Token::Word(word) => {
                    self.next();
                    values.push(word.to_owned());
                    match self.next() {
                        Token::Symbol(",") => {
                            if self.peek() == Token::Symbol(")") {
                                values.push(String::new());
                            }
                        }
                        Token::Symbol(")") => return Ok(values),
                        other => return expected(other, "',' or ')'"),
                    }
                }
                Token::Symbol(",") => {
                    self.next();
                    values.push(String::new());
                    if self.peek() == Token::Symbol(")") {
                        values.push(String::new());
                    }
                }
                Token::Symbol(")") => {
                    self.next();
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                other => return expected(other, "',', ')' or identifier"),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(word) => {
                self.next();
                Ok(word.to_owned())
            }
            other => expected(other, "identifier"),
        }
    }
}

fn expected<T>(found: Token<'_>, wanted: &str) -> Result<T, SelectorError> {
    Err(SelectorError(format!(
        "found '{}', expected: {wanted}",
        found.literal()
    )))
}

/// A parsed field selector: conjunction of equalities and inequalities on dotted field names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    /// `!=` instead of `=`.
    pub negated: bool,
}

impl FieldSelector {
    /// Whether a field is known is the kind's business, checked by the caller.
    ///
    /// # Errors
    /// On a term without operator and on a bad escape.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let fault = || SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'"));
            let (field, operator, value) = split_term(part).ok_or_else(fault)?;
            terms.push(FieldTerm {
                field: field.to_owned(),
                value: unescape(value)?,
                negated: operator == "!=",
            });
        }
        terms.sort_by(|a, b| a.field.cmp(&b.field));
        Ok(Self { terms })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    #[must_use]
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// The value that `field` must equal, if the selector fixes it.
    #[must_use]
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| !t.negated && t.field == field)
            .map(|t| t.value.as_str())
    }

    /// `value_of` gives a field's value, empty for a field that is not set.
    pub fn matches_with<'a>(&self, value_of: impl Fn(&str) -> &'a str) -> bool {
        self.terms.iter().all(|t| (value_of(&t.field) == t.value) != t.negated)
    }
}

impl std::fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, t) in self.terms.iter().enumerate() {
            let value = t.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(
                f,
                "{}{}{}{value}",
                if i > 0 { "," } else { "" },
                t.field,
                if t.negated { "!=" } else { "=" }
            )?;
        }
        Ok(())
    }
}

/// Cuts at commas that are not escaped by a backslash.
fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// At the leftmost operator, the longer one where two fit.
fn split_term(part: &str) -> Option<(&str, &str, &str)> {
    part.char_indices().find_map(|(i, _)| {
        let rest = &part[i..];
        ["!=", "==", "="]
            .into_iter()
            .find(|op| rest.starts_with(op))
            .map(|op| (&part[..i], op, &rest[op.len()..]))
    })
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {c}"
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.into(), v.into()))
            .collect()
    }

    #[test]
    fn a_selector_matches_what_upstream_matches() {
        for (selector, object, expected) in [
            ("", "a=b", true),
            ("a", "a=b", true),
            ("!a", "a=b", false),
            ("!c", "a=b", true),
            ("a=b", "a=b", true),
            ("a==c", "a=b", false),
            ("a!=c", "a=b", true),
            ("x!=c", "a=b", true),
            ("a in (b, c)", "a=b", true),
            ("a notin (b)", "a=b", false),
            ("x notin (b)", "a=b", true),
            ("n>3", "n=4", true),
            ("n>3", "n=x", false),
            ("n<3", "n=2", true),
            ("a=", "a=", true),
            ("a=b,c=d", "a=b", false),
            ("a in (,b)", "a=", true),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap();
            assert_eq!(parsed.matches(&labels(object)), expected, "{selector} on {object}");
        }
    }

    #[test]
    fn faults_carry_upstreams_texts() {
        for (selector, expected) in [
            ("a=b,", "found '', expected: identifier after ','"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: !=, <, =, ==, >, in, notin",
            ),
            ("=b", "found '=', expected: !, identifier, or 'end of string'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap_err().0, expected);
        }
    }

    #[test]
    fn field_terms_unescape_their_values() {
        let parsed = FieldSelector::parse("spec.nodeName=n\\,1,status.phase!=Running").unwrap();
        assert_eq!(parsed.exact("spec.nodeName"), Some("n,1"));
        assert!(parsed.matches_with(|f| if f == "spec.nodeName" { "n,1" } else { "Pending" }));
        assert_eq!(
            FieldSelector::parse("abc").unwrap_err().0,
            "invalid selector: 'abc'; can't understand 'abc'"
        );
    }

    proptest! {
        #[test]
        fn a_parsed_selector_prints_to_one_that_parses_equal(text in "[!a-c=<>(), ]{0,24}|a in \\(b,c\\),!d,e=f") {
            if let Ok(parsed) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&parsed.to_string()), Ok(parsed));
            }
        }

        #[test]
        fn any_text_parses_or_is_refused(text in ".{0,80}") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text);
        }
    }
}
