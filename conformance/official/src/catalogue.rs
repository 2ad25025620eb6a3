//! What is known about the suite's tests before anything runs: upstream's own verdicts, and the area of each test.
//!
//! `upstream.tsv` is our own table of a run of Kubernetes v1.36.2 on the kind of machine that `hack/up` makes. A test that
//! it does not name (another patch version may add some) falls into the area `other`.

use std::collections::HashMap;

const UPSTREAM: &str = include_str!("../upstream.tsv");
/// Area of tests that the table does not know.
pub const OTHER: &str = "other";
/// Assumed length of a test that the table does not know: early enough not to be the last one running.
const UNKNOWN_SECONDS: f64 = 60.0;

/// Upstream's own result for one test.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    pub area: String,
    pub passed: bool,
    pub seconds: f64,
}

/// Upstream's results by test name.
#[derive(Clone, Debug, Default)]
pub struct Catalogue(HashMap<String, Known>);

impl Catalogue {
    #[must_use]
    pub fn upstream() -> Self {
        Self::parse(UPSTREAM)
    }

    /// Rows of area, verdict, seconds, name; lines that are none are left out.
    fn parse(text: &str) -> Self {
        let row = |line: &str| {
            let mut fields = line.splitn(4, '\t');
            let (area, verdict, seconds, name) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let known = Known {
                area: area.to_owned(),
                passed: verdict == "passed",
                seconds: seconds.parse().ok()?,
            };
            Some((name.to_owned(), known))
        };
        Self(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(row)
                .collect(),
        )
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Known> {
        self.0.get(name)
    }

    #[must_use]
    pub fn area(&self, name: &str) -> &str {
        self.0.get(name).map_or(OTHER, |known| &known.area)
    }

    /// How long the test takes, as far as known; long ones start first.
    #[must_use]
    pub fn seconds(&self, name: &str) -> f64 {
        self.0.get(name).map_or(UNKNOWN_SECONDS, |known| known.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_conformance_test_of_this_version_and_upstream_passes_them_all() {
        let all = Catalogue::upstream();
        assert_eq!(all.0.len(), 446);
        assert!(all.0.values().all(|known| known.passed));
        assert!(all.0.keys().all(|name| name.contains("[Conformance]")));
        assert_eq!(all.0.keys().filter(|name| name.contains("[Serial]")).count(), 29);
        assert!(all.0.values().all(|known| known.area.split('/').count() == 2));
    }

    #[test]
    fn an_unknown_test_has_an_area_and_a_length() {
        let all = Catalogue::default();
        assert_eq!(all.area("new"), OTHER);
        assert!(all.seconds("new") > 0.0);
    }
}
