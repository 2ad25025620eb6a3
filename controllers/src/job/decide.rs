//! What a job needs: which pods to delete and to create, whether and how it ends. Pure.
//!
//! Glossary: a pod is *tracked* while it carries the finalizer and so has not been counted; *uncounted* when its UID is
//! in the status, waiting for the finalizer to go; *held back* when it failed and must stay until its replacement (same
//! index) exists, because its annotations carry how often the index failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use steersman_types::api::batch::v1::{Job, JobCondition};
use steersman_types::api::core::v1::Pod;

use super::facts::{self, Facts, is_tracked};
use super::failures::{Failures, ended};
use super::indexes::Indexes;
use super::policy::{self, Failure};
use super::{removal, template};
use crate::owners::{self, Claim};
use crate::{labels, pods};

/// Creations or deletions per run.
pub const BURST: usize = 500;

/// What the caches say about one job.
#[derive(Clone, Debug)]
pub struct Observed {
    pub job: Arc<Job>,
    /// The pods it owns and those of its namespace that nobody owns.
    pub pods: Vec<Arc<Pod>>,
    /// Failures in a row so far.
    pub failures: Failures,
    pub now: Timestamp,
}

/// How the job ends: first as `FailureTarget` or `SuccessCriteriaMet`, and when all pods are counted and gone as `Failed`
/// or `Complete`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub success: bool,
    pub reason: String,
    pub message: String,
}

/// What to do. Claims first (and nothing else then), then deletions or creations, then the status.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    /// The job's pods.
    pub mine: Vec<Arc<Pod>>,
    pub active: Vec<Arc<Pod>>,
    pub terminating: usize,
    pub delete: Vec<Arc<Pod>>,
    /// Deleted pods still count as failed: the finalizer stays.
    pub delete_counted: bool,
    pub create: Vec<Pod>,
    pub ending: Option<Ending>,
    /// The ending when no pod is active after this run.
    pub ending_when_idle: Option<Ending>,
    /// Whether the number of pods was brought in line: only then is the `Suspended` condition.
    pub managed: bool,
    pub succeeded_indexes: Indexes,
    pub failed_indexes: Option<Indexes>,
    /// UIDs of failed pods that are held back.
    pub held_back: BTreeSet<String>,
    pub failures: Failures,
    /// When something is due only by time passing.
    pub again: Option<Duration>,
}

/// See [`Plan`].
#[must_use]
pub fn decide(seen: &Observed, facts: &Facts<'_>) -> Plan {
    let job = seen.job.as_ref();
    let mut plan = claim(seen);
    if !plan.adopt.is_empty() || !plan.release.is_empty() {
        return plan;
    }
    plan.active = plan.mine.iter().filter(|p| pods::is_active(p)).cloned().collect();
    let going = |p: &&Arc<Pod>| pods::is_terminating(p) && !pods::is_finished(p);
    plan.terminating = plan.mine.iter().filter(going).count();
    let tally = Tally::of(job, facts, &plan.mine);
    plan.failures = seen.failures.after(&tally.new_successes, &tally.new_failures);
    let deadline = deadline(job, facts, seen.now);
    plan.ending = early_ending(job, facts, &plan.mine, &tally).or_else(|| {
        let over = deadline == Some(Duration::ZERO);
        over.then(|| Ending::failed("DeadlineExceeded", "Job was active longer than specified deadline"))
    });
    let mut succeeded = tally.succeeded;
    let mut held_back = BTreeMap::new();
    if facts.indexed {
        plan.succeeded_indexes = succeeded_indexes(job, facts, &plan.mine);
        succeeded = plan.succeeded_indexes.count();
        if let Some(limit) = facts.backoff_limit_per_index {
            let failed = failed_indexes(job, facts, &plan.mine, limit);
            plan.ending = plan
                .ending
                .or_else(|| index_ending(facts, &failed, &plan.succeeded_indexes));
            held_back = pods_held_back(facts, &plan, &failed);
            plan.held_back = held_back.values().filter_map(|p| p.metadata.uid.clone()).collect();
            plan.failed_indexes = Some(failed);
        }
        plan.ending = plan.ending.or_else(|| {
            let message = policy::of_success(facts.success_policy, facts.end(), &plan.succeeded_indexes)?;
            Some(Ending::succeeded("SuccessPolicy", &message))
        });
    }
    if plan.ending.is_some() {
        plan.delete = plan.active.clone();
        plan.delete_counted = true;
        return plan;
    }
    plan.again = deadline;
    if job.metadata.deletion_timestamp.is_none() {
        plan.managed = true;
        manage(seen, facts, succeeded, &held_back, &mut plan);
    }
    let enough = facts.completions.map_or(succeeded > 0, |wanted| succeeded >= wanted);
    plan.ending_when_idle =
        enough.then(|| Ending::succeeded("CompletionsReached", "Reached expected number of succeeded pods"));
    plan
}

