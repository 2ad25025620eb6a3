//! Scalars with a form of their own: times, durations, base64, JSON strings. Pure text in, text out; errors are Go's.

use std::borrow::Cow;

use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use base64::{Engine, alphabet};

/// Seconds since 1970 and nanoseconds, from RFC 3339 text; upstream's error text otherwise.
///
/// # Errors
/// Go's `parsing time …` text.
pub fn parse_time(text: &str) -> Result<(i64, u32), String> {
    TimeText {
        whole: text,
        rest: text.as_bytes(),
        micro: false,
    }
    .parse()
}

/// The same for times that must have microseconds.
///
/// # Errors
/// Go's `parsing time …` text.
pub fn parse_micro_time(text: &str) -> Result<(i64, u32), String> {
    TimeText {
        whole: text,
        rest: text.as_bytes(),
        micro: true,
    }
    .parse()
}

struct TimeText<'a> {
    whole: &'a str,
    rest: &'a [u8],
    /// Whether exactly six digits of a fraction are needed.
    micro: bool,
}

/// Between quotes as Go's package of times does it: other bytes than ASCII's printable ones in hexadecimal.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

impl TimeText<'_> {
    fn cannot(&self, element: &str) -> String {
        let rest = String::from_utf8_lossy(self.rest);
        let fraction = if self.micro { ".000000" } else { "" };
        format!(
            "parsing time {} as \"2006-01-02T15:04:05{fraction}Z07:00\": cannot parse {} as {}",
            quoted(self.whole),
            quoted(&rest),
            quoted(element)
        )
    }

    fn number(&mut self, digits: usize, element: &str) -> Result<i64, String> {
        let Some(head) = self.rest.get(..digits).filter(|h| h.iter().all(u8::is_ascii_digit)) else {
            return Err(self.cannot(element));
        };
        let n = head.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0'));
        self.rest = &self.rest[digits..];
        Ok(n)
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        if self.rest.first() != Some(&byte) {
            return Err(self.cannot(&char::from(byte).to_string()));
        }
        self.rest = &self.rest[1..];
        Ok(())
    }

    fn parse(mut self) -> Result<(i64, u32), String> {
        let year = self.number(4, "2006")?;
        self.expect(b'-')?;
        let month = self.number(2, "01")?;
        self.expect(b'-')?;
        let day = self.number(2, "02")?;
        self.expect(b'T')?;
        let hour = self.number(2, "15")?;
        self.expect(b':')?;
        let minute = self.number(2, "04")?;
        self.expect(b':')?;
        let second = self.number(2, "05")?;
        let range = |what: &str| Err(format!("parsing time {:?}: {what} out of range", self.whole));
        if !(1..=12).contains(&month) {
            return range("month");
        }
        if day < 1 || day > days_in(year, month) {
            return range("day");
        }
        for (n, limit, what) in [(hour, 23, "hour"), (minute, 59, "minute"), (second, 59, "second")] {
            if n > limit {
                return range(what);
            }
        }
        let mut nanos = 0;
        if self.micro {
            let six = |r: &[u8]| r.len() >= 7 && matches!(r[0], b'.' | b',') && r[1..7].iter().all(u8::is_ascii_digit);
            if !six(self.rest) {
                return Err(self.cannot(".000000"));
            }
            self.rest = &self.rest[1..];
            nanos = u32::try_from(self.number(6, ".000000")?).unwrap_or_default() * 1000;
        } else if matches!(self.rest.first(), Some(b'.' | b',')) && self.rest.get(1).is_some_and(u8::is_ascii_digit) {
            let digits = self.rest[1..].iter().take_while(|b| b.is_ascii_digit()).count();
            let mut scale = 100_000_000;
            for d in &self.rest[1..=digits] {
                nanos += u32::from(d - b'0') * scale;
                scale /= 10;
            }
            self.rest = &self.rest[digits + 1..];
        }
        let offset = self.offset()?;
        if !self.rest.is_empty() {
            let rest = String::from_utf8_lossy(self.rest);
            return Err(format!("parsing time {:?}: extra text: {rest:?}", self.whole));
        }
        Ok((
            days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset,
            nanos,
        ))
    }

    /// Seconds east of Greenwich.
    fn offset(&mut self) -> Result<i64, String> {
        match self.rest {
            [b'Z', rest @ ..] => {
                self.rest = rest;
                Ok(0)
            }
            [sign @ (b'+' | b'-'), a, b, b':', c, d, rest @ ..] if [a, b, c, d].iter().all(|x| x.is_ascii_digit()) => {
                let two = |x: u8, y: u8| i64::from(x - b'0') * 10 + i64::from(y - b'0');
                let (hours, minutes) = (two(*a, *b), two(*c, *d));
                if hours > 24 {
                    return Err(format!(
                        "parsing time {:?}: time zone offset hour out of range",
                        self.whole
                    ));
                }
                if minutes > 60 {
                    return Err(format!(
                        "parsing time {:?}: time zone offset minute out of range",
                        self.whole
                    ));
                }
                let seconds = hours * 3600 + minutes * 60;
                let east = *sign == b'+';
                self.rest = rest;
                Ok(if east { seconds } else { -seconds })
            }
            _ => Err(self.cannot("Z07:00")),
        }
    }
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, counted in eras of 400 years starting on 1 March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// Go's zero time, 0001-01-01T00:00:00Z, which prints as `null`.
pub(super) const ZERO_TIME: i64 = -62_135_596_800;
/// First and last second that four digits of a year can say. Go refuses to print others.
const YEARS: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// RFC 3339 in UTC, whole seconds: what `metav1.Time` prints. Out of range seconds are clamped to years 0 to 9999.
#[must_use]
pub fn format_time(seconds: i64) -> String {
    let seconds = seconds.clamp(*YEARS.start(), *YEARS.end());
    let (year, month, day) = civil_from_days(seconds.div_euclid(86400));
    let rest = seconds.rem_euclid(86400);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    // By hand: this is in the hot path of lists, and formatting machinery costs ten times as much.
    let mut out = String::with_capacity(20);
    two(&mut out, year / 100);
    two(&mut out, year % 100);
    for (mark, n) in [('-', month), ('-', day), ('T', hour), (':', minute), (':', second)] {
        out.push(mark);
        two(&mut out, n);
    }
    out.push('Z');
    out
}

