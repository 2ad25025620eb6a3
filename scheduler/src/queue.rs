//! The pods that wait for a node.
//!
//! A pod is in one of three places: *active* (to be tried next, by priority and age), *backing off* (may be tried again
//! from a moment on), or *unschedulable* (waits for an event that one of the plugins that refused it asked for, or for the
//! five-minute flush). Pure: the caller passes the time. Delays are upstream's: 1 s doubling to 10 s per failed try.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use steersman_types::api::core::v1::Pod;
use tokio::time::Instant;

use crate::decide::Unschedulable;
use crate::event::ClusterEvent;
use crate::plugins::Plugin;
use crate::pod::{PodInfo, PodKey};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// Upstream: `podMaxInUnschedulablePodsDuration`.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Order of the active pods: higher priority first, then whoever came first.
type Rank = (Reverse<i32>, u64, PodKey);

#[derive(Debug)]
struct Entry {
    info: Arc<PodInfo>,
    place: Place,
    /// Order of arrival, kept across tries.
    arrival: u64,
    failures: u32,
    rejected_by: BTreeSet<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Active,
    BackingOff {
        until: Instant,
    },
    Unschedulable {
        since: Instant,
    },
    /// Handed out; events from now on count when it comes back.
    InFlight {
        woken: Vec<ClusterEvent>,
    },
}

/// The queue. Every waiting pod is in it exactly once.
#[derive(Debug)]
pub struct Queue {
    plugins: &'static [Plugin],
    entries: HashMap<PodKey, Entry>,
    active: BTreeSet<Rank>,
    backing_off: BTreeMap<(Instant, PodKey), ()>,
    arrivals: u64,
}

impl Queue {
    #[must_use]
    pub fn new(plugins: &'static [Plugin]) -> Self {
        Self {
            plugins,
            entries: HashMap::new(),
            active: BTreeSet::new(),
            backing_off: BTreeMap::new(),
            arrivals: 0,
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    #[must_use]
    pub fn contains(&self, key: &PodKey) -> bool {
        self.entries.contains_key(key)
    }

    /// A pod that needs a node, new or changed. A change of the pod itself can wake it.
    pub fn set(&mut self, pod: Arc<Pod>, changes: &[ClusterEvent], now: Instant) {
        let info = Arc::new(PodInfo::new(pod));
        let key = info.key.clone();
        let Some(entry) = self.entries.get_mut(&key) else {
            self.arrivals += 1;
            let entry = Entry {
                info,
                place: Place::Active,
                arrival: self.arrivals,
                failures: 0,
                rejected_by: BTreeSet::new(),
            };
            self.active.insert(rank(&entry));
            self.entries.insert(key, entry);
            return;
        };
        let was_active = entry.place == Place::Active && self.active.remove(&rank(entry));
        entry.info = info;
        if was_active {
            self.active.insert(rank(entry));
        }
        for change in changes {
            self.wake_one(&key, *change, now);
        }
    }

    /// The pod needs no node any more: bound, deleted, or somebody else's.
    pub fn remove(&mut self, key: &PodKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.unlink(key, &entry);
        }
    }

    /// The next pod to try, if one is due.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.release(now);
        let (.., key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::InFlight { woken: Vec::new() };
        Some(entry.info.clone())
    }

    /// A popped pod found no node. It waits for an event, unless one came while it was being tried.
    pub fn failed(&mut self, key: &PodKey, why: &Unschedulable, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Place::InFlight { woken } = std::mem::replace(&mut entry.place, Place::Unschedulable { since: now }) else {
            return;
        };
        entry.failures += 1;
        entry.rejected_by.clone_from(&why.rejected_by);
        // Without a node there is nobody to have refused: any node is news.
        if why.nodes == 0 {
            entry.rejected_by.extend(self.plugins.iter().map(|p| p.name));
        }
        for event in woken {
            self.wake_one(key, event, now);
        }
    }

    /// A popped pod met an error (the API server did not answer, say): it is tried again after its back-off.
    pub fn errored(&mut self, key: &PodKey, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if matches!(entry.place, Place::InFlight { .. }) {
            entry.failures += 1;
            let until = now + backoff(entry.failures);
            entry.place = Place::BackingOff { until };
            self.backing_off.insert((until, key.clone()), ());
        }
    }

    /// Something happened: pods that were refused by a plugin that cares are tried again, after their back-off.
    pub fn wake(&mut self, event: ClusterEvent, now: Instant) {
        let keys: Vec<PodKey> = self
            .entries
            .iter()
            .filter(|(_, e)| matches!(e.place, Place::Unschedulable { .. } | Place::InFlight { .. }))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.wake_one(&key, event, now);
        }
    }

