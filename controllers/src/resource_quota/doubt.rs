//! When a count that is lower than what is charged is believed. Pure: the time is an argument.
//!
//! The API server charges a quota before it writes the object, and the caches of what is counted show the object a moment
//! later. A count that falls in between would give the object's room away a second time. A count that is lower because
//! something was deleted is as low a moment later, without a charge in between.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use steersman_runtime::Key;

/// How long a write may take from its charge until the caches show it.
pub const SETTLED: Duration = Duration::from_millis(500);
/// Where charges never cease, the count is believed after this.
const MOST: Duration = Duration::from_secs(2);

struct Doubt {
    /// The quota's, which every charge changes.
    version: String,
    since: Instant,
    first: Instant,
}

/// The quotas whose counts are lower than what is charged: as many as there are quotas at most.
#[derive(Default)]
pub struct Doubts(HashMap<Key, Doubt>);

impl Doubts {
    /// Whether a lower count of this version of a quota holds by now.
    pub fn believe(&mut self, key: &Key, version: &str, now: Instant) -> bool {
        let fresh = || Doubt {
            version: version.to_owned(),
            since: now,
            first: now,
        };
        let doubt = self.0.entry(key.clone()).or_insert_with(fresh);
        if doubt.version != version {
            version.clone_into(&mut doubt.version);
            doubt.since = now;
        }
        let over = |begun: Instant, time: Duration| now.saturating_duration_since(begun) >= time;
        let believed = over(doubt.since, SETTLED) || over(doubt.first, MOST);
        if believed {
            self.forget(key);
        }
        believed
    }

    /// Nothing is lower any more.
    pub fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }
}
