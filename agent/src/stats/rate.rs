//! How fast a counter grows: cores from processor time.

use std::collections::{HashMap, HashSet};

use steersman_types::jiff::Timestamp;

/// Values closer together than this say little; the rate before is given again.
const SHORTEST_NANOS: i128 = 500_000_000;

#[derive(Clone, Copy)]
struct Known {
    at: Timestamp,
    value: u64,
    rate: Option<u64>,
}

/// The last value of each counter.
#[derive(Default)]
pub struct Rates {
    known: HashMap<String, Known>,
}

impl Rates {
    /// Growth per second since the value before; `None` at the first one, and when the counter began anew.
    pub fn rate(&mut self, key: &str, value: u64, now: Timestamp) -> Option<u64> {
        let rate = match self.known.get(key) {
            Some(before) => {
                let nanos = now.duration_since(before.at).as_nanos();
                if nanos < SHORTEST_NANOS {
                    return before.rate;
                }
                let grown = value.checked_sub(before.value).map(u128::from);
                grown.and_then(|g| u64::try_from(g.saturating_mul(1_000_000_000) / nanos.unsigned_abs()).ok())
            }
            None => None,
        };
        self.known.insert(key.to_owned(), Known { at: now, value, rate });
        rate
    }

    /// Forgets all others.
    pub fn keep(&mut self, wanted: &HashSet<String>) {
        self.known.retain(|key, _| wanted.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_growth_per_second_between_two_looks() {
        let mut rates = Rates::default();
        let at = |ms: i64| Timestamp::from_millisecond(ms).unwrap();
        assert_eq!(rates.rate("a", 1000, at(0)), None);
        assert_eq!(rates.rate("a", 5000, at(2000)), Some(2000));
        assert_eq!(rates.rate("a", 5100, at(2001)), Some(2000), "too soon to tell");
        assert_eq!(rates.rate("a", 10, at(4000)), None, "begun anew");
        rates.keep(&HashSet::new());
        assert_eq!(rates.rate("a", 20, at(6000)), None);
    }
}
