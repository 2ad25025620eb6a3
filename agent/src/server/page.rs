//! A page of figures in Prometheus' text format: families in order of their names, numbers as Go prints them.

use std::collections::BTreeMap;
use std::fmt::Write;

use steersman_types::jiff::Timestamp;

struct Family {
    help: &'static str,
    kind: &'static str,
    /// Labels as they are printed, and what follows them; in order.
    samples: Vec<(String, String)>,
}

/// See the module.
#[derive(Default)]
pub struct Page {
    families: BTreeMap<&'static str, Family>,
}

impl Page {
    /// Names a family. One without samples is not printed.
    pub fn family(&mut self, name: &'static str, help: &'static str, kind: &'static str) {
        let new = || Family {
            help,
            kind,
            samples: Vec::new(),
        };
        self.families.entry(name).or_insert_with(new);
    }

    /// Adds a sample to a named family; labels in order of their names.
    pub fn add(&mut self, name: &'static str, labels: &[(&str, &str)], value: f64, at: Option<Timestamp>) {
        self.add_part(name, "", labels, value, at);
    }

    /// One of the samples that make up a histogram: `_bucket`, `_sum`, `_count`.
    pub fn add_part(
        &mut self,
        name: &'static str,
        suffix: &str,
        labels: &[(&str, &str)],
        value: f64,
        at: Option<Timestamp>,
    ) {
        let Some(family) = self.families.get_mut(name) else {
            return;
        };
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escaped(v))).collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let at = at.map(|t| format!(" {}", t.as_millisecond())).unwrap_or_default();
        family
            .samples
            .push((format!("{suffix}{labels}"), format!("{}{at}", number(value))));
    }

    #[must_use]
    pub fn text(mut self) -> String {
        let mut out = String::new();
        for (name, family) in &mut self.families {
            if family.samples.is_empty() {
                continue;
            }
            if family.kind != "histogram" {
                family.samples.sort();
            }
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {}", family.help, family.kind);
            for (labels, value) in &family.samples {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        }
        out
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Go's shortest form (`g`): with an exponent below 1e-4 and from 1e6 on.
#[must_use]
pub fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let short = format!("{value:e}");
    let Some((mantissa, exponent)) = short.split_once('e') else {
        return short;
    };
    match exponent.parse::<i32>() {
        Ok(e) if !(-4..6).contains(&e) => {
            let sign = if e < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", e.abs())
        }
        _ => format!("{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_go_prints_them() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (1.5, "1.5"),
            (123_456.0, "123456"),
            (1_234_567.0, "1.234567e+06"),
            (0.000_01, "1e-05"),
            (100_000_000.0, "1e+08"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn families_and_samples_are_sorted_and_empty_ones_left_out() {
        let mut page = Page::default();
        page.family("b", "about b", "gauge");
        page.family("a", "about a", "counter");
        page.family("none", "nothing", "gauge");
        page.add("a", &[("x", "2")], 2.0, None);
        page.add("a", &[("x", "1\"")], 1.0, Timestamp::from_millisecond(5).ok());
        page.add("b", &[], 3.0, None);
        let expected = "# HELP a about a\n# TYPE a counter\na{x=\"1\\\"\"} 1 5\na{x=\"2\"} 2\n# HELP b about b\n# TYPE b gauge\nb 3\n";
        assert_eq!(page.text(), expected);
    }
}
