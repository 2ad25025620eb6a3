//! Reading resource quantities (`100m`, `64Mi`, `1.5`, `2e3`) as numbers.
//!
//! The agent only reads quantities that the API server has validated, and only needs whole units and thousandths:
//! cores as millicores, memory as bytes. Both round up, as upstream's `Value` and `MilliValue` do. Text that is no
//! quantity reads as zero.

use std::collections::BTreeMap;

use steersman_types::Quantity;

/// A `limits` or `requests` map.
pub type Resources = BTreeMap<String, Quantity>;

/// Thousandths, rounded up, saturating.
#[must_use]
pub fn milli(quantity: &Quantity) -> i64 {
    scaled(&quantity.0, 3)
}

/// Whole units, rounded up, saturating.
#[must_use]
pub fn value(quantity: &Quantity) -> i64 {
    scaled(&quantity.0, 0)
}

/// The named resource in thousandths, if it is there.
#[must_use]
pub fn milli_of(resources: Option<&Resources>, name: &str) -> Option<i64> {
    resources?.get(name).map(milli)
}

/// The named resource in whole units, if it is there.
#[must_use]
pub fn value_of(resources: Option<&Resources>, name: &str) -> Option<i64> {
    resources?.get(name).map(value)
}

/// `text` times 10^`digits`, rounded up.
fn scaled(text: &str, digits: i32) -> i64 {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (binary, decimal) = match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        other => match other.strip_prefix(['e', 'E']).map(str::parse::<i32>) {
            Some(Ok(exponent)) => (0, exponent.clamp(-18, 18)),
            _ => return 0,
        },
    };
    let negative = number.starts_with('-');
    let (whole, fraction) = number
        .trim_start_matches(['-', '+'])
        .split_once('.')
        .unwrap_or((number.trim_start_matches(['-', '+']), ""));
    // More than 20 digits saturate anyway; more than 12 fractional ones cannot matter after rounding up to thousandths.
    let fraction = &fraction[..fraction.len().min(12)];
    let Ok(mantissa) = format!("0{whole}{fraction}").parse::<i128>() else {
        return i64::MAX;
    };
    let power = decimal + digits - i32::try_from(fraction.len()).unwrap_or(0);
    let Some(mantissa) = mantissa.checked_mul(1_i128 << binary) else {
        return i64::MAX;
    };
    let ten = |n: i32| 10_i128.checked_pow(n.unsigned_abs()).unwrap_or(i128::MAX);
    let result = if power >= 0 {
        mantissa.saturating_mul(ten(power))
    } else {
        mantissa / ten(power) + i128::from(mantissa % ten(power) != 0)
    };
    let result = i64::try_from(result).unwrap_or(i64::MAX);
    if negative { -result } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_fractions_and_exponents_are_read_and_rounded_up() {
        for (text, thousandths, whole) in [
            ("1", 1000, 1),
            ("100m", 100, 1),
            ("1.5", 1500, 2),
            ("0.1", 100, 1),
            ("64Mi", 67_108_864_000, 67_108_864),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("2k", 2_000_000, 2000),
            ("2e3", 2_000_000, 2000),
            ("1n", 1, 1),
            ("-5", -5000, -5),
            ("0", 0, 0),
            ("nonsense", 0, 0),
            ("9Ei", i64::MAX, i64::MAX),
        ] {
            let quantity = Quantity(text.into());
            assert_eq!((milli(&quantity), value(&quantity)), (thousandths, whole), "{text}");
        }
    }
}
