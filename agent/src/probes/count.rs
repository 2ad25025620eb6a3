//! When do single runs of a probe become a verdict?

/// Counts equal outcomes in a row.
#[derive(Debug)]
pub struct Counter {
    failure_threshold: i32,
    success_threshold: i32,
    last: Option<bool>,
    run: i32,
}

impl Counter {
    /// Thresholds from the spec; the API's defaults are 3 failures and 1 success.
    #[must_use]
    pub fn new(failure_threshold: Option<i32>, success_threshold: Option<i32>) -> Self {
        Self {
            failure_threshold: failure_threshold.unwrap_or(3).max(1),
            success_threshold: success_threshold.unwrap_or(1).max(1),
            last: None,
            run: 0,
        }
    }

    /// Takes one outcome; gives the verdict once there were enough of the same.
    pub fn count(&mut self, good: bool) -> Option<bool> {
        self.run = if self.last == Some(good) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = Some(good);
        let needed = if good {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        (self.run >= needed).then_some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_enough_equal_outcomes_in_a_row_make_a_verdict() {
        let mut counter = Counter::new(Some(3), Some(2));
        let verdicts: Vec<_> = [true, true, false, false, true, false, false, false, false, true, true]
            .map(|o| counter.count(o))
            .into();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(verdicts, [None, yes, None, None, None, None, None, no, no, None, yes]);
    }
}
