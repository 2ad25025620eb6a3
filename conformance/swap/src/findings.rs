//! Collecting what the checks of a cell say, one sentence each; a check that panics has failed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::suites::Outcome;

/// What is known of a cell so far.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub passed: usize,
    pub failed: Vec<String>,
    pub notes: Vec<String>,
}

impl Findings {
    /// Runs a check and says how it ended. The helpers of the suites panic when a cluster answers what it should not.
    /// Returns what the check found, if it passed.
    pub fn check<T>(&mut self, what: &str, check: impl FnOnce() -> Result<T, String>) -> Option<T> {
        let outcome = catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text
                .or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()))
                .unwrap_or_default())
        });
        match outcome {
            Ok(found) => {
                println!("    passed: {what}");
                self.passed += 1;
                Some(found)
            }
            Err(why) => {
                println!("    FAILED: {what}: {why}");
                self.failed.push(format!("{what}: {why}"));
                None
            }
        }
    }

    /// Takes a suite's outcome over.
    pub fn suite(&mut self, name: &str, outcome: Outcome) {
        println!(
            "    {name}: {} passed, {} failed {:?}",
            outcome.passed,
            outcome.failed.len(),
            outcome.failed
        );
        self.passed += outcome.passed;
        self.failed.extend(outcome.failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure_with_its_text() {
        let mut findings = Findings::default();
        assert_eq!(findings.check("good", || Ok(7)), Some(7));
        let none: Option<()> = findings.check("bad", || panic!("{} of {}", 1, 2));
        assert_eq!(none, None);
        assert_eq!((findings.passed, findings.failed), (1, vec!["bad: 1 of 2".to_owned()]));
    }
}
