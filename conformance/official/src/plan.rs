//! Which tests are to run, and in which order. Pure.

use std::collections::HashSet;

use anyhow::{Context, Result};
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::catalogue::Catalogue;
use crate::ginkgo::SUITE;

/// A test as the binary numbers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    pub name: String,
    /// Number by which a process of the parallel part is told to run it; meaningless for a serial one.
    pub index: usize,
    /// Whether it must run alone.
    pub serial: bool,
}

/// The two parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Parallel,
    Serial,
}

/// What the user asked for. Empty lists mean everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// `apps`, or `apps/job`.
    #[serde(default)]
    pub areas: Vec<String>,
    /// Regular expressions; one of them must match the name.
    #[serde(default)]
    pub names: Vec<String>,
    #[serde(default)]
    pub part: Option<Part>,
    /// Exactly these (for `--failed`).
    #[serde(default)]
    pub only: Option<Vec<String>>,
}

impl Selection {
    #[must_use]
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// Those of `all` that were asked for.
    ///
    /// # Errors
    /// When a name is no regular expression, or an area has no test.
    pub fn apply(&self, all: &[Test], catalogue: &Catalogue) -> Result<Vec<Test>> {
        let names = self
            .names
            .iter()
            .map(|name| Regex::new(name).with_context(|| format!("--name {name:?}")))
            .collect::<Result<Vec<_>>>()?;
        let within = |area: &str, wanted: &str| {
            area.strip_prefix(wanted)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        for wanted in &self.areas {
            anyhow::ensure!(
                all.iter().any(|test| within(catalogue.area(&test.name), wanted)),
                "no test in an area {wanted:?}; see `official list`"
            );
        }
        let only: Option<HashSet<&str>> = self.only.as_ref().map(|list| list.iter().map(String::as_str).collect());
        let chosen = |test: &&Test| {
            let area = catalogue.area(&test.name);
            (self.areas.is_empty() || self.areas.iter().any(|wanted| within(area, wanted)))
                && (names.is_empty() || names.iter().any(|name| name.is_match(&test.name)))
                && self.part.is_none_or(|part| (part == Part::Serial) == test.serial)
                && only.as_ref().is_none_or(|only| only.contains(test.name.as_str()))
        };
        Ok(all.iter().filter(chosen).cloned().collect())
    }
}

/// The tests of a part that have no verdict yet: of the parallel part the longest first, so that none of them is still
/// running alone at the end; of the serial part in the order in which the binary runs them.
#[must_use]
pub fn remaining(tests: &[Test], done: &HashSet<String>, part: Part, catalogue: &Catalogue) -> Vec<Test> {
    let mut left: Vec<Test> = tests
        .iter()
        .filter(|test| test.serial == (part == Part::Serial) && !done.contains(&test.name))
        .cloned()
        .collect();
    if part == Part::Parallel {
        left.sort_by(|a, b| catalogue.seconds(&b.name).total_cmp(&catalogue.seconds(&a.name)));
    }
    left
}

/// An expression for `--ginkgo.focus` that matches exactly these tests.
#[must_use]
pub fn focus(tests: &[Test]) -> String {
    let names: Vec<String> = tests.iter().map(|test| regex::escape(&test.name)).collect();
    format!("^{SUITE} (?:{})$", names.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str, serial: bool) -> Test {
        Test {
            name: name.to_owned(),
            index: 0,
            serial,
        }
    }

    /// Two real names per kind, so that areas are known.
    fn all() -> Vec<Test> {
        vec![
            test(
                "[sig-apps] CronJob should not schedule jobs when suspended [Slow] [Conformance]",
                false,
            ),
            test(
                "[sig-apps] CronJob should support CronJob API operations [Conformance]",
                false,
            ),
            test(
                "[sig-node] RuntimeClass should support RuntimeClasses API operations [Conformance]",
                false,
            ),
            test(
                "[sig-apps] Daemon set [Serial] should run and stop simple daemon [Conformance]",
                true,
            ),
        ]
    }

    fn names(tests: &[Test]) -> Vec<&str> {
        tests
            .iter()
            .map(|test| test.name.split(' ').nth(1).unwrap_or_default())
            .collect()
    }

    #[test]
    fn areas_names_and_parts_narrow_the_selection() {
        let catalogue = Catalogue::upstream();
        let select = |selection: Selection| selection.apply(&all(), &catalogue).map(|tests| tests.len());
        assert_eq!(select(Selection::default()).unwrap(), 4);
        let areas = |area: &str| Selection {
            areas: vec![area.to_owned()],
            ..Selection::default()
        };
        assert_eq!(select(areas("apps")).unwrap(), 3);
        assert_eq!(select(areas("apps/cronjob")).unwrap(), 2);
        assert!(select(areas("app")).is_err(), "a part of a word is no area");
        let named = Selection {
            names: vec!["API operations".to_owned()],
            ..Selection::default()
        };
        assert_eq!(select(named).unwrap(), 2);
        let serial = Selection {
            part: Some(Part::Serial),
            ..Selection::default()
        };
        assert_eq!(select(serial).unwrap(), 1);
        let only = Selection {
            only: Some(vec![all()[2].name.clone()]),
            ..Selection::default()
        };
        assert_eq!(select(only).unwrap(), 1);
        let wrong = Selection {
            names: vec!["(".to_owned()],
            ..Selection::default()
        };
        assert!(select(wrong).is_err());
    }

    #[test]
    fn what_has_a_verdict_does_not_run_again_and_the_longest_test_starts_first() {
        let catalogue = Catalogue::upstream();
        let mut tests = all();
        tests.swap(0, 2);
        let done = HashSet::from([tests[1].name.clone()]);
        assert_eq!(
            names(&remaining(&tests, &done, Part::Parallel, &catalogue)),
            ["CronJob", "RuntimeClass"]
        );
        assert_eq!(names(&remaining(&tests, &done, Part::Serial, &catalogue)), ["Daemon"]);
    }

    #[test]
    fn a_focus_matches_its_tests_and_no_other() {
        let tests = all();
        let expression = Regex::new(&focus(&tests[..2])).unwrap();
        let matching = |name: &str| expression.is_match(&format!("{SUITE} {name}"));
        assert!(matching(&tests[0].name) && matching(&tests[1].name));
        assert!(!matching(&tests[2].name) && !matching(&tests[3].name));
        assert!(!matching(&format!("{} twice", tests[0].name)));
    }
}