impl Ending {
    fn failed(reason: &str, message: &str) -> Self {
        Self {
            success: false,
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }

    fn succeeded(reason: &str, message: &str) -> Self {
        Self {
            success: true,
            ..Self::failed(reason, message)
        }
    }

    fn of(condition: &JobCondition, success: bool) -> Self {
        Self {
            success,
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        }
    }
}

fn claim(seen: &Observed) -> Plan {
    let job = seen.job.as_ref();
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let going = job.metadata.deletion_timestamp.is_some();
    let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
    let mut plan = Plan::default();
    for pod in &seen.pods {
        let selected = labels::selects(selector, pod.metadata.labels.as_ref());
        match owners::claim(&pod.metadata, uid, selected, going) {
            Claim::Own => plan.mine.push(pod.clone()),
            Claim::Adopt => plan.adopt.push(pod.clone()),
            Claim::Release => plan.release.push(pod.clone()),
            Claim::Ignore => {}
        }
    }
    plan.mine.sort_by_key(|p| facts::index(p));
    plan
}

/// Pods that ended and are in no counter yet, and the counters with them.
#[derive(Default)]
struct Tally {
    new_successes: Vec<Timestamp>,
    new_failures: Vec<Timestamp>,
    succeeded: u32,
    failed: u32,
}

impl Tally {
    fn of(job: &Job, facts: &Facts<'_>, mine: &[Arc<Pod>]) -> Self {
        let status = job.status.as_ref();
        let uncounted = status.and_then(|s| s.uncounted_terminated_pods.as_ref());
        let succeeded = uncounted.and_then(|u| u.succeeded.as_deref()).unwrap_or_default();
        let failed = uncounted.and_then(|u| u.failed.as_deref()).unwrap_or_default();
        let number = |n: Option<i32>, more: usize| {
            u32::try_from(n.unwrap_or(0))
                .unwrap_or(0)
                .saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
        };
        let mut tally = Self {
            succeeded: number(status.and_then(|s| s.succeeded), succeeded.len()),
            failed: number(status.and_then(|s| s.failed), failed.len()),
            ..Self::default()
        };
        for pod in mine.iter().filter(|p| is_tracked(p) && facts.is_valid(p)) {
            let listed = |list: &[String]| pod.metadata.uid.as_ref().is_some_and(|uid| list.contains(uid));
            if pods::phase(pod) == "Succeeded" && !listed(succeeded) {
                tally.new_successes.push(ended(pod));
                tally.succeeded += 1;
            } else if facts.has_failed(pod) && !listed(failed) {
                tally.new_failures.push(ended(pod));
                tally.failed += u32::from(facts.failure(pod) != Failure::Ignored);
            }
        }
        tally
    }
}

/// The ending that was decided before, or the one that failed pods bring about.
fn early_ending(job: &Job, facts: &Facts<'_>, mine: &[Arc<Pod>], tally: &Tally) -> Option<Ending> {
    let known = |kind: &str| {
        let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.into_iter().find(|c| c.type_ == kind && c.status == "True")
    };
    if let Some(met) = known("SuccessCriteriaMet") {
        return Some(Ending::of(met, true));
    }
    if let Some(target) = known("FailureTarget") {
        return Some(Ending::of(target, false));
    }
    let fatal = mine
        .iter()
        .filter(|p| facts.has_failed(p))
        .find_map(|pod| match facts.failure(pod) {
            Failure::FailsJob(message) => Some(message),
            _ => None,
        });
    if let Some(message) = fatal {
        return Some(Ending::failed("PodFailurePolicy", &message));
    }
    (tally.failed > facts.backoff_limit || too_many_restarts(facts, mine))
        .then(|| Ending::failed("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
}

/// Containers that are restarted in place count as well.
fn too_many_restarts(facts: &Facts<'_>, mine: &[Arc<Pod>]) -> bool {
    if !facts.restarts_in_place {
        return false;
    }
    let running = mine.iter().filter(|p| matches!(pods::phase(p), "Running" | "Pending"));
    let restarts: i64 = running
        .filter_map(|p| p.status.as_ref())
        .flat_map(|s| {
            let all = [&s.init_container_statuses, &s.container_statuses];
            all.into_iter().flat_map(|list| list.iter().flatten())
        })
        .map(|c| i64::from(c.restart_count))
        .sum();
    restarts >= i64::from(facts.backoff_limit.max(1))
}

/// How much time is left, zero when it is over; `None` without a deadline.
fn deadline(job: &Job, facts: &Facts<'_>, now: Timestamp) -> Option<Duration> {
    let limit = SignedDuration::from_secs(facts.deadline_seconds.filter(|_| !facts.suspended)?);
    let start = job.status.as_ref().and_then(|s| s.start_time.as_ref());
    let since = start.map_or(SignedDuration::ZERO, |start| now.duration_since(start.0));
    Some(Duration::try_from(limit.saturating_sub(since)).unwrap_or(Duration::ZERO))
}

fn succeeded_indexes(job: &Job, facts: &Facts<'_>, mine: &[Arc<Pod>]) -> Indexes {
    let before = job.status.as_ref().and_then(|s| s.completed_indexes.as_deref());
    let new = mine
        .iter()
        .filter(|p| pods::phase(p) == "Succeeded" && is_tracked(p))
        .filter_map(|p| facts.index(p));
    Indexes::parse(before.unwrap_or_default(), facts.end()).union(&new.collect())
}

fn failed_indexes(job: &Job, facts: &Facts<'_>, mine: &[Arc<Pod>], limit: u32) -> Indexes {
    let before = job.status.as_ref().and_then(|s| s.failed_indexes.as_deref());
    let for_good = |pod: &&Arc<Pod>| {
        is_tracked(pod)
            && facts.has_failed(pod)
            && match facts.failure(pod) {
                Failure::FailsIndex => true,
                Failure::Ignored => false,
                Failure::Counts | Failure::FailsJob(_) => facts::earlier_failures(pod).0 >= limit,
            }
    };
    let new = mine.iter().filter(for_good).filter_map(|p| facts.index(p));
    Indexes::parse(before.unwrap_or_default(), facts.end()).union(&new.collect())
}

fn index_ending(facts: &Facts<'_>, failed: &Indexes, succeeded: &Indexes) -> Option<Ending> {
    if facts.max_failed_indexes.is_some_and(|most| failed.count() > most) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(Ending::failed("MaxFailedIndexesExceeded", message));
    }
    let over = !failed.is_empty() && failed.count() + succeeded.count() >= facts.end();
    over.then(|| Ending::failed("FailedIndexes", "Job has failed indexes"))
}

/// By index, the failed pod whose replacement is due: of several the one that failed most and last.
fn pods_held_back(facts: &Facts<'_>, plan: &Plan, failed: &Indexes) -> BTreeMap<u32, Arc<Pod>> {
    let active: Indexes = plan.active.iter().filter_map(|p| facts.index(p)).collect();
    let mut held: BTreeMap<u32, Arc<Pod>> = BTreeMap::new();
    for pod in plan.mine.iter().filter(|p| is_tracked(p) && facts.has_failed(p)) {
        let Some(index) = facts.index(pod) else { continue };
        if plan.succeeded_indexes.contains(index) || failed.contains(index) || active.contains(index) {
            continue;
        }
        let weight = |p: &Pod| {
            let (counted, ignored) = facts::earlier_failures(p);
            (counted + ignored, ended(p))
        };
        if held.get(&index).is_none_or(|other| weight(other) <= weight(pod)) {
            held.insert(index, pod.clone());
        }
    }
    held
}

/// Brings the number of active pods in line. Deletions exclude creations in one run.
fn manage(seen: &Observed, facts: &Facts<'_>, succeeded: u32, held_back: &BTreeMap<u32, Arc<Pod>>, plan: &mut Plan) {
    let job = seen.job.as_ref();
    let active = plan.active.len();
    let wanted = match facts.completions {
        _ if facts.suspended => 0,
        // A work queue: once a pod has succeeded, the others finish and no new ones start.
        None if succeeded > 0 => active,
        None => facts.parallelism as usize,
        Some(all) => all.saturating_sub(succeeded).min(facts.parallelism) as usize,
    };
    plan.delete = removal::choose(facts, &plan.active, active.saturating_sub(wanted));
    if !facts.suspended {
        plan.delete.truncate(BURST);
    }
    let waiting_for = if facts.only_failed { plan.terminating } else { 0 };
    let missing = wanted.saturating_sub(active + waiting_for).min(BURST);
    if !plan.delete.is_empty() || missing == 0 || facts.suspended {
        return;
    }
    let per_index = facts.backoff_limit_per_index.is_some();
    if !per_index {
        let wait = plan.failures.wait(seen.now);
        if !wait.is_zero() {
            plan.wake_in(wait);
            return;
        }
    }
    if !facts.indexed {
        plan.create = vec![template::pod(job, facts, None, None); missing];
        return;
    }
    let mut taken: Indexes = plan.active.iter().filter_map(|p| facts.index(p)).collect();
    taken = taken.union(&plan.succeeded_indexes);
    if facts.only_failed {
        let going = plan
            .mine
            .iter()
            .filter(|p| pods::is_terminating(p) && !pods::is_finished(p));
        taken = taken.union(&going.filter_map(|p| facts.index(p)).collect());
    }
    if let Some(failed) = &plan.failed_indexes {
        taken = taken.union(failed);
    }
    let mut soonest: Option<Duration> = None;
    for index in taken.missing(missing, facts.end()) {
        let replaced = held_back.get(&index);
        let wait = replaced.map_or(Duration::ZERO, |pod| {
            let (counted, ignored) = facts::earlier_failures(pod);
            let failures = Failures {
                count: counted + ignored + 1,
                last: Some(ended(pod)),
            };
            failures.wait(seen.now)
        });
        if wait.is_zero() {
            plan.create
                .push(template::pod(job, facts, Some(index), replaced.map(Arc::as_ref)));
        } else {
            soonest = Some(soonest.map_or(wait, |s| s.min(wait)));
        }
    }
    if let Some(wait) = soonest {
        plan.wake_in(wait);
    }
}

impl Plan {
    fn wake_in(&mut self, wait: Duration) {
        self.again = Some(self.again.map_or(wait, |again| again.min(wait)));
    }
}
