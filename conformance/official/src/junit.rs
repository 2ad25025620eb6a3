//! The JUnit report of a run.

use std::fmt::Write as _;

use crate::catalogue::Catalogue;
use crate::table::Verdicts;
use crate::verdict::Outcome;

/// A report with a case for each test, those without a verdict as skipped.
#[must_use]
pub fn report<'a>(names: impl Iterator<Item = &'a str>, verdicts: &Verdicts, catalogue: &Catalogue) -> String {
    let (mut cases, mut tests, mut failed, mut skipped) = (String::new(), 0, 0, 0);
    for name in names {
        tests += 1;
        let verdict = verdicts.get(name);
        let _ = write!(
            cases,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\"",
            escape(catalogue.area(name)),
            escape(name),
            verdict.map_or(0.0, |verdict| verdict.seconds)
        );
        let reason = verdict.map_or("not run", |verdict| &verdict.reason);
        match verdict.map(|verdict| verdict.outcome) {
            Some(Outcome::Passed) => cases.push_str("/>\n"),
            Some(Outcome::Failed) => {
                failed += 1;
                let _ = writeln!(cases, "><failure message=\"{}\"/></testcase>", escape(reason));
            }
            Some(Outcome::Skipped) | None => {
                skipped += 1;
                let _ = writeln!(cases, "><skipped message=\"{}\"/></testcase>", escape(reason));
            }
        }
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"conformance\" tests=\"{tests}\" failures=\"{failed}\" \
         skipped=\"{skipped}\">\n{cases}</testsuite>\n"
    )
}

/// Text for an attribute: characters that XML forbids are left out.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            control if control.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;

    #[test]
    fn failures_carry_their_reason_and_missing_tests_are_skipped() {
        let failed = Verdict {
            name: "a".to_owned(),
            outcome: Outcome::Failed,
            seconds: 1.0,
            ended: 0,
            reason: "<int>: \"1\" & \u{1b}[31m".to_owned(),
            log: String::new(),
        };
        let verdicts = Verdicts::from([("a".to_owned(), failed)]);
        let text = report(["a", "b"].into_iter(), &verdicts, &Catalogue::default());
        assert!(text.contains("tests=\"2\" failures=\"1\" skipped=\"1\""));
        assert!(text.contains("&lt;int&gt;: &quot;1&quot; &amp; [31m"));
    }
}
