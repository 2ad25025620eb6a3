//! The pods that wait for a node.
//!
//! A pod is in one of three places: *active* (to be tried next, by priority and age), *backing off* (may be tried again
//! from a moment on), or *unschedulable* (waits for an event that one of the plugins that refused it asked for, or for the
//! five-minute flush). Pure: the caller passes the time. Delays are upstream's: 1 s doubling to 10 s per failed try. When
//! nothing is active, whoever backs off because it found no node need not wait: there is nobody it would hold up.

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

/// Upstream: `podMaxInUnschedulablePodsDuration`.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// How long a pod waits at least after a try that failed: the first time, and at most. It doubles in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    fn after(self, failures: u32) -> Duration {
        let doublings = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doublings).min(self.longest)
    }
}

/// What a pod has gone through here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// The present try included.
    pub tries: u32,
    /// When it came.
    pub since: Instant,
}

/// How many pods wait, by where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub active: usize,
    pub backing_off: usize,
    pub unschedulable: usize,
}

/// Order of the active pods: higher priority first, then whoever came first.
type Rank = (Reverse<i32>, u64, PodKey);

#[derive(Debug)]
struct Entry {
    info: Arc<PodInfo>,
    place: Place,
    /// Order of arrival, kept across tries.
    arrival: u64,
    since: Instant,
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
    backoff: Backoff,
    entries: HashMap<PodKey, Entry>,
    active: BTreeSet<Rank>,
    backing_off: BTreeSet<(Instant, PodKey)>,
    /// The same for those that met an error: they wait in any case.
    erring: BTreeSet<(Instant, PodKey)>,
    /// Since when.
    unschedulable: BTreeSet<(Instant, PodKey)>,
    in_flight: BTreeSet<PodKey>,
    arrivals: u64,
    /// By queue and event, as upstream's metric has it.
    incoming: BTreeMap<(&'static str, &'static str), u64>,
}

