//! What came of one test, and how it is written down: one line of tab-separated fields.
//!
//! A line is complete or it is no line: a run that was killed while it wrote leaves a torn one, which is left out when
//! reading, so that the test runs again.

use std::fmt;

/// Longest reason that a table shows, in characters.
const REASON: usize = 240;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    /// The test itself decided not to run (it found the cluster unsuited). Never counted as passed.
    Skipped,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Passed, Self::Failed, Self::Skipped];
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub name: String,
    pub outcome: Outcome,
    pub seconds: f64,
    /// When it ended, in seconds since 1970.
    pub ended: i64,
    /// Why it failed, on one line; empty if it passed.
    pub reason: String,
    /// File of its log in the run's folder.
    pub log: String,
}

impl Verdict {
    #[must_use]
    pub fn line(&self) -> String {
        let reason = one_line(&self.reason);
        format!(
            "{}\t{:.3}\t{}\t{}\t{}\t{reason}\t.\n",
            self.outcome, self.seconds, self.ended, self.log, self.name
        )
    }

    /// Reads a line that [`Self::line`] wrote; nothing if it is torn.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[outcome, seconds, ended, log, name, reason, "."] = fields.as_slice() else {
            return None;
        };
        Some(Self {
            outcome: Outcome::ALL.into_iter().find(|known| known.to_string() == outcome)?,
            seconds: seconds.parse().ok()?,
            ended: ended.parse().ok()?,
            log: log.to_owned(),
            name: name.to_owned(),
            reason: reason.to_owned(),
        })
    }
}

/// The beginning of a message as one line without tabs.
#[must_use]
pub fn one_line(message: &str) -> String {
    let text = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict {
        Verdict {
            name: "[sig-apps] CronJob should run [Conformance]".to_owned(),
            outcome: Outcome::Failed,
            seconds: 12.5,
            ended: 1_795_181_240,
            reason: "Timed out after 300.001s.\n\tExpected\n    <int>: 1".to_owned(),
            log: "logs/a.log".to_owned(),
        }
    }

    #[test]
    fn a_verdict_reads_back_as_written_with_its_reason_on_one_line() {
        let line = verdict().line();
        assert_eq!(line.matches('\n').count(), 1);
        let expected = Verdict {
            reason: "Timed out after 300.001s. Expected <int>: 1".to_owned(),
            ..verdict()
        };
        assert_eq!(Verdict::parse(line.trim_end()), Some(expected));
    }

    #[test]
    fn no_part_of_a_line_counts_as_a_verdict() {
        let line = verdict().line();
        let line = line.trim_end();
        for end in 0..line.len() {
            assert_eq!(Verdict::parse(&line[..end]), None, "{}", &line[..end]);
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let text = one_line(&"ä".repeat(1000));
        assert_eq!(text.chars().count(), REASON + 1);
        assert!(text.ends_with('…'));
    }
}
