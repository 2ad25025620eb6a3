//! How often each probe ran with which result, and how long that took: `/metrics/probes`.
//!
//! Written by the probes' tasks; a pod's numbers go when it does.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

/// Upper bounds of the buckets in seconds: Prometheus' default ones.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Which probe.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Which {
    pub uid: String,
    pub namespace: String,
    pub pod: String,
    pub container: String,
    /// `Liveness`, `Readiness` or `Startup`.
    pub kind: &'static str,
}

/// What came of it so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    pub results: BTreeMap<&'static str, u64>,
    in_bucket: [u64; BOUNDS.len()],
    /// Seconds.
    pub sum: f64,
    pub count: u64,
}

impl Counts {
    /// Bounds, each with the number of runs that took at most so long.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let mut below = 0;
        let bounded = BOUNDS.iter().zip(&self.in_bucket).map(move |(bound, n)| {
            below += n;
            (*bound, below)
        });
        bounded.chain([(f64::INFINITY, self.count)])
    }
}

/// All probes of the node.
#[derive(Default)]
pub struct Probed {
    counts: Mutex<BTreeMap<Which, Counts>>,
}

impl Probed {
    /// A run ended. One that failed does not count for the time.
    pub fn count(&self, which: &Which, result: &'static str, took: Duration) {
        let mut all = self.counts.lock();
        let counts = all.entry(which.clone()).or_default();
        *counts.results.entry(result).or_default() += 1;
        if result == "failed" {
            return;
        }
        let seconds = took.as_secs_f64();
        if let Some(i) = BOUNDS.iter().position(|b| seconds <= *b) {
            counts.in_bucket[i] += 1;
        }
        counts.sum += seconds;
        counts.count += 1;
    }

    /// The pod is over.
    pub fn forget(&self, uid: &str) {
        self.counts.lock().retain(|w, _| w.uid != uid);
    }

    pub fn each(&self, mut f: impl FnMut(&Which, &Counts)) {
        for (which, counts) in self.counts.lock().iter() {
            f(which, counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_by_result_and_successful_ones_by_time() {
        let probed = Probed::default();
        let which = Which {
            uid: "u".into(),
            namespace: "ns".into(),
            pod: "p".into(),
            container: "c".into(),
            kind: "Liveness",
        };
        probed.count(&which, "successful", Duration::from_millis(20));
        probed.count(&which, "successful", Duration::from_secs(20));
        probed.count(&which, "failed", Duration::from_secs(1));
        probed.each(|_, counts| {
            assert_eq!(counts.results, BTreeMap::from([("failed", 1), ("successful", 2)]));
            let buckets: Vec<u64> = counts.buckets().map(|(_, n)| n).collect();
            assert_eq!(buckets, [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
        });
        probed.forget("u");
        probed.each(|_, _| panic!("forgotten"));
    }
}
