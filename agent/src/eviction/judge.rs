//! Which thresholds count at this moment, and what the node is short of. Pure: time and history are arguments.
//!
//! A threshold that was acted upon goes on to count until the minimum to reclaim is free besides. A soft one counts for
//! action once its grace period is over. A condition stays for the transition period after its last sight.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use steersman_types::jiff::{SignedDuration, Timestamp};

use super::Kind;
use super::threshold::{Signal, Threshold};
use crate::stats::types::{FsStats, MemoryStats, Summary};

/// How much there is of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub available: i64,
    pub capacity: i64,
}

/// By signal; what is not known is absent.
pub type Observations = BTreeMap<Signal, Seen>;

/// What is kept from one look to the next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Since when each threshold is crossed.
    first: Vec<(Threshold, Timestamp)>,
    /// When each condition was last seen.
    last: BTreeMap<Kind, Timestamp>,
    /// Thresholds that were due and are not resolved.
    due: Vec<Threshold>,
}

/// What follows from a look.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgement {
    pub short_of: BTreeSet<Kind>,
    /// To be acted upon, the most important one first.
    pub due: Vec<Threshold>,
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// What the figures say about each signal.
#[must_use]
pub fn observations(summary: &Summary) -> Observations {
    let mut all = Observations::new();
    let memory = |m: &MemoryStats| {
        let (free, used) = (whole(m.available_bytes?), whole(m.working_set_bytes?));
        Some(Seen {
            available: free,
            capacity: free.saturating_add(used),
        })
    };
    let node = &summary.node;
    let pods = node.system_containers.iter().find(|c| c.name == "pods");
    let pods = pods.and_then(|c| c.memory);
    for (signal, stats) in [(Signal::Memory, node.memory), (Signal::PodsMemory, pods)] {
        if let Some(seen) = stats.as_ref().and_then(memory) {
            all.insert(signal, seen);
        }
    }
    let images = node.runtime.and_then(|r| r.image_fs);
    for (space, inodes, fs) in [
        (Signal::NodeFs, Signal::NodeFsInodes, node.fs),
        (Signal::ImageFs, Signal::ImageFsInodes, images),
    ] {
        let Some(fs): Option<FsStats> = fs else { continue };
        for (signal, free, capacity) in [
            (space, fs.available_bytes, fs.capacity_bytes),
            (inodes, fs.inodes_free, fs.inodes),
        ] {
            // Some file systems count no inodes: there is nothing to be short of.
            if let Some((free, capacity)) = free.zip(capacity).filter(|(_, c)| *c > 0) {
                let seen = Seen {
                    available: whole(free),
                    capacity: whole(capacity),
                };
                all.insert(signal, seen);
            }
        }
    }
    if let Some(processes) = node.rlimit {
        let seen = Seen {
            available: processes.max_pid - processes.running,
            capacity: processes.max_pid,
        };
        all.insert(Signal::Pids, seen);
    }
    all
}

/// The thresholds that are crossed; with `reclaim`, also those above whose limit not enough more is free.
#[must_use]
pub fn crossed(thresholds: &[Threshold], seen: &Observations, reclaim: bool) -> Vec<Threshold> {
    let is = |t: &&Threshold| {
        let Some(seen) = seen.get(&t.signal) else { return false };
        let more = t.reclaim.filter(|_| reclaim).map_or(0, |r| r.of(seen.capacity));
        t.limit.of(seen.capacity).saturating_add(more) > seen.available
    };
    thresholds.iter().filter(is).copied().collect()
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    let age = now.duration_since(then).max(SignedDuration::ZERO);
    Duration::try_from(age).unwrap_or_default()
}

/// Judges a look, given what was kept from the one before.
#[must_use]
pub fn judge(
    thresholds: &[Threshold],
    seen: &Observations,
    before: &History,
    transition: Duration,
    now: Timestamp,
) -> (Judgement, History) {
    let mut met = crossed(thresholds, seen, false);
    for unresolved in crossed(&before.due, seen, true) {
        if !met.contains(&unresolved) {
            met.push(unresolved);
        }
    }
    let started = |t: &Threshold| before.first.iter().find(|(o, _)| o == t).map_or(now, |(_, at)| *at);
    let first: Vec<(Threshold, Timestamp)> = met.iter().map(|t| (*t, started(t))).collect();
    let mut last = before.last.clone();
    last.extend(met.iter().map(|t| (t.signal.kind(), now)));
    last.retain(|_, at| *at == now || since(*at, now) < transition);
    let mut due: Vec<Threshold> = first
        .iter()
        .filter(|(t, at)| since(*at, now) >= t.grace)
        .map(|(t, _)| *t)
        .collect();
    // Memory comes first: it does not wait.
    due.sort_by_key(|t| t.signal.kind() != Kind::Memory);
    let judgement = Judgement {
        short_of: last.keys().copied().collect(),
        due: due.clone(),
    };
    (judgement, History { first, last, due })
}

#[cfg(test)]
mod tests {
    use super::super::threshold::Limit;
    use super::*;
    use proptest::prelude::*;
    use steersman_schema::quantity::{Format, Quantity};

    fn amount(n: i64) -> Limit {
        Limit::Amount(Quantity::from_value(n, Format::BinarySI))
    }

