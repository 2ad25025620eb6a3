//! The scoreboard in `conformance/README.md`: our section of the file, between two marks, and nothing outside it.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use crate::catalogue::Catalogue;
use crate::folder::{About, Results};
use crate::table::{self, Verdicts};
use crate::verdict::Outcome;

const BEGIN: &str = "<!-- official:begin -->";
const END: &str = "<!-- official:end -->";

/// The file with another text between the marks.
///
/// # Errors
/// When the marks are missing.
pub fn replace(file: &str, section: &str) -> Result<String> {
    let marks = || format!("the file lacks the marks {BEGIN} and {END}");
    let (head, rest) = file.split_once(BEGIN).with_context(marks)?;
    let (_, tail) = rest.split_once(END).with_context(marks)?;
    Ok(format!("{head}{BEGIN}\n{section}{END}{tail}"))
}

/// The scoreboard of a run.
#[must_use]
pub fn scoreboard(
    names: &[String],
    about: &About,
    results: &Results,
    before: &Verdicts,
    catalogue: &Catalogue,
) -> String {
    let now = &results.verdicts;
    let rows = table::rows(names.iter().map(String::as_str), now, before, catalogue);
    let day = jiff::Timestamp::from_second(about.begun)
        .map_or_else(|_| String::new(), |at| at.strftime("%Y-%m-%d").to_string());
    let total = rows.last().cloned().unwrap_or_default();
    let mut text = format!(
        "Run of {day} at commit {}, server {}: **{} of {} passed**, {} failed, {} not run. Parallel part {} with {} processes, \
         [Serial] part {}.\n\n",
        about.commit,
        about.server,
        total.passed,
        total.tests,
        total.failed,
        total.not_run,
        table::duration(results.parallel),
        about.procs,
        table::duration(results.serial)
    );
    text.push_str(&table::markdown(&rows));
    let bad: Vec<_> = now
        .values()
        .filter(|verdict| verdict.outcome != Outcome::Passed)
        .collect();
    if !bad.is_empty() {
        text.push_str("\nNot passed:\n\n| area | test | reason |\n|---|---|---|\n");
        for verdict in bad {
            let skipped = if verdict.outcome == Outcome::Skipped {
                "skipped itself: "
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "| {} | {} | {skipped}{} |",
                catalogue.area(&verdict.name),
                cell(&verdict.name),
                cell(&verdict.reason)
            );
        }
    }
    let _ = writeln!(
        text,
        "\n<details><summary>The verdict of each of the {} tests</summary>\n",
        names.len()
    );
    text.push_str("| area | test | verdict | seconds |\n|---|---|---|---:|\n");
    let mut sorted: Vec<(&str, &String)> = names.iter().map(|name| (catalogue.area(name), name)).collect();
    sorted.sort();
    for (area, name) in sorted {
        let (outcome, seconds) = now.get(name).map_or(("not run".to_owned(), String::new()), |v| {
            (v.outcome.to_string(), format!("{:.1}", v.seconds))
        });
        let _ = writeln!(text, "| {area} | {} | {outcome} | {seconds} |", cell(name));
    }
    text.push_str("\n</details>\n");
    text
}

/// Text for a cell of a table, shown as it is.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' | '*' | '_' | '`' | '\\' | '[' | ']' | '~' => {
                out.push('\\');
                out.push(character);
            }
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            control if control.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Selection;
    use crate::verdict::Verdict;

    #[test]
    fn only_what_stands_between_the_marks_changes() {
        let file = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replace(&file, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replace(&new, "new\n").unwrap(), new);
        assert!(replace("no marks", "x").is_err());
    }

    #[test]
    fn the_scoreboard_has_a_verdict_for_each_test_and_names_the_failures() {
        let names: Vec<String> = ["a | b", "c"].map(str::to_owned).to_vec();
        let failed = Verdict {
            name: names[0].clone(),
            outcome: Outcome::Failed,
            seconds: 1.0,
            ended: 0,
            reason: "Expected <int>: 1".to_owned(),
            log: String::new(),
        };
        let results = Results {
            verdicts: Verdicts::from([(names[0].clone(), failed)]),
            parallel: 61,
            serial: 5,
        };
        let about = About {
            begun: 1_795_181_240,
            commit: "abc".to_owned(),
            binary: String::new(),
            server: "v1.36.2".to_owned(),
            procs: 8,
            selection: Selection::default(),
            tests: 2,
        };
        let text = scoreboard(&names, &about, &results, &Verdicts::new(), &Catalogue::default());
        assert!(text.starts_with("Run of 2026-11-20 at commit abc"), "{text}");
        assert!(text.contains("**0 of 2 passed**, 1 failed, 1 not run. Parallel part 1 min 1 s"));
        assert!(text.contains("| other | a \\| b | Expected &lt;int&gt;: 1 |"));
        assert!(text.contains("| other | c | not run |  |"));
    }
}
