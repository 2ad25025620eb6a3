//! A job's status, in two steps around the removal of finalizers. Pure.
//!
//! [`first`] lists the pods that ended as uncounted; once that is stored, their finalizers go; [`last`] moves those whose
//! finalizer is gone from the list into the counters and, when nothing is left to count, ends the job. So a pod is
//! counted exactly once, whoever is killed when.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use steersman_types::Time;
use steersman_types::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use steersman_types::api::core::v1::Pod;

use super::decide::{BURST, Ending, Observed, Plan};
use super::facts::{Facts, is_tracked};
use super::indexes::Indexes;
use super::policy::Failure;
use crate::pods;

/// What became of the plan's deletions and creations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub deleted: usize,
    /// Of these, how many were ready.
    pub deleted_ready: usize,
    pub created: usize,
}

/// Between the two writes.
#[derive(Clone, Debug)]
pub struct Midway {
    /// The job with its status to be stored now, if it differs.
    pub job: Job,
    pub write: bool,
    /// Pods whose finalizer goes after that.
    pub counted: Vec<Arc<Pod>>,
    /// UIDs of pods that carry the finalizer as far as is known.
    tracked: BTreeSet<String>,
    /// How the job ends, once nothing is left to count.
    ending: Option<Ending>,
    /// A change of the `Suspended` condition, for its event.
    pub suspended: Option<bool>,
}

/// See the module.
#[must_use]
pub fn first(seen: &Observed, facts: &Facts<'_>, plan: &Plan, done: Done) -> Midway {
    let active = (plan.active.len() + done.created).saturating_sub(done.deleted);
    let ending = match &plan.ending {
        // Pods may be left that the count would miss.
        Some(_) if done.deleted < plan.active.len() => None,
        Some(ending) => Some(ending.clone()),
        None => plan.ending_when_idle.clone().filter(|_| active == 0),
    };
    let mut job = seen.job.as_ref().clone();
    let status = job.status.get_or_insert_default();
    let before = status.clone();
    status.uncounted_terminated_pods.get_or_insert_default();
    if status.start_time.is_none() && !facts.suspended {
        status.start_time = Some(Time(seen.now));
    }
    let mut suspended = None;
    if plan.managed && ending.is_none() {
        suspended = suspend(status, facts.suspended, seen.now);
    }
    let number = |n: usize| Some(i32::try_from(n).unwrap_or(i32::MAX));
    let ready = plan.active.iter().filter(|p| pods::is_ready(p)).count();
    status.active = number(active);
    status.ready = number(ready.saturating_sub(done.deleted_ready));
    status.terminating = number(plan.terminating + done.deleted);

    let uncounted_deletions = plan.delete.iter().filter(|_| !plan.delete_counted);
    let dropped: BTreeSet<&str> = uncounted_deletions.filter_map(|p| p.metadata.uid.as_deref()).collect();
    let tracked_pods = || {
        plan.mine
            .iter()
            .filter(|p| is_tracked(p) && p.metadata.uid.as_deref().is_none_or(|uid| !dropped.contains(uid)))
    };
    let tracked: BTreeSet<String> = tracked_pods().filter_map(|p| p.metadata.uid.clone()).collect();
    count(status, &tracked);
    let going = job.metadata.deletion_timestamp.is_some();
    let mut counting = Counting::new(facts, plan, ending.as_ref(), going);
    for pod in tracked_pods() {
        if counting.full(status) {
            break;
        }
        counting.take(pod, status);
    }
    let Counting {
        counted,
        succeeded_indexes,
        ..
    } = counting;
    // More to count in the next run: the job cannot have ended.
    let all_counted = !full(status, succeeded_indexes.len());
    if facts.indexed {
        let known = Indexes::parse(before.completed_indexes.as_deref().unwrap_or_default(), facts.end());
        let completed = known.union(&succeeded_indexes.into_iter().collect());
        status.succeeded = i32::try_from(completed.count()).ok();
        status.completed_indexes = Some(completed.to_string());
        status.failed_indexes = plan.failed_indexes.as_ref().map(ToString::to_string);
    }
    if let Some(ending) = &ending {
        let interim = if ending.success {
            "SuccessCriteriaMet"
        } else {
            "FailureTarget"
        };
        let known = status
            .conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == interim && c.status == "True");
        if !known {
            set_condition(status, interim, true, &ending.reason, &ending.message, seen.now);
        }
    }
    let write = !same(&before, status);
    Midway {
        job,
        write,
        counted,
        tracked,
        ending: ending.filter(|_| all_counted),
        suspended,
    }
}

/// The job to store after the finalizers of the pods with UIDs `removed` are gone, if that changes anything, and how the
/// job has ended, if it has. `stored` is the job as last read or written.
#[must_use]
pub fn last(midway: &Midway, stored: Job, removed: &BTreeSet<String>, now: Timestamp) -> (Option<Job>, Option<Ending>) {
    let mut job = stored;
    let status = job.status.get_or_insert_default();
    let tracked: BTreeSet<String> = midway.tracked.difference(removed).cloned().collect();
    let mut changed = count(status, &tracked);
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let left = uncounted.map_or(0, |u| {
        [&u.succeeded, &u.failed].into_iter().flatten().map(Vec::len).sum()
    });
    let ended = midway
        .ending
        .clone()
        .filter(|_| left == 0 && status.terminating.unwrap_or(0) == 0);
    if let Some(ending) = &ended {
        let kind = if ending.success { "Complete" } else { "Failed" };
        set_condition(status, kind, true, &ending.reason, &ending.message, now);
        if ending.success {
            status.completion_time = Some(Time(now));
        }
        changed = true;
    }
    (changed.then_some(job), ended)
}

