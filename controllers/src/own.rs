//! A controller sees its own writes before it decides again.
//!
//! Caches run behind the server. A decision made from a cache that does not show the last decision's writes would
//! repeat them (two pods where one is wanted). So each key remembers the revision of its last write per kind, and the
//! next run waits until the caches have got that far: usually they have, at worst it takes the time of one watch event.
//! Bounded: a key is forgotten as soon as its writes were seen.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::act::Written;

/// How long one run waits before it gives up and is retried.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module. `K` is what the controller's queue holds.
pub struct OwnWrites<K> {
    caches: HashMap<&'static str, watch::Receiver<u64>>,
    pending: Mutex<HashMap<K, HashMap<String, u64>>>,
}

impl<K: Clone + Eq + Hash> OwnWrites<K> {
    /// The caches that the controller decides from: plural name and progress.
    #[must_use]
    pub fn new(caches: impl IntoIterator<Item = (&'static str, watch::Receiver<u64>)>) -> Self {
        Self {
            caches: caches.into_iter().collect(),
            pending: Mutex::default(),
        }
    }

    /// Remembers what a run for `key` wrote.
    pub fn wrote(&self, key: &K, written: &[Written]) {
        let mut pending = self.pending.lock();
        for one in written
            .iter()
            .filter(|w| w.revision > 0 && self.caches.contains_key(w.plural.as_str()))
        {
            let seen = pending
                .entry(key.clone())
                .or_default()
                .entry(one.plural.clone())
                .or_default();
            *seen = one.revision.max(*seen);
        }
    }

    /// Waits until the caches show everything that was written for `key`.
    ///
    /// # Errors
    /// When they do not get there in time: the key should be retried.
    pub async fn seen(&self, key: &K) -> Result<(), String> {
        let Some(wanted) = self.pending.lock().get(key).cloned() else {
            return Ok(());
        };
        for (plural, revision) in wanted {
            let Some(cache) = self.caches.get(plural.as_str()) else {
                continue;
            };
            let mut cache = cache.clone();
            let reached = cache.wait_for(|seen| *seen >= revision);
            let in_time = tokio::time::timeout(PATIENCE, reached).await;
            if !in_time.is_ok_and(|closed| closed.is_ok()) {
                return Err(format!("the cache of {plural} has not reached revision {revision} yet"));
            }
        }
        self.pending.lock().remove(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(revision: u64) -> Written {
        Written {
            plural: "pods".into(),
            revision,
            ..Written::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_waits_until_the_cache_shows_the_last_write() {
        let progress = watch::Sender::new(5);
        let own = OwnWrites::new([("pods", progress.subscribe())]);
        own.wrote(&"a", &[written(7)]);
        assert!(own.seen(&"other").await.is_ok());
        assert!(own.seen(&"a").await.is_err());
        progress.send_replace(7);
        assert!(own.seen(&"a").await.is_ok());
        assert!(own.pending.lock().is_empty());
    }
}