    /// When [`Self::pop`] may have something that it has not now.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let flush = self.entries.values().filter_map(|e| match e.place {
            Place::Unschedulable { since } => Some(since + LONGEST_WAIT),
            _ => None,
        });
        self.backing_off
            .keys()
            .next()
            .map(|(at, _)| *at)
            .into_iter()
            .chain(flush)
            .min()
    }

    /// Pods per place, for metrics: active, backing off, unschedulable.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let waiting = self
            .entries
            .values()
            .filter(|e| matches!(e.place, Place::Unschedulable { .. }))
            .count();
        (self.active.len(), self.backing_off.len(), waiting)
    }

    fn wake_one(&mut self, key: &PodKey, event: ClusterEvent, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match &mut entry.place {
            Place::InFlight { woken } => {
                if !woken.contains(&event) {
                    woken.push(event);
                }
            }
            Place::Unschedulable { since } => {
                let cares = |p: &&Plugin| entry.rejected_by.contains(p.name) && (p.wakes_on)(&event, &entry.info);
                if self.plugins.iter().any(|p| cares(&p)) {
                    let until = *since + backoff(entry.failures);
                    if until <= now {
                        entry.place = Place::Active;
                        self.active.insert(rank(entry));
                    } else {
                        entry.place = Place::BackingOff { until };
                        self.backing_off.insert((until, key.clone()), ());
                    }
                }
            }
            Place::Active | Place::BackingOff { .. } => {}
        }
    }

    /// Moves to active what is due.
    fn release(&mut self, now: Instant) {
        while let Some(((at, _), ())) = self.backing_off.first_key_value() {
            if *at > now {
                break;
            }
            let Some(((_, key), ())) = self.backing_off.pop_first() else {
                break;
            };
            self.activate(&key);
        }
        let stale: Vec<PodKey> = self
            .entries
            .iter()
            .filter(|(_, e)| matches!(e.place, Place::Unschedulable { since } if since + LONGEST_WAIT <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in stale {
            self.activate(&key);
        }
    }

    fn activate(&mut self, key: &PodKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = Place::Active;
            self.active.insert(rank(entry));
        }
    }

    fn unlink(&mut self, key: &PodKey, entry: &Entry) {
        self.active.remove(&rank(entry));
        if let Place::BackingOff { until } = entry.place {
            self.backing_off.remove(&(until, key.clone()));
        }
    }
}

fn rank(entry: &Entry) -> Rank {
    (Reverse(entry.info.priority), entry.arrival, entry.info.key.clone())
}

