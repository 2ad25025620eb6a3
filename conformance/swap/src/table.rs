//! The table in `conformance/README.md`. Pure.

use std::fmt::Write;

use crate::cells::Cell;
use crate::record::Record;

/// The section stands between these lines; nothing outside them is touched.
const BEGIN: &str = "<!-- swap:begin -->";
const END: &str = "<!-- swap:end -->";

/// The section's text for what is known of each cell.
#[must_use]
pub fn section(records: &[(Cell, Option<Record>)], notes: &[String]) -> String {
    let mut text = String::from(
        "| cell | verdict | passed | failed | cluster up | whole | suites | date, commit |\n|---|---|---|---|---|---|---|---|\n",
    );
    for (cell, record) in records {
        let row = match record {
            None => format!("| {cell} | not run | | | | | | |"),
            Some(r) => format!(
                "| {cell} | {} | {} | {} | {} | {:.0} s | {} | {}, {} |",
                if r.green() { "green" } else { "**red**" },
                r.passed,
                r.failed.len(),
                r.up_seconds.map_or_else(|| "-".to_owned(), |s| format!("{s:.1} s")),
                r.seconds,
                suites(r, *cell),
                r.date,
                r.commit,
            ),
        };
        text.push_str(&row);
        text.push('\n');
    }
    let green = records
        .iter()
        .filter(|(_, r)| r.as_ref().is_some_and(Record::green))
        .count();
    // Writing to a String cannot fail.
    let _ = write!(text, "\n{green} of {} cells are green.\n", records.len());
    for note in notes {
        let _ = write!(text, "\n{note}.\n");
    }
    let told = records.iter().filter_map(|(_, r)| r.as_ref());
    for record in told.filter(|r| !r.failed.is_empty() || !r.notes.is_empty()) {
        let _ = write!(text, "\n{}:\n\n", record.cell);
        for line in &record.failed {
            let _ = writeln!(text, "- failed: {}", one_line(line));
        }
        for line in &record.notes {
            let _ = writeln!(text, "- {}", one_line(line));
        }
    }
    text
}

/// The suites that a record's fingerprint names; a hand-over runs none.
fn suites(record: &Record, cell: Cell) -> &str {
    match cell {
        Cell::HandOver { .. } => "-",
        _ => record.fingerprint.split(' ').nth(1).unwrap_or("-"),
    }
}

/// A readable length, and nothing that Markdown would take for its own.
fn one_line(text: &str) -> String {
    let flat: Vec<&str> = text.split_whitespace().collect();
    let flat = flat.join(" ").replace('|', "\\|").replace('<', "&lt;");
    let cut: String = flat.chars().take(400).collect();
    if cut.len() < flat.len() { cut + " …" } else { cut }
}

/// The README with its section replaced, or appended if it has none.
#[must_use]
pub fn replaced(readme: &str, section: &str) -> String {
    let block = format!("{BEGIN}\n{section}{END}");
    match (readme.find(BEGIN), readme.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            let (before, after) = (readme.get(..begin), readme.get(end + END.len()..));
            format!("{}{block}{}", before.unwrap_or_default(), after.unwrap_or_default())
        }
        _ => format!("{}\n\n## Component swap\n\n{block}\n", readme.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(failed: &[&str]) -> Record {
        Record {
            cell: "two-api-servers".into(),
            fingerprint: "0 dns_".into(),
            date: "2026-01-01".into(),
            commit: "abc".into(),
            seconds: 12.0,
            up_seconds: Some(3.0),
            passed: 4,
            failed: failed.iter().map(|f| (*f).to_owned()).collect(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_cell_is_green_only_when_something_passed_and_nothing_failed() {
        assert!(record(&[]).green());
        assert!(!record(&["x"]).green());
        assert!(
            !Record {
                passed: 0,
                ..record(&[])
            }
            .green()
        );
    }

    #[test]
    fn what_failed_is_named_and_cells_without_a_run_say_so() {
        let text = section(&[(Cell::TwoServers, Some(record(&["a | b\nc"])))], &[]);
        assert!(
            text.contains("| two-api-servers | **red** | 4 | 1 | 3.0 s | 12 s | dns_ | 2026-01-01, abc |"),
            "{text}"
        );
        assert!(text.contains("- failed: a \\| b c"), "{text}");
        assert!(section(&[(Cell::TwoServers, None)], &[]).contains("| two-api-servers | not run |"));
    }

    #[test]
    fn only_the_section_is_replaced_and_replacing_twice_changes_nothing() {
        let once = replaced("# Title\n\ntext\n", "one\n");
        assert!(once.starts_with("# Title\n\ntext\n\n## Component swap\n\n"), "{once}");
        let twice = replaced(&format!("{once}tail\n"), "two\n");
        assert!(
            twice.contains("two\n") && !twice.contains("one\n") && twice.ends_with("\ntail\n"),
            "{twice}"
        );
        assert_eq!(replaced(&twice, "two\n"), twice);
    }
}
