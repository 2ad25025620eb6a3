//! Tables: per area what passed, failed and was not run, beside the run before and upstream's own score. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::catalogue::{Catalogue, OTHER};
use crate::verdict::{Outcome, Verdict};

/// Verdicts by test name.
pub type Verdicts = BTreeMap<String, Verdict>;

/// One row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub area: String,
    pub tests: usize,
    pub passed: usize,
    pub failed: usize,
    /// Without a verdict, or skipped by the test itself.
    pub not_run: usize,
    pub seconds: f64,
    /// How many of the same tests passed before, and how many had a verdict.
    pub before: (usize, usize),
    pub upstream: (usize, f64),
}

/// Rows of the areas of `names`, and their total as the last one.
#[must_use]
pub fn rows<'a>(
    names: impl Iterator<Item = &'a str>,
    now: &Verdicts,
    before: &Verdicts,
    catalogue: &Catalogue,
) -> Vec<Row> {
    let mut areas: BTreeMap<&str, Row> = BTreeMap::new();
    let mut total = Row {
        area: "total".to_owned(),
        ..Row::default()
    };
    for name in names {
        let area = catalogue.area(name);
        let row = areas.entry(area).or_insert_with(|| Row {
            area: area.to_owned(),
            ..Row::default()
        });
        for row in [row, &mut total] {
            row.tests += 1;
            match now.get(name).map(|verdict| verdict.outcome) {
                Some(Outcome::Passed) => row.passed += 1,
                Some(Outcome::Failed) => row.failed += 1,
                Some(Outcome::Skipped) | None => row.not_run += 1,
            }
            row.seconds += now.get(name).map_or(0.0, |verdict| verdict.seconds);
            if let Some(old) = before.get(name) {
                row.before.0 += usize::from(old.outcome == Outcome::Passed);
                row.before.1 += 1;
            }
            if let Some(known) = catalogue.get(name) {
                row.upstream.0 += usize::from(known.passed);
                row.upstream.1 += known.seconds;
            }
        }
    }
    let other = areas.remove(OTHER);
    areas.into_values().chain(other).chain([total]).collect()
}

fn before(row: &Row) -> String {
    match row.before {
        (_, 0) => "-".to_owned(),
        (passed, known) if known == row.tests => passed.to_string(),
        (passed, known) => format!("{passed} of {known}"),
    }
}

const TITLES: [&str; 9] = [
    "area",
    "tests",
    "passed",
    "failed",
    "not run",
    "seconds",
    "passed before",
    "upstream",
    "upstream's seconds",
];

fn cells(row: &Row) -> [String; 9] {
    [
        row.area.clone(),
        row.tests.to_string(),
        row.passed.to_string(),
        row.failed.to_string(),
        row.not_run.to_string(),
        format!("{:.0}", row.seconds),
        before(row),
        row.upstream.0.to_string(),
        format!("{:.0}", row.upstream.1),
    ]
}

/// The table for a terminal.
#[must_use]
pub fn plain(rows: &[Row]) -> String {
    let lines: Vec<[String; 9]> = std::iter::once(TITLES.map(str::to_owned))
        .chain(rows.iter().map(cells))
        .collect();
    let mut text = String::new();
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            let width = lines
                .iter()
                .map(|other| other[column].chars().count())
                .max()
                .unwrap_or_default();
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

/// The table for a README.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut text = format!(
        "| {} |\n|---|{}\n",
        TITLES.join(" | "),
        "---:|".repeat(TITLES.len() - 1)
    );
    for row in rows {
        let mut cells = cells(row);
        if row.area == "total" {
            cells = cells.map(|cell| format!("**{cell}**"));
        }
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// Names of tests that pass now and did not before, and of those that passed before and do not now.
#[must_use]
pub fn changes<'a>(now: &'a Verdicts, before: &Verdicts) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut better, mut worse) = (Vec::new(), Vec::new());
    for (name, verdict) in now {
        let Some(old) = before.get(name) else { continue };
        match (old.outcome == Outcome::Passed, verdict.outcome == Outcome::Passed) {
            (false, true) => better.push(name.as_str()),
            (true, false) => worse.push(name.as_str()),
            _ => {}
        }
    }
    (better, worse)
}

/// Seconds as a person says them.
#[must_use]
pub fn duration(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "[sig-apps] CronJob should support CronJob API operations [Conformance]";
    const CLASS: &str = "[sig-node] RuntimeClass should support RuntimeClasses API operations [Conformance]";

    fn verdicts(list: &[(&str, Outcome)]) -> Verdicts {
        list.iter()
            .map(|(name, outcome)| {
                let verdict = Verdict {
                    name: (*name).to_owned(),
                    outcome: *outcome,
                    seconds: 2.0,
                    ended: 0,
                    reason: String::new(),
                    log: String::new(),
                };
                ((*name).to_owned(), verdict)
            })
            .collect()
    }

    #[test]
    fn every_test_is_counted_once_in_its_area_and_in_the_total() {
        let now = verdicts(&[(JOB, Outcome::Passed), (CLASS, Outcome::Failed)]);
        let old = verdicts(&[(CLASS, Outcome::Passed)]);
        let rows = rows([JOB, CLASS, "unknown"].into_iter(), &now, &old, &Catalogue::upstream());
        let short: Vec<_> = rows
            .iter()
            .map(|row| (row.area.as_str(), row.tests, row.passed, row.failed, row.not_run))
            .collect();
        assert_eq!(
            short,
            [
                ("apps/cronjob", 1, 1, 0, 0),
                ("node/runtimeclass", 1, 0, 1, 0),
                (OTHER, 1, 0, 0, 1),
                ("total", 3, 1, 1, 1)
            ]
        );
        assert_eq!(rows[3].before, (1, 1));
        assert_eq!(rows[3].upstream.0, 2);
        assert_eq!(changes(&now, &old), (vec![], vec![CLASS]));
    }

    #[test]
    fn a_test_that_skipped_itself_is_not_run() {
        let now = verdicts(&[(JOB, Outcome::Skipped)]);
        let rows = rows([JOB].into_iter(), &now, &Verdicts::new(), &Catalogue::upstream());
        assert_eq!((rows[0].passed, rows[0].not_run), (0, 1));
    }

    #[test]
    fn tables_have_a_line_per_row() {
        let rows = rows(
            [JOB].into_iter(),
            &Verdicts::new(),
            &Verdicts::new(),
            &Catalogue::upstream(),
        );
        assert_eq!(plain(&rows).lines().count(), 3);
        let table = markdown(&rows);
        assert_eq!(table.lines().count(), 4);
        let bars = |line: &str| line.matches('|').count();
        assert!(table.lines().all(|line| bars(line) == 10), "{table}");
    }

    #[test]
    fn durations_are_readable() {
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(1188), "19 min 48 s");
        assert_eq!(duration(7322), "2 h 2 min");
    }
}