fn backoff(failures: u32) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::ALL;
    use proptest::prelude::*;
    use serde_json::json;
    use steersman_types::Typed;

    fn pod(name: &str, priority: i32) -> Arc<Pod> {
        Arc::new(Pod::from_value(&json!({"metadata": {"namespace": "d", "name": name, "uid": name}, "spec": {"priority": priority, "containers": []}})).unwrap())
    }

    fn refused(by: &'static str) -> Unschedulable {
        Unschedulable {
            nodes: 1,
            rejected_by: BTreeSet::from([by]),
            ..Unschedulable::default()
        }
    }

    fn name(popped: Option<Arc<PodInfo>>) -> Option<String> {
        popped.map(|p| p.key.name.clone())
    }

    #[test]
    fn higher_priority_goes_first_and_equals_in_order_of_arrival() {
        let (mut queue, now) = (Queue::new(ALL), Instant::now());
        for (n, priority) in [("a", 0), ("b", 5), ("c", 0)] {
            queue.set(pod(n, priority), &[], now);
        }
        let order: Vec<_> = std::iter::from_fn(|| name(queue.pop(now))).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn a_refused_pod_waits_for_an_event_that_its_plugin_asked_for() {
        let (mut queue, now) = (Queue::new(ALL), Instant::now());
        queue.set(pod("a", 0), &[], now);
        let key = queue.pop(now).unwrap().key.clone();
        queue.failed(&key, &refused("NodeResourcesFit"), now);
        let later = now + Duration::from_secs(20);
        queue.wake(ClusterEvent::NodeLabels, later);
        assert_eq!(name(queue.pop(later)), None);
        queue.wake(ClusterEvent::AssignedPodGone, later);
        assert_eq!(name(queue.pop(later)).as_deref(), Some("a"));
    }

    #[test]
    fn an_event_during_the_try_is_not_lost() {
        let (mut queue, now) = (Queue::new(ALL), Instant::now());
        queue.set(pod("a", 0), &[], now);
        let key = queue.pop(now).unwrap().key.clone();
        queue.wake(ClusterEvent::NodeAdded, now);
        queue.failed(&key, &refused("NodeResourcesFit"), now);
        assert_eq!(name(queue.pop(now)), None);
        assert_eq!(queue.next_due(), Some(now + FIRST_BACKOFF));
        assert_eq!(name(queue.pop(now + FIRST_BACKOFF)).as_deref(), Some("a"));
    }

    #[test]
    fn the_back_off_doubles_to_ten_seconds() {
        let seconds: Vec<u64> = (1..8).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10, 10]);
        assert_eq!(backoff(u32::MAX), LONGEST_BACKOFF);
    }

    #[test]
    fn after_five_minutes_a_pod_is_tried_without_any_event() {
        let (mut queue, now) = (Queue::new(ALL), Instant::now());
        queue.set(pod("a", 0), &[], now);
        let key = queue.pop(now).unwrap().key.clone();
        queue.failed(&key, &refused("NodeName"), now);
        assert_eq!(name(queue.pop(now + LONGEST_WAIT)).as_deref(), Some("a"));
    }

    proptest! {
        #[test]
        fn no_pod_is_lost_or_handed_out_twice(steps in prop::collection::vec((0u8..6, 0u8..4), 0..80)) {
            let (mut queue, mut now) = (Queue::new(ALL), Instant::now());
            let mut out: Vec<PodKey> = Vec::new();
            let mut known: BTreeSet<String> = BTreeSet::new();
            for (what, n) in steps {
                let p = pod(&n.to_string(), i32::from(n));
                let key = PodKey::of(&p);
                match what {
                    0 => { queue.set(p, &[], now); known.insert(key.name); }
                    1 => { queue.remove(&key); out.retain(|k| *k != key); known.remove(&key.name); }
                    2 => if let Some(info) = queue.pop(now) { prop_assert!(!out.contains(&info.key)); out.push(info.key.clone()); },
                    3 => if let Some(key) = out.pop() { queue.failed(&key, &refused("NodeResourcesFit"), now); },
                    4 => if let Some(key) = out.pop() { queue.errored(&key, now); },
                    _ => { now += Duration::from_secs(3); queue.wake(ClusterEvent::NodeAdded, now); }
                }
                prop_assert_eq!(queue.len(), known.len());
            }
            let end = now + LONGEST_WAIT;
            let rest: BTreeSet<String> = std::iter::from_fn(|| name(queue.pop(end))).chain(out.iter().map(|k| k.name.clone())).collect();
            prop_assert_eq!(rest, known);
        }
    }
}