fn two(out: &mut String, n: i64) {
    for digit in [n / 10, n % 10] {
        out.push(char::from(b'0' + u8::try_from(digit.rem_euclid(10)).unwrap_or(0)));
    }
}

/// RFC 3339 in UTC with six decimals: what `metav1.MicroTime` prints.
#[must_use]
pub fn format_micro_time(seconds: i64, nanos: u32) -> String {
    let mut text = format_time(seconds);
    text.pop();
    text.push_str(&format!(".{:06}Z", nanos.min(999_999_999) / 1000));
    text
}

/// Nanoseconds, from Go's form of a duration: `1h2m3.5s`.
///
/// # Errors
/// Go's `time: …` text.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if rest == b"0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let mut value: i128 = 0;
        for d in &rest[..whole] {
            value = value.saturating_mul(10).saturating_add(i128::from(d - b'0'));
        }
        rest = &rest[whole..];
        let (mut fraction, mut scale, mut decimals) = (0i128, 1i128, 0);
        if let [b'.', after @ ..] = rest {
            decimals = after.iter().take_while(|b| b.is_ascii_digit()).count();
            for d in after[..decimals].iter().take(18) {
                fraction = fraction * 10 + i128::from(d - b'0');
                scale *= 10;
            }
            rest = &after[decimals..];
        }
        if whole == 0 && decimals == 0 {
            return Err(invalid());
        }
        let length = rest.iter().take_while(|b| !b.is_ascii_digit() && **b != b'.').count();
        let (unit, after) = rest.split_at(length);
        let unit = match std::str::from_utf8(unit).unwrap_or_default() {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
        };
        total = total
            .saturating_add(value.saturating_mul(unit))
            .saturating_add(fraction * unit / scale);
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// Go's form of a duration: `1h2m3.5s`.
#[must_use]
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let total = nanos.unsigned_abs();
    let decimals = |whole: u64, fraction: u64, width: usize, unit: &str| {
        let digits = format!("{fraction:0width$}");
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() {
            format!("{whole}{unit}")
        } else {
            format!("{whole}.{digits}{unit}")
        }
    };
    let text = match total {
        0 => return "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => decimals(total / 1_000, total % 1_000, 3, "µs"),
        1_000_000..1_000_000_000 => decimals(total / 1_000_000, total % 1_000_000, 6, "ms"),
        _ => {
            let seconds = total / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = decimals(seconds % 60, total % 1_000_000_000, 9, "s");
            match (hours, minutes) {
                (0, 0) => rest,
                (0, m) => format!("{m}m{rest}"),
                (h, m) => format!("{h}h{m}m{rest}"),
            }
        }
    };
    format!("{sign}{text}")
}

/// Go's standard decoding does not look at the bits that padding leaves over.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Bytes from base64 text; Go ignores line breaks in it. The error is Go's.
pub(super) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    let plain = if text.contains(['\r', '\n']) {
        text.replace(['\r', '\n'], "").into()
    } else {
        Cow::Borrowed(text)
    };
    LENIENT
        .decode(plain.as_ref())
        .map_err(|_| format!("illegal base64 data at input byte {}", corrupt_at(text.as_bytes())))
}

/// Where Go's decoder finds the fault in text that is not base64: it reads four characters at a time.
fn corrupt_at(text: &[u8]) -> usize {
    let mut at = 0;
    let skip = |at: &mut usize| {
        while matches!(text.get(*at), Some(b'\r' | b'\n')) {
            *at += 1;
        }
    };
    loop {
        for j in 0..4 {
            skip(&mut at);
            let Some(byte) = text.get(at) else {
                return at.saturating_sub(j);
            };
            at += 1;
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => {}
                b'=' if j == 2 => {
                    skip(&mut at);
                    return match text.get(at) {
                        None => text.len(),
                        Some(b'=') => at + 1,
                        Some(_) => at - 1,
                    };
                }
                b'=' if j == 3 => return at,
                _ => return at - 1,
            }
        }
    }
}

/// Base64 text as upstream prints it again.
pub(crate) fn canonical_base64(text: String) -> Result<String, String> {
    let bytes = decode_base64(&text)?;
    // Nearly always the same text; only then was nothing lost.
    Ok(if STANDARD.decode(&text).is_ok() {
        text
    } else {
        encode_base64(&bytes)
    })
}

pub(super) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