impl Queue {
    #[must_use]
    pub fn new(plugins: &'static [Plugin], backoff: Backoff) -> Self {
        Self {
            plugins,
            backoff,
            entries: HashMap::new(),
            active: BTreeSet::new(),
            backing_off: BTreeSet::new(),
            erring: BTreeSet::new(),
            unschedulable: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            arrivals: 0,
            incoming: BTreeMap::new(),
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
                since: now,
                failures: 0,
                rejected_by: BTreeSet::new(),
            };
            self.active.insert(rank(&entry));
            self.entries.insert(key, entry);
            self.came("active", "UnschedulablePodAdd");
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
            match entry.place {
                Place::Active => self.active.remove(&rank(&entry)),
                Place::BackingOff { until } => {
                    let known = (until, key.clone());
                    self.backing_off.remove(&known) || self.erring.remove(&known)
                }
                Place::Unschedulable { since } => self.unschedulable.remove(&(since, key.clone())),
                Place::InFlight { .. } => self.in_flight.remove(key),
            };
        }
    }

    /// The next pod to try, if one is due.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.release(now);
        let key = match self.active.pop_first() {
            Some((.., key)) => key,
            None => {
                let (_, key) = self.backing_off.pop_first()?;
                self.came("active", "PopFromBackoffQ");
                key
            }
        };
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::InFlight { woken: Vec::new() };
        self.in_flight.insert(key);
        Some(entry.info.clone())
    }

    /// What a pod that was handed out has gone through.
    #[must_use]
    pub fn history(&self, key: &PodKey) -> Option<History> {
        let entry = self.entries.get(key)?;
        Some(History {
            tries: entry.failures + 1,
            since: entry.since,
        })
    }

    /// A popped pod found no node. It waits for an event, unless one came while it was being tried.
    pub fn failed(&mut self, key: &PodKey, why: &Unschedulable, now: Instant) {
        let Some(woken) = self.back(key) else { return };
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.place = Place::Unschedulable { since: now };
        entry.rejected_by.clone_from(&why.rejected_by);
        // Without a node there is nobody to have refused: any node is news.
        if why.nodes == 0 {
            entry.rejected_by.extend(self.plugins.iter().map(|p| p.name));
        }
        self.unschedulable.insert((now, key.clone()));
        self.came("unschedulable", "ScheduleAttemptFailure");
        for event in woken {
            self.wake_one(key, event, now);
        }
    }

    /// A popped pod met an error (the API server did not answer, say): it is tried again after its back-off.
    pub fn errored(&mut self, key: &PodKey, now: Instant) {
        if self.back(key).is_none() {
            return;
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        let until = now + self.backoff.after(entry.failures);
        entry.place = Place::BackingOff { until };
        self.erring.insert((until, key.clone()));
        self.came("backoff", "ScheduleAttemptFailure");
    }

    /// A try of a popped pod came to nothing; the events meanwhile, if the pod was popped at all.
    fn back(&mut self, key: &PodKey) -> Option<Vec<ClusterEvent>> {
        let entry = self.entries.get_mut(key)?;
        let Place::InFlight { woken } = &mut entry.place else {
            return None;
        };
        let woken = std::mem::take(woken);
        entry.failures += 1;
        self.in_flight.remove(key);
        Some(woken)
    }

    /// Something happened: pods that were refused by a plugin that cares are tried again, after their back-off.
    pub fn wake(&mut self, event: ClusterEvent, now: Instant) {
        let waiting = self.unschedulable.iter().map(|(_, key)| key);
        let keys: Vec<PodKey> = waiting.chain(&self.in_flight).cloned().collect();
        for key in keys {
            self.wake_one(&key, event, now);
        }
    }

    /// When [`Self::pop`] may have something that it has not now.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let backing_off = self.backing_off.first().into_iter().chain(self.erring.first());
        let backing_off = backing_off.map(|(at, _)| *at).min();
        let flush = self.unschedulable.first().map(|(since, _)| *since + LONGEST_WAIT);
        backing_off.into_iter().chain(flush).min()
    }

    /// Pods per place, for metrics.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            active: self.active.len(),
            backing_off: self.backing_off.len() + self.erring.len(),
            unschedulable: self.unschedulable.len(),
        }
    }

    /// How many unschedulable pods each plugin has refused, by the pods' scheduler.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<(&'static str, String), usize> {
        let mut counts = BTreeMap::new();
        for entry in self.unschedulable.iter().filter_map(|(_, key)| self.entries.get(key)) {
            let spec = entry.info.pod.spec.as_ref();
            let scheduler = spec.and_then(|s| s.scheduler_name.clone()).unwrap_or_default();
            for plugin in &entry.rejected_by {
                *counts.entry((*plugin, scheduler.clone())).or_default() += 1;
            }
        }
        counts
    }

    /// How many pods came into each queue by each event.
    #[must_use]
    pub fn incoming(&self) -> &BTreeMap<(&'static str, &'static str), u64> {
        &self.incoming
    }

    fn came(&mut self, queue: &'static str, event: &'static str) {
        *self.incoming.entry((queue, event)).or_default() += 1;
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
                if !self.plugins.iter().any(|p| cares(&p)) {
                    return;
                }
                self.unschedulable.remove(&(*since, key.clone()));
                let until = *since + self.backoff.after(entry.failures);
                if until <= now {
                    entry.place = Place::Active;
                    self.active.insert(rank(entry));
                    self.came("active", event.label());
                } else {
                    entry.place = Place::BackingOff { until };
                    self.backing_off.insert((until, key.clone()));
                    self.came("backoff", event.label());
                }
            }
            Place::Active | Place::BackingOff { .. } => {}
        }
    }

    /// Moves to active what is due.
    fn release(&mut self, now: Instant) {
        while let Some((_, key)) = pop_until(&mut self.backing_off, now).or_else(|| pop_until(&mut self.erring, now)) {
            self.activate(&key, "BackoffComplete");
        }
        let Some(long_ago) = now.checked_sub(LONGEST_WAIT) else {
            return;
        };
        while let Some((_, key)) = pop_until(&mut self.unschedulable, long_ago) {
            self.activate(&key, "UnschedulableTimeout");
        }
    }

    fn activate(&mut self, key: &PodKey, event: &'static str) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = Place::Active;
            self.active.insert(rank(entry));
            self.came("active", event);
        }
    }
}