/// Collects pods that have ended into the status, at most [`BURST`] at a time.
struct Counting<'a> {
    facts: &'a Facts<'a>,
    plan: &'a Plan,
    ending: Option<&'a Ending>,
    /// The job is being deleted.
    going: bool,
    counted: Vec<Arc<Pod>>,
    succeeded_indexes: BTreeSet<u32>,
}

impl<'a> Counting<'a> {
    fn new(facts: &'a Facts<'a>, plan: &'a Plan, ending: Option<&'a Ending>, going: bool) -> Self {
        Self {
            facts,
            plan,
            ending,
            going,
            counted: Vec::new(),
            succeeded_indexes: BTreeSet::new(),
        }
    }

    fn full(&self, status: &JobStatus) -> bool {
        full(status, self.succeeded_indexes.len())
    }

    fn take(&mut self, pod: &Arc<Pod>, status: &mut JobStatus) {
        let succeeded = pods::phase(pod) == "Succeeded";
        let failed = self.facts.has_failed(pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let over = self.going || self.ending.is_some() || succeeded;
        if !over && (!failed || self.plan.held_back.contains(&uid)) {
            return;
        }
        self.counted.push(pod.clone());
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
        let listed = |list: &Option<Vec<String>>| list.iter().flatten().any(|u| *u == uid);
        if listed(&uncounted.failed) {
            return;
        }
        if succeeded {
            if self.facts.indexed {
                // The index says it all: no UID has to be remembered.
                self.succeeded_indexes.extend(self.facts.index(pod));
            } else if !listed(&uncounted.succeeded) {
                uncounted.succeeded.get_or_insert_default().push(uid);
            }
        } else if failed || self.ending.is_some_and(|e| !e.success) {
            // In a job that failed, whatever had not ended has failed with it.
            if self.facts.is_valid(pod) && self.facts.failure(pod) != Failure::Ignored {
                uncounted.failed.get_or_insert_default().push(uid);
            }
        }
    }
}

fn full(status: &JobStatus, indexes: usize) -> bool {
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let listed: usize = uncounted.map_or(0, |u| {
        [&u.succeeded, &u.failed].into_iter().flatten().map(Vec::len).sum()
    });
    listed + indexes >= BURST
}

/// Moves UIDs that are not `tracked` (any more) into the counters; whether that changed anything.
fn count(status: &mut JobStatus, tracked: &BTreeSet<String>) -> bool {
    let Some(uncounted) = &mut status.uncounted_terminated_pods else {
        return false;
    };
    let UncountedTerminatedPods { failed, succeeded } = uncounted;
    let mut changed = false;
    for (list, counter) in [(succeeded, &mut status.succeeded), (failed, &mut status.failed)] {
        let Some(uids) = list else { continue };
        let before = uids.len();
        uids.retain(|uid| tracked.contains(uid));
        let gone = before - uids.len();
        if gone > 0 {
            *counter = Some(counter.unwrap_or(0).saturating_add(i32::try_from(gone).unwrap_or(0)));
            changed = true;
        }
        if uids.is_empty() {
            *list = None;
        }
    }
    changed
}

/// The `Suspended` condition; a change is returned. A job that was never suspended has none.
fn suspend(status: &mut JobStatus, suspended: bool, now: Timestamp) -> Option<bool> {
    let known = status.conditions.iter().flatten().any(|c| c.type_ == "Suspended");
    if !suspended && !known {
        return None;
    }
    let (reason, message) = if suspended {
        ("JobSuspended", "Job suspended")
    } else {
        ("JobResumed", "Job resumed")
    };
    if !set_condition(status, "Suspended", suspended, reason, message, now) {
        return None;
    }
    // The deadline counts from the last start.
    status.start_time = (!suspended).then_some(Time(now));
    Some(suspended)
}

/// Adds or changes a condition; whether it changed.
fn set_condition(status: &mut JobStatus, kind: &str, on: bool, reason: &str, message: &str, now: Timestamp) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let new = JobCondition {
        type_: kind.to_owned(),
        status: if on { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(old) if old.status == new.status && old.reason == new.reason && old.message == new.message => false,
        Some(old) => {
            *old = new;
            true
        }
        None => {
            conditions.push(new);
            true
        }
    }
}

/// Equal where absent numbers, texts and lists are zero and empty.
fn same(a: &JobStatus, b: &JobStatus) -> bool {
    let plain = |s: &JobStatus| {
        let mut s = s.clone();
        for number in [&mut s.active, &mut s.succeeded, &mut s.failed] {
            number.get_or_insert(0);
        }
        s.completed_indexes.get_or_insert_default();
        s.conditions.get_or_insert_default();
        let uncounted = s.uncounted_terminated_pods.get_or_insert_default();
        uncounted.failed.get_or_insert_default();
        uncounted.succeeded.get_or_insert_default();
        s
    };
    plain(a) == plain(b)
}
