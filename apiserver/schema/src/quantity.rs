//! Resource quantities (`resource.Quantity`): exact decimal numbers with a suffix, such as `100m`, `1Gi` or `5e3`.
//!
//! Used by decoding (an object's quantities are stored in canonical form, as upstream does), validation, quota and the
//! scheduler. A quantity is held as an integer count of nano units, which covers the whole range that upstream keeps:
//! nothing finer than `1n` (rounded up, away from zero) and nothing larger than 2^63-1 (capped).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// Upstream caps a quantity at the largest int64, whatever its scale.
const MAX_NANOS: i128 = i64::MAX as i128 * NANO;

/// How a quantity is written: upstream keeps the family of suffixes that the author used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySI,
    /// `12M`
    DecimalSI,
}

/// Why a text is no quantity. Texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    FormatWrong,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An exact quantity. Equality, order and hash are by value: `1000m` equals `1`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::DecimalSI,
    };

    /// A whole number.
    #[must_use]
    pub fn from_value(value: i64, format: Format) -> Self {
        Self {
            nanos: i128::from(value) * NANO,
            format,
        }
    }

    /// A number of thousandths, as CPU is counted.
    #[must_use]
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self {
            nanos: i128::from(milli) * (NANO / 1000),
            format,
        }
    }

    /// # Errors
    /// When `text` is not a quantity; the error's text is upstream's.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (number, suffix) = split(text)?;
        let scale = Scale::of(suffix)?;
        let nanos = scale.nanos(number)?.clamp(-MAX_NANOS, MAX_NANOS);
        Ok(Self {
            nanos,
            format: scale.format(),
        })
    }

    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The value rounded up to a whole number (upstream: `Value`).
    #[must_use]
    pub fn value(&self) -> i64 {
        saturate(divide_up(self.nanos, NANO))
    }

    /// The value in thousandths, rounded up (upstream: `MilliValue`).
    #[must_use]
    pub fn milli_value(&self) -> i64 {
        saturate(divide_up(self.nanos, NANO / 1000))
    }

    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    #[must_use]
    pub fn sign(&self) -> i32 {
        match self.nanos.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }

    /// Whether the value has no fraction.
    #[must_use]
    pub fn is_integer(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// Whether the value is a whole number of thousandths.
    #[must_use]
    pub fn is_milli(&self) -> bool {
        self.nanos % (NANO / 1000) == 0
    }

    /// The sum, in the format of the larger operand's author: upstream takes the receiver's unless that is zero.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self {
            nanos: (self.nanos + other.nanos).clamp(-MAX_NANOS, MAX_NANOS),
            format,
        }
    }

    /// The difference, with the same choice of format as [`Self::plus`].
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.plus(&Self {
            nanos: -other.nanos,
            format: other.format,
        })
    }
}

/// The canonical text of a quantity: `0.5` becomes `500m`, `1024Mi` becomes `1Gi`.
///
/// # Errors
/// As [`Quantity::parse`].
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    Quantity::parse(text).map(|q| q.to_string())
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}
impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        match self.format {
            // Binary suffixes need whole numbers of at least 1Ki; anything else is shown in decimal, so that nothing is lost.
            Format::BinarySI if self.is_integer() && self.nanos.abs() >= 1024 * NANO => {
                let (number, power) = strip(self.nanos / NANO, 1024, BINARY.len() - 1);
                write!(f, "{number}{}", BINARY[power])
            }
            Format::DecimalExponent => {
                let (number, power) = strip(self.nanos, 1000, usize::MAX);
                match power as i64 * 3 - 9 {
                    0 => write!(f, "{number}"),
                    exponent => write!(f, "{number}e{exponent}"),
                }
            }
            Format::BinarySI | Format::DecimalSI => {
                let (number, power) = strip(self.nanos, 1000, DECIMAL.len() - 1);
                write!(f, "{number}{}", DECIMAL[power])
            }
        }
    }
}

/// Suffixes by power of 1000, starting at nano.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
/// Suffixes by power of 1024.
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Divides by `base` as often as it goes without a rest, at most `limit` times.
fn strip(mut number: i128, base: i128, limit: usize) -> (i128, usize) {
    let mut power = 0;
    while power < limit && number % base == 0 {
        number /= base;
        power += 1;
    }
    (number, power)
}

fn divide_up(number: i128, by: i128) -> i128 {
    let quotient = number / by;
    // Upstream rounds away from zero.
    if number % by == 0 {
        quotient
    } else {
        quotient + number.signum()
    }
}