    fn hard(signal: Signal, limit: i64) -> Threshold {
        Threshold {
            signal,
            limit: amount(limit),
            grace: Duration::ZERO,
            reclaim: None,
        }
    }

    fn seen(pairs: &[(Signal, i64)]) -> Observations {
        let seen = |available| Seen {
            available,
            capacity: 1000,
        };
        pairs.iter().map(|(s, n)| (*s, seen(*n))).collect()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    const TRANSITION: Duration = Duration::from_secs(300);

    #[test]
    fn a_hard_threshold_counts_at_once_and_the_condition_lasts() {
        let all = [hard(Signal::NodeFs, 100), hard(Signal::Memory, 100)];
        let (none, history) = judge(
            &all,
            &seen(&[(Signal::NodeFs, 100)]),
            &History::default(),
            TRANSITION,
            at(0),
        );
        assert_eq!(none, Judgement::default(), "exactly the limit is enough");
        let low = seen(&[(Signal::NodeFs, 99), (Signal::Memory, 1)]);
        let (now, history) = judge(&all, &low, &history, TRANSITION, at(10));
        assert_eq!(now.short_of, BTreeSet::from([Kind::Memory, Kind::Disk]));
        assert_eq!(
            now.due.iter().map(|t| t.signal).collect::<Vec<_>>(),
            [Signal::Memory, Signal::NodeFs]
        );
        let fine = seen(&[(Signal::NodeFs, 500), (Signal::Memory, 500)]);
        let (after, history) = judge(&all, &fine, &history, TRANSITION, at(20));
        assert_eq!(
            (after.short_of.len(), after.due.len()),
            (2, 0),
            "nothing to do, but not over"
        );
        let (end, _) = judge(&all, &fine, &history, TRANSITION, at(310));
        assert!(end.short_of.is_empty());
    }

    #[test]
    fn a_soft_threshold_waits_for_its_grace_period() {
        let soft = Threshold {
            grace: Duration::from_secs(30),
            ..hard(Signal::Memory, 100)
        };
        let low = seen(&[(Signal::Memory, 50)]);
        let (first, history) = judge(&[soft], &low, &History::default(), TRANSITION, at(0));
        assert_eq!((first.short_of.len(), first.due.len()), (1, 0));
        let (_, calm) = judge(&[soft], &seen(&[(Signal::Memory, 150)]), &history, TRANSITION, at(10));
        let (again, _) = judge(&[soft], &low, &calm, TRANSITION, at(31));
        assert!(again.due.is_empty(), "it was better in between");
        let (due, _) = judge(&[soft], &low, &history, TRANSITION, at(30));
        assert_eq!(due.due, [soft]);
    }

    #[test]
    fn a_threshold_that_was_acted_upon_counts_until_enough_more_is_free() {
        let threshold = Threshold {
            reclaim: Some(amount(50)),
            ..hard(Signal::NodeFs, 100)
        };
        let look = |free, history: &History| {
            let (now, history) = judge(
                &[threshold],
                &seen(&[(Signal::NodeFs, free)]),
                history,
                TRANSITION,
                at(0),
            );
            (now.due.len(), history)
        };
        assert_eq!(look(120, &History::default()).0, 0);
        let (due, history) = look(90, &History::default());
        assert_eq!(due, 1);
        let (due, history) = look(120, &history);
        assert_eq!(due, 1, "120 is not 150");
        assert_eq!(look(150, &history).0, 0);
    }

    proptest! {
        #[test]
        fn what_is_due_is_short_and_what_is_unknown_never_counts(
            limits in proptest::collection::vec((0usize..5, 1i64..1000, 0u64..60), 0..6),
            looks in proptest::collection::vec(proptest::collection::vec(proptest::option::of(0i64..1000), 5), 1..8),
        ) {
            let signals = [Signal::Memory, Signal::NodeFs, Signal::ImageFsInodes, Signal::Pids, Signal::PodsMemory];
            let all: Vec<Threshold> = limits.iter().map(|(s, limit, grace)| Threshold {
                grace: Duration::from_secs(*grace),
                ..hard(signals[*s], *limit)
            }).collect();
            let mut history = History::default();
            for (i, look) in looks.iter().enumerate() {
                let known: Vec<(Signal, i64)> =
                    signals.iter().zip(look).filter_map(|(s, n)| Some((*s, (*n)?))).collect();
                let known = seen(&known);
                let now = at(i64::try_from(i).unwrap() * 10);
                let (judged, next) = judge(&all, &known, &history, TRANSITION, now);
                for due in &judged.due {
                    prop_assert!(judged.short_of.contains(&due.signal.kind()));
                    prop_assert!(known.contains_key(&due.signal));
                }
                for threshold in all.iter().filter(|t| t.is_hard()) {
                    let low = known.get(&threshold.signal).is_some_and(|s| s.available < threshold.limit.of(1000));
                    prop_assert_eq!(judged.due.contains(threshold), low);
                }
                let (again, _) = judge(&all, &known, &next, TRANSITION, now);
                prop_assert_eq!(again, judged, "the same look gives the same judgement");
                history = next;
            }
        }
    }
}
