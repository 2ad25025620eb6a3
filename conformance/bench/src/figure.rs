//! A measured number, and where numbers go: to the reader as lines, or to the side-by-side run as JSON.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Which direction is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

/// One number of one benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The benchmark's name, for instance `list`.
    pub bench: String,
    pub what: String,
    pub unit: String,
    pub value: f64,
    pub better: Better,
}

impl Figure {
    /// As one line of JSON.
    pub fn line(&self) -> String {
        let better = if self.better == Better::Higher {
            "higher"
        } else {
            "lower"
        };
        json!({"bench": self.bench, "what": self.what, "unit": self.unit, "value": self.value, "better": better})
            .to_string()
    }

    /// What [`Figure::line`] wrote.
    pub fn parse(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line)?;
        let text = |key: &str| {
            let text = value.get(key).and_then(Value::as_str).map(str::to_owned);
            text.with_context(|| format!("no {key} in {line}"))
        };
        Ok(Self {
            bench: text("bench")?,
            what: text("what")?,
            unit: text("unit")?,
            value: value.get("value").and_then(Value::as_f64).context("no value")?,
            better: if text("better")? == "higher" {
                Better::Higher
            } else {
                Better::Lower
            },
        })
    }
}

/// Takes a benchmark's figures as they come.
pub struct Report {
    bench: String,
    as_json: bool,
}

impl Report {
    /// `as_json`: one JSON object per line instead of text.
    pub fn new(bench: &str, as_json: bool) -> Self {
        if !as_json {
            println!("{bench}:");
        }
        Self {
            bench: bench.to_owned(),
            as_json,
        }
    }

    /// A figure that is better when it is lower.
    pub fn lower(&self, what: &str, unit: &str, value: f64) {
        self.add(what, unit, value, Better::Lower);
    }

    /// A figure that is better when it is higher.
    pub fn higher(&self, what: &str, unit: &str, value: f64) {
        self.add(what, unit, value, Better::Higher);
    }

    fn add(&self, what: &str, unit: &str, value: f64, better: Better) {
        if self.as_json {
            let figure = Figure {
                bench: self.bench.clone(),
                what: what.to_owned(),
                unit: unit.to_owned(),
                value,
                better,
            };
            println!("{}", figure.line());
        } else {
            println!("  {what:<52} {:>10} {unit}", short(value));
        }
    }

    /// What the reader should know about the figures, and what went wrong with one.
    pub fn note(&self, text: &str) {
        if self.as_json {
            eprintln!("  {}: {text}", self.bench);
        } else {
            println!("  {text}");
        }
    }
}

/// Three digits that count.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// The value that `percent` of the values do not exceed; 0 of none.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_survives_its_line() {
        let figure = Figure {
            bench: "b".into(),
            what: "a \"what\"".into(),
            unit: "ms".into(),
            value: 1.5,
            better: Better::Higher,
        };
        assert_eq!(Figure::parse(&figure.line()).unwrap(), figure);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            (median(&values), percentile(&values, 99), percentile(&values, 100)),
            (51.0, 100.0, 100.0)
        );
        assert_eq!(median(&[]), 0.0);
    }
}