fn saturate(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

/// Cuts a text into number and suffix, as the expression in [`QuantityError::FormatWrong`] does.
fn split(text: &str) -> Result<(&str, &str), QuantityError> {
    let bytes = text.as_bytes();
    let signed = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let mut points = 0;
    let digits = bytes
        .iter()
        .skip(signed)
        .take_while(|b| {
            points += usize::from(**b == b'.');
            b.is_ascii_digit() || (**b == b'.' && points == 1)
        })
        .count();
    if digits == 0 {
        return Err(QuantityError::FormatWrong);
    }
    let (number, suffix) = text.split_at(signed + digits);
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let rest = &suffix.as_bytes()[letters..];
    let rest = if matches!(rest.first(), Some(b'+' | b'-')) {
        &rest[1..]
    } else {
        rest
    };
    if rest.iter().all(u8::is_ascii_digit) {
        Ok((number, suffix))
    } else {
        Err(QuantityError::FormatWrong)
    }
}

/// What a suffix multiplies by.
enum Scale {
    /// Power of ten.
    Ten(i32, Format),
    /// Power of 1024.
    Kilo(u32),
}

impl Scale {
    fn of(suffix: &str) -> Result<Self, QuantityError> {
        if let Some(power) = DECIMAL.iter().position(|s| *s == suffix) {
            return Ok(Self::Ten(power as i32 * 3 - 9, Format::DecimalSI));
        }
        if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
            return Ok(Self::Kilo(power as u32));
        }
        let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
        exponent
            .parse()
            .map(|e| Self::Ten(e, Format::DecimalExponent))
            .map_err(|_| QuantityError::Suffix)
    }

    fn format(&self) -> Format {
        match self {
            Self::Ten(_, format) => *format,
            Self::Kilo(_) => Format::BinarySI,
        }
    }

    /// Nano units of `number` at this scale, rounded away from zero and bounded by [`MAX_NANOS`].
    fn nanos(&self, number: &str) -> Result<i128, QuantityError> {
        let (negative, digits) = match number.as_bytes().first() {
            Some(b'-') => (true, &number[1..]),
            Some(b'+') => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Numeric);
        }
        let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
        let (ten, kilo) = match self {
            Self::Ten(power, _) => (i64::from(*power), 0),
            Self::Kilo(power) => (0, *power),
        };
        let binary = 1024_i128.pow(kilo);
        // The value in nanos is digits x 10^shift x 1024^kilo.
        let shift = ten + 9 - i64::try_from(fraction.len()).unwrap_or(i64::MAX);
        let positive = scale(&digits, shift, binary);
        Ok(if negative { -positive } else { positive })
    }
}

/// `digits x 10^shift x factor`, rounded up, at most [`MAX_NANOS`]; never overflows, however long the input.
fn scale(digits: &[u8], shift: i64, factor: i128) -> i128 {
    // Digits below the nano stay behind the point: with a binary factor they still count, so multiply before cutting.
    let mut kept: i128 = 0;
    let mut consumed: i64 = 0;
    let mut rest = false;
    // 40 significant digits would overflow; whatever lies beyond 26 is below a nano or above the cap.
    for &digit in digits.iter().skip_while(|d| **d == 0) {
        if kept < 100_000_000_000_000_000_000_000_000 / factor.min(1024) {
            kept = kept * 10 + i128::from(digit);
        } else {
            consumed += 1;
            rest |= digit != 0;
        }
    }
    if kept == 0 {
        return 0;
    }
    let Some(mut product) = kept.checked_mul(factor) else {
        return MAX_NANOS;
    };
    let shift = shift.saturating_add(consumed);
    if shift >= 0 {
        for _ in 0..shift {
            product = product.saturating_mul(10);
            if product > MAX_NANOS {
                return MAX_NANOS;
            }
        }
    } else {
        for _ in 0..shift.unsigned_abs() {
            rest |= product % 10 != 0;
            product /= 10;
            if product == 0 {
                break;
            }
        }
        product += i128::from(rest);
    }
    product.min(MAX_NANOS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(input: &str, expected: &str) {
        assert_eq!(canonical(input).as_deref(), Ok(expected), "canonical form of {input}");
    }

    #[test]
    fn texts_become_canonical_as_upstream_writes_them() {
        for (input, expected) in [
            ("0", "0"),
            ("0n", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1Ki", "1Ki"),
            ("1000Ki", "1000Ki"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1e3", "1e3"),
            ("12E6", "12e6"),
            ("1E", "1E"),
            ("100e-2", "1"),
            ("0.0000001m", "1n"),
            ("-0.5", "-500m"),
            ("+3", "3"),
            ("1100000", "1100k"),
            ("1e1000", "9223372036854775807"),
            ("9223372036854775808", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("0.001Ki", "1024m"),
            ("1.1Ki", "1126400m"),
        ] {
            check(input, expected);
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_upstreams_texts() {
        for (input, expected) in [
            ("", QuantityError::FormatWrong),
            ("abc", QuantityError::FormatWrong),
            ("1 ", QuantityError::FormatWrong),
            ("1.2.3", QuantityError::FormatWrong),
            ("1kk", QuantityError::Suffix),
            ("1K", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            (".", QuantityError::Numeric),
            ("1mi", QuantityError::Suffix),
            ("--1", QuantityError::FormatWrong),
            ("1e99999999999", QuantityError::Suffix),
        ] {
            assert_eq!(Quantity::parse(input), Err(expected), "{input}");
        }
    }

    #[test]
    fn values_round_up() {
        let q = |s: &str| Quantity::parse(s).unwrap();
        assert_eq!(
            (q("1500m").value(), q("1500m").milli_value(), q("1n").milli_value()),
            (2, 1500, 1)
        );
        assert_eq!((q("-1500m").value(), q("1Gi").value()), (-2, 1 << 30));
        assert!(q("1000m") == q("1") && q("1Ki") > q("1k"));
        assert_eq!(q("1Gi").plus(&q("512Mi")).to_string(), "1536Mi");
        assert_eq!(q("2").minus(&q("500m")).to_string(), "1500m");
    }

    proptest! {
        #[test]
        fn canonical_form_is_stable_and_keeps_the_value(number in "[+-]?[0-9]{1,12}(\\.[0-9]{0,6})?", suffix in prop::sample::select(vec!["", "n", "u", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "E-2"])) {
            let first = Quantity::parse(&format!("{number}{suffix}")).unwrap();
            let second = Quantity::parse(&first.to_string()).unwrap();
            prop_assert_eq!(first, second);
            prop_assert_eq!(first.to_string(), second.to_string());
        }

        #[test]
        fn any_text_parses_or_is_refused(text in "[-+0-9.eEinumkKMGTP]{0,60}") {
            let _ = Quantity::parse(&text);
        }
    }
}