fn rank(entry: &Entry) -> Rank {
    (Reverse(entry.info.priority), entry.arrival, entry.info.key.clone())
}

/// The first one, if its time is not later than `now`.
fn pop_until(set: &mut BTreeSet<(Instant, PodKey)>, now: Instant) -> Option<(Instant, PodKey)> {
    if set.first()?.0 > now {
        return None;
    }
    set.pop_first()
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
        let (mut queue, now) = (Queue::new(ALL, Backoff::default()), Instant::now());
        for (n, priority) in [("a", 0), ("b", 5), ("c", 0)] {
            queue.set(pod(n, priority), &[], now);
        }
        let order: Vec<_> = std::iter::from_fn(|| name(queue.pop(now))).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn a_refused_pod_waits_for_an_event_that_its_plugin_asked_for() {
        let (mut queue, now) = (Queue::new(ALL, Backoff::default()), Instant::now());
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
        let (mut queue, now) = (Queue::new(ALL, Backoff::default()), Instant::now());
        queue.set(pod("a", 0), &[], now);
        let key = queue.pop(now).unwrap().key.clone();
        queue.set(pod("b", 0), &[], now);
        queue.wake(ClusterEvent::NodeAdded, now);
        queue.failed(&key, &refused("NodeResourcesFit"), now);
        assert_eq!(
            (queue.counts().backing_off, queue.next_due()),
            (1, Some(now + Duration::from_secs(1)))
        );
        // Others first; but when there are none it need not wait.
        assert_eq!(name(queue.pop(now)).as_deref(), Some("b"));
        assert_eq!(name(queue.pop(now)).as_deref(), Some("a"));
    }

    #[test]
    fn after_an_error_a_pod_waits_in_any_case() {
        let (mut queue, now) = (Queue::new(ALL, Backoff::default()), Instant::now());
        queue.set(pod("a", 0), &[], now);
        let key = queue.pop(now).unwrap().key.clone();
        queue.errored(&key, now);
        let second = now + Duration::from_secs(1);
        assert_eq!((name(queue.pop(now)), queue.next_due()), (None, Some(second)));
        assert_eq!(name(queue.pop(second)).as_deref(), Some("a"));
    }

    #[test]
    fn the_back_off_doubles_to_ten_seconds() {
        let backoff = Backoff::default();
        let seconds: Vec<u64> = (1..8).map(|n| backoff.after(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10, 10]);
        assert_eq!(backoff.after(u32::MAX), backoff.longest);
    }

    #[test]
    fn after_five_minutes_a_pod_is_tried_without_any_event() {
        let (mut queue, now) = (Queue::new(ALL, Backoff::default()), Instant::now());
        queue.set(pod("a", 0), &[], now);
        let key = queue.pop(now).unwrap().key.clone();
        queue.failed(&key, &refused("NodeName"), now);
        assert_eq!(name(queue.pop(now + LONGEST_WAIT)).as_deref(), Some("a"));
    }

    proptest! {
        #[test]
        fn no_pod_is_lost_or_handed_out_twice(steps in prop::collection::vec((0u8..6, 0u8..4), 0..80)) {
            let (mut queue, mut now) = (Queue::new(ALL, Backoff::default()), Instant::now());
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
                let counts = queue.counts();
                let placed = counts.active + counts.backing_off + counts.unschedulable + queue.in_flight.len();
                prop_assert_eq!(placed, known.len());
            }
            let end = now + LONGEST_WAIT;
            let rest: BTreeSet<String> = std::iter::from_fn(|| name(queue.pop(end))).chain(out.iter().map(|k| k.name.clone())).collect();
            prop_assert_eq!(rest, known);
        }
    }
}
