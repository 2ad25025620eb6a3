//! How flag values are written: Go's durations, port ranges, `key=bool` maps, and clap's complaints in one line.

use std::collections::BTreeMap;
use std::time::Duration;

/// A duration in Go's notation (`1m30s`, `300ms`, `0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl std::str::FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("time: invalid duration {text:?}");
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut rest = text;
        let mut total = 0.0_f64;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let unit_end = tail
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let seconds = match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
            total += number.parse::<f64>().map_err(|_| wrong())? * seconds;
            rest = tail;
        }
        Duration::try_from_secs_f64(total).map(Self).map_err(|_| wrong())
    }
}

/// An inclusive range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

pub(super) fn port_range(text: &str) -> Result<PortRange, String> {
    let wrong = || format!("invalid port range {text:?}: write first-last or first+size");
    let number = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
    let range = if let Some((first, last)) = text.split_once('-') {
        PortRange {
            first: number(first)?,
            last: number(last)?,
        }
    } else if let Some((first, more)) = text.split_once('+') {
        let first = number(first)?;
        PortRange {
            first,
            last: first.checked_add(number(more)?).ok_or_else(wrong)?,
        }
    } else {
        let only = number(text)?;
        PortRange {
            first: only,
            last: only,
        }
    };
    if range.first == 0 || range.last < range.first {
        Err(wrong())
    } else {
        Ok(range)
    }
}

pub(super) fn bool_map(text: &str) -> Result<BTreeMap<String, bool>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (key, value) = entry.split_once('=').unwrap_or((entry, "true"));
            let value = match value.trim() {
                "true" | "1" | "t" | "T" | "TRUE" | "True" => true,
                "false" | "0" | "f" | "F" | "FALSE" | "False" => false,
                other => return Err(format!("invalid value of {key}: {other}, must be true or false")),
            };
            Ok((key.trim().to_owned(), value))
        })
        .collect()
}

pub(super) fn no_plus(text: &str) -> Result<i32, String> {
    text.parse().map_err(|_| "must be a whole number".to_owned())
}

/// clap's complaint without its usage text, worded as upstream words unknown flags.
pub(super) fn one_line(error: &clap::Error) -> String {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.split(' ').next().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let flag = context(ContextKind::InvalidArg);
            let flag = flag.split('=').next().unwrap_or_default();
            if flag.starts_with('-') {
                format!("unknown flag: {flag}")
            } else {
                format!("unknown argument: {flag}: kube-apiserver takes flags only")
            }
        }
        _ => {
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let lines = text
                .lines()
                .map(str::trim)
                .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
            lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let cases = [
            ("1h0m0s", Some(3600.0)),
            ("5m", Some(300.0)),
            ("1.5s", Some(1.5)),
            ("0", Some(0.0)),
            ("5", None),
            ("", None),
            ("s", None),
            ("1d", None),
            ("-1s", None),
        ];
        for (text, seconds) in cases {
            let got = text.parse::<GoDuration>().ok().map(|d| d.0.as_secs_f64());
            assert_eq!(got, seconds, "{text}");
        }
    }

    #[test]
    fn port_ranges_have_three_notations() {
        assert_eq!(
            port_range("30000-32767"),
            Ok(PortRange {
                first: 30000,
                last: 32767
            })
        );
        assert_eq!(port_range("100+9"), Ok(PortRange { first: 100, last: 109 }));
        assert_eq!(port_range("80"), Ok(PortRange { first: 80, last: 80 }));
        assert!(port_range("9-1").is_err() && port_range("a-b").is_err() && port_range("65535+1").is_err());
    }
}
