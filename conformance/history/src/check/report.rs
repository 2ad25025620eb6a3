//! What the checker found, and how much it looked at.

use std::collections::BTreeMap;
use std::fmt;

use super::History;
use crate::record::{Answer, Why};

/// Violations of one invariant that are kept with their text.
const KEPT: usize = 8;

/// The verdict on a history.
#[derive(Debug, Default)]
pub struct Report {
    title: String,
    checked: BTreeMap<&'static str, usize>,
    violated: BTreeMap<&'static str, (usize, Vec<String>)>,
    troubles: Vec<String>,
    lit: i64,
    dark: i64,
}

impl Report {
    #[must_use]
    pub fn of(history: &History) -> Self {
        let unknown = history
            .calls
            .iter()
            .filter(|call| matches!(call.answer, Answer::Unknown { .. }))
            .count();
        let refused = history
            .calls
            .iter()
            .filter(|call| matches!(call.answer, Answer::Refused { .. }))
            .count();
        let events: usize = history.watches.iter().map(|watch| watch.events.len()).sum();
        let expired = history.watches.iter().filter(|watch| {
            watch
                .closed
                .as_ref()
                .is_some_and(|closed| matches!(closed.why, Why::Refused { code: 410, .. }))
        });
        let faults = history
            .faults
            .iter()
            .filter(|fault| !fault.what.starts_with("mended"))
            .count();
        let start = &history.start;
        let title = format!(
            "seed {}, {} s, {} API servers, {} etcd members: {} calls ({unknown} unknown, {refused} refused), {} watches \
             ({} expired), {events} events, {faults} faults",
            start.seed,
            start.seconds,
            start.servers.len(),
            start.members,
            history.calls.len(),
            history.watches.len(),
            expired.count(),
        );
        Self {
            title,
            ..Self::default()
        }
    }

    /// Counts what was looked at for an invariant.
    pub fn checked(&mut self, invariant: &'static str, count: usize) {
        *self.checked.entry(invariant).or_default() += count;
    }

    pub fn violated(&mut self, invariant: &'static str, why: impl Into<String>) {
        let (count, texts) = self.violated.entry(invariant).or_default();
        *count += 1;
        if texts.len() < KEPT {
            texts.push(why.into());
        }
    }

    /// Revisions of which it is known what happened, dark ones in between included.
    pub fn lit(&mut self, revisions: i64) {
        self.lit += revisions;
    }

    /// Revisions of which no watch told everything.
    pub fn dark(&mut self, revisions: i64) {
        self.dark += revisions;
        if self.dark * 4 > self.lit && self.lit > 0 {
            self.trouble("more than a quarter of the history is dark");
        }
    }

    /// Something that lets no verdict stand, or that a good cluster does not do.
    pub fn trouble(&mut self, what: impl Into<String>) {
        let what = what.into();
        if self.troubles.len() < KEPT && !self.troubles.contains(&what) {
            self.troubles.push(what);
        }
    }

    #[must_use]
    pub fn violations(&self, invariant: &str) -> usize {
        self.violated.get(invariant).map_or(0, |(count, _)| *count)
    }

    /// The invariants that were violated.
    #[must_use]
    pub fn broken(&self) -> Vec<&'static str> {
        self.violated.keys().copied().collect()
    }

    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violated.is_empty() && self.troubles.is_empty()
    }
}

/// Where the table stands in a document.
const MARKS: [&str; 2] = ["<!-- history:begin -->\n", "<!-- history:end -->"];

impl Report {
    /// The verdict as a Markdown table.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("{}; {} of {} revisions dark.\n\n", self.title, self.dark, self.lit);
        text.push_str("| invariant | | checked | violations |\n|---|---|---|---|\n");
        for (invariant, name) in NAMES {
            let checked = self.checked.get(invariant).copied().unwrap_or_default();
            text.push_str(&format!(
                "| {invariant} | {name} | {checked} | {} |\n",
                self.violations(invariant)
            ));
        }
        text.push_str(if self.is_clean() {
            "\nClean.\n"
        } else {
            "\n**Not clean.**\n"
        });
        text
    }

    /// A document with the table put between its marks; `None` if it has none.
    #[must_use]
    pub fn put_into(&self, document: &str) -> Option<String> {
        let (before, rest) = document.split_once(MARKS[0])?;
        let (_, after) = rest.split_once(MARKS[1])?;
        Some(format!("{before}{}{}{}{after}", MARKS[0], self.markdown(), MARKS[1]))
    }
}

const NAMES: [(&str, &str); 10] = [
    ("C1", "calls on objects linearizable"),
    ("C2", "lists are snapshots"),
    ("C3", "no update lost"),
    ("C4", "no server goes back"),
    ("C5", "watches ordered, unique, complete"),
    ("C6", "state and then watch is everything"),
    ("C7", "selectors exact"),
    ("C8", "no time travel"),
    ("C9", "cache and etcd the same"),
    ("C10", "shapes of parameters"),
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for (invariant, name) in NAMES {
            let checked = self.checked.get(invariant).copied().unwrap_or_default();
            let violations = self.violations(invariant);
            writeln!(
                f,
                "  {invariant:<4} {name:<36} {checked:>9} checked  {violations:>6} violations"
            )?;
        }
        writeln!(
            f,
            "  {} revisions, {} of them dark (all servers had lost their past)",
            self.lit, self.dark
        )?;
        for (invariant, (_, texts)) in &self.violated {
            texts.iter().try_for_each(|text| writeln!(f, "{invariant}: {text}"))?;
        }
        self.troubles
            .iter()
            .try_for_each(|trouble| writeln!(f, "trouble: {trouble}"))?;
        write!(f, "{}", if self.is_clean() { "clean" } else { "NOT CLEAN" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_what_stands_between_the_marks() {
        let mut report = Report::default();
        report.checked("C5", 42);
        let document = "a\n<!-- history:begin -->\nold\n<!-- history:end -->\nz\n";
        let new = report.put_into(document).unwrap_or_default();
        assert!(
            new.starts_with("a\n<!-- history:begin -->\n") && new.ends_with("<!-- history:end -->\nz\n"),
            "{new}"
        );
        assert!(
            new.contains("| 42 | 0 |") && new.contains("Clean.") && !new.contains("old"),
            "{new}"
        );
        assert_eq!(report.put_into("no marks"), None);
    }
}
