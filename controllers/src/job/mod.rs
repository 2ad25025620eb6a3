//! Runs the pods of a Job until enough of them have succeeded, or it has failed.
//!
//! Owns: pods that its selector selects (adopting and releasing them), and the finalizer that keeps each pod until it is
//! counted. Watches: jobs, pods. Writes: pods, jobs/status, events. [`decide`] says what to do with pods, [`status`] what
//! the status says; this file does it.
//!
//! What stays true: a pod is counted exactly once; a job does not end while one of its pods is uncounted or terminating;
//! at most 500 pods are created or deleted in one run; jobs of another `managedBy` are left alone. Not here: gang
//! scheduling (alpha upstream), deleting finished jobs (`ttl_after_finished`).

pub mod decide;
pub mod facts;
pub mod failures;
pub mod indexes;
pub mod policy;
mod removal;
pub mod status;
mod template;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use steersman_runtime::client::{ApiError, Patch};
use steersman_runtime::events::{EventType, reference};
use steersman_runtime::informer::IndexId;
use steersman_runtime::{Event, Informer, Key, WorkQueue};
use steersman_types::Typed;
use steersman_types::api::batch::v1::Job;
use steersman_types::api::core::v1::Pod;

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::own::OwnWrites;
use crate::{fleet, labels, owners, pods};
use decide::{Ending, Observed, Plan, decide};
use facts::{FINALIZER, Facts};
use failures::Failures;
use status::Done;

const WORKERS: usize = 5;
/// After a conflict.
const AGAIN: Duration = Duration::from_millis(20);
/// Events of pods are gathered this long, so that a hundred pods that end together cost a few writes. (Upstream gathers
/// for a second, which makes each step of a short job a second longer.)
const GATHER: Duration = Duration::from_millis(100);

struct Jobs {
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    /// Pods without a controller, by namespace.
    orphans: IndexId,
    /// Failures in a row by job; kept in memory only, as upstream does.
    failures: Mutex<HashMap<Key, Failures>>,
    executor: Executor,
    own: OwnWrites<Key>,
    queue: WorkQueue<Key>,
    /// Pods that may carry the finalizer of a job that will never count them.
    left_behind: WorkQueue<Key>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let jobs = context.informers.of::<Job>();
        let pods = context.informers.of::<Pod>();
        let orphans = owners::orphans(&pods);
        let own = OwnWrites::new([("pods", pods.progress()), ("jobs", jobs.progress())]);
        let this = Arc::new(Jobs {
            jobs,
            pods,
            orphans,
            failures: Mutex::default(),
            executor: context.executor("job-controller"),
            own,
            queue: context.queue(),
            left_behind: context.queue_named("job_orphan_pod"),
        });
        this.jobs.synced().await;
        this.pods.synced().await;
        this.watch();
        let (queue, left_behind) = (this.queue.clone(), this.left_behind.clone());
        let other = this.clone();
        tokio::join!(
            queue.run("job", WORKERS, move |key| reconcile(this.clone(), key)),
            left_behind.run("orphan pod", 1, move |key| free(other.clone(), key)),
        );
        Ok(())
    })
}

impl Jobs {
    fn watch(self: &Arc<Self>) {
        let this = self.clone();
        self.jobs.on_event(move |event| {
            let job = event.object();
            let key = Key::of(job.as_ref());
            if matches!(event, Event::Deleted(_)) || facts::is_finished(job) {
                for pod in this.pods.owned_by(job.metadata.uid.as_deref().unwrap_or_default()) {
                    this.left_behind.add(Key::of(pod.as_ref()));
                }
            }
            let spec_changed = event
                .old()
                .is_none_or(|old| old.metadata.generation != job.metadata.generation);
            this.queue
                .add_after(key, if spec_changed { Duration::ZERO } else { GATHER });
        });
        let this = self.clone();
        self.pods.on_event(move |event| {
            for pod in event.old().into_iter().chain([event.object()]) {
                this.pod_changed(pod, matches!(event, Event::Deleted(_)));
            }
        });
    }

    fn pod_changed(&self, pod: &Arc<Pod>, deleted: bool) {
        if owners::controller_of(&pod.metadata).is_some() {
            let Some(key) = owners::owner_key::<Job, Pod>(pod) else {
                return;
            };
            let running = self.jobs.get_key(&key).is_some_and(|job| !facts::is_finished(&job));
            if running {
                self.queue.add_after(key, GATHER);
            } else if facts::is_tracked(pod) {
                self.left_behind.add(Key::of(pod.as_ref()));
            }
            return;
        }
        if deleted {
            return;
        }
        if facts::is_tracked(pod) {
            self.left_behind.add(Key::of(pod.as_ref()));
        }
        for job in self.jobs.list_in(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
            if labels::selects(selector, pod.metadata.labels.as_ref()) {
                self.queue.add_after(Key::of(job.as_ref()), GATHER);
            }
        }
    }

    /// `None` when there is nothing (more) to do.
    fn observe(&self, key: &Key) -> Option<Observed> {
        let job = self
            .jobs
            .get_key(key)
            .filter(|job| !facts::is_managed_elsewhere(job) && !facts::is_finished(job));
        let Some(job) = job else {
            self.failures.lock().remove(key);
            return None;
        };
        let mut pods = self.pods.owned_by(job.metadata.uid.as_deref().unwrap_or_default());
        pods.extend(self.pods.by_index(self.orphans, &key.namespace));
        Some(Observed {
            job,
            pods,
            failures: self.failures.lock().get(key).copied().unwrap_or_default(),
            now: Timestamp::now(),
        })
    }
}

async fn reconcile(this: Arc<Jobs>, key: Key) -> Result<Option<Duration>, String> {
    this.own.seen(&key).await?;
    let Some(seen) = this.observe(&key) else {
        return Ok(None);
    };
    let Some(facts) = Facts::of(&seen.job) else {
        let text = "Skipped Job sync because completion mode is unknown".to_owned();
        let note = Action::event(
            reference(seen.job.as_ref()),
            EventType::Warning,
            "UnknownCompletionMode",
            text,
        );
        // Recording events does not fail.
        let _ = this.executor.one(note).await;
        return Ok(None);
    };
    let plan = decide(&seen, &facts);
    if !plan.adopt.is_empty() || !plan.release.is_empty() {
        return this.claim(&key, &seen, &plan).await;
    }
    let (done, failure) = this.act(&key, &seen, &plan).await;
    match this.track(&key, &seen, &facts, &plan, done).await {
        Err(error) if error.is_not_found() => return Ok(None),
        // Somebody wrote in between: decide again on what is there now.
        Err(error) if error.is_conflict() => return Ok(Some(AGAIN)),
        outcome => outcome.map_err(|e| format!("tracking status: {e}"))?,
    }
    match failure {
        Some(error) => Err(error.to_string()),
        None => Ok(plan.again),
    }
}

/// Takes the finalizer off a pod whose job is gone, has ended or does not own it any more.
async fn free(this: Arc<Jobs>, key: Key) -> Result<Option<Duration>, String> {
    let Some(pod) = this.pods.get_key(&key).filter(|pod| facts::is_tracked(pod)) else {
        return Ok(None);
    };
    if owners::controller_of(&pod.metadata).is_some() {
        let Some(owner) = owners::owner_key::<Job, Pod>(&pod) else {
            return Ok(None);
        };
        let uid = owners::controller_of(&pod.metadata).map(|o| o.uid.clone());
        let job = this.jobs.get_key(&owner).filter(|job| job.metadata.uid == uid);
        if job.is_some_and(|job| facts::is_managed_elsewhere(&job) || !facts::is_finished(&job)) {
            return Ok(None);
        }
    }
    match this.executor.one(untrack(&pod)).await {
        Err(error) if !is_gone(&error) => Err(error.to_string()),
        _ => Ok(None),
    }
}

impl Jobs {
    async fn claim(&self, key: &Key, seen: &Observed, plan: &Plan) -> Result<Option<Duration>, String> {
        let job = seen.job.as_ref();
        let owner = owners::reference_to(job);
        if !plan.adopt.is_empty() {
            let fresh = self.executor.client().get::<Job>(key.ns(), &key.name).await;
            let fresh = fresh.map_err(|e| e.to_string())?;
            if fresh.metadata.uid != job.metadata.uid || fresh.metadata.deletion_timestamp.is_some() {
                return Err(format!("{key} is gone or has been deleted: not adopting"));
            }
        }
        let adopt = plan.adopt.iter().map(|pod| {
            let mut patch = owners::adopt_patch(&owner, &pod.metadata);
            patch["metadata"]["finalizers"] = json!([FINALIZER]);
            (pod, patch)
        });
        let release = plan.release.iter().map(|pod| {
            let mut patch = owners::release_patch(&owner.uid, &pod.metadata);
            patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([FINALIZER]);
            (pod, patch)
        });
        let patches = adopt
            .chain(release)
            .map(|(pod, body)| Action::patch(pod.as_ref(), None, Patch::Strategic(body)));
        for outcome in self.executor.all(patches.collect()).await {
            match outcome {
                Ok(written) => self.own.wrote(key, &[written]),
                Err(error) if is_gone(&error) || error.is_invalid() => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        // Decide when the caches show who belongs to whom.
        Ok(Some(Duration::from_millis(1)))
    }

    /// Deletions or creations; never both.
    async fn act(&self, key: &Key, seen: &Observed, plan: &Plan) -> (Done, Option<ApiError>) {
        let about = reference(seen.job.as_ref());
        let mut done = Done::default();
        let mut doomed = plan.delete.clone();
        if !plan.delete_counted && !doomed.is_empty() {
            // Such a pod is not to be counted: first the finalizer, then the pod.
            let tracked: Vec<_> = doomed.iter().filter(|p| facts::is_tracked(p)).cloned().collect();
            let (freed, failure) = self.untrack_all(key, &tracked).await;
            if let Some(error) = failure {
                let is_freed = |p: &Arc<Pod>| p.metadata.uid.as_ref().is_some_and(|uid| freed.contains(uid));
                doomed.retain(|pod| !facts::is_tracked(pod) || is_freed(pod));
                let (deleted, _) = fleet::delete(&self.executor, &about, &doomed).await;
                self.own.wrote(key, &deleted);
                done.deleted = deleted.len();
                return (done, Some(error));
            }
        }
        let (deleted, failure) = fleet::delete(&self.executor, &about, &doomed).await;
        self.own.wrote(key, &deleted);
        done.deleted = deleted.len();
        done.deleted_ready = doomed.iter().filter(|p| pods::is_ready(p)).count();
        if failure.is_some() {
            return (done, failure);
        }
        let (created, failure) = fleet::create(&self.executor, &about, plan.create.clone()).await;
        self.own.wrote(key, &created);
        done.created = created.len();
        (done, failure)
    }

    /// The status and the finalizers, in the order that [`status`] explains.
    async fn track(
        &self,
        key: &Key,
        seen: &Observed,
        facts: &Facts<'_>,
        plan: &Plan,
        done: Done,
    ) -> Result<(), ApiError> {
        let midway = status::first(seen, facts, plan, done);
        let mut stored = seen.job.as_ref().clone();
        if midway.write {
            let written = self.executor.one(Action::update_status(&midway.job)).await?;
            stored = Job::from_value(&written.object).map_err(|e| ApiError::Decode(e.to_string()))?;
            self.own.wrote(key, &[written]);
        }
        self.failures.lock().insert(key.clone(), plan.failures);
        let about = reference(seen.job.as_ref());
        if let Some(suspended) = midway.suspended {
            let (reason, text) = if suspended {
                ("Suspended", "Job suspended")
            } else {
                ("Resumed", "Job resumed")
            };
            let note = Action::event(about.clone(), EventType::Normal, reason, text.to_owned());
            self.executor.one(note).await?;
        }
        let (removed, failure) = self.untrack_all(key, &midway.counted).await;
        let (job, ended) = status::last(&midway, stored, &removed, Timestamp::now());
        if let Some(job) = job {
            let written = self.executor.one(Action::update_status(&job)).await?;
            self.own.wrote(key, &[written]);
            if let Some(ending) = ended {
                let notes = ending_notes(&job, &ending);
                let (_, outcome) = self.executor.run(notes).await;
                outcome?;
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// UIDs of the pods whose finalizer is gone, and the last failure.
    async fn untrack_all(&self, key: &Key, pods: &[Arc<Pod>]) -> (BTreeSet<String>, Option<ApiError>) {
        let (mut removed, mut failure) = (BTreeSet::new(), None);
        let outcomes = self.executor.all(pods.iter().map(|p| untrack(p)).collect()).await;
        for (pod, outcome) in pods.iter().zip(outcomes) {
            match outcome {
                Ok(written) => self.own.wrote(key, &[written]),
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            }
            removed.extend(pod.metadata.uid.clone());
        }
        (removed, failure)
    }
}

fn untrack(pod: &Pod) -> Action {
    let body: Value =
        json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    Action::patch(pod, None, Patch::Strategic(body))
}

/// Not there, or another object of that name by now.
fn is_gone(error: &ApiError) -> bool {
    error.is_not_found() || error.is_conflict()
}

fn ending_notes(job: &Job, ending: &Ending) -> Vec<Action> {
    let about = reference(job);
    if !ending.success {
        let reason = match ending.reason.as_str() {
            "PodFailurePolicy" => "PodFailurePolicy",
            "BackoffLimitExceeded" => "BackoffLimitExceeded",
            "DeadlineExceeded" => "DeadlineExceeded",
            "MaxFailedIndexesExceeded" => "MaxFailedIndexesExceeded",
            "FailedIndexes" => "FailedIndexes",
            _ => "Failed",
        };
        return vec![Action::event(about, EventType::Warning, reason, ending.message.clone())];
    }
    let wanted = job.spec.as_ref().and_then(|s| s.completions);
    let succeeded = job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
    let mut notes = Vec::new();
    if wanted.is_some_and(|wanted| succeeded > wanted) {
        let text = "Too many succeeded pods running after completion count reached".to_owned();
        notes.push(Action::event(
            about.clone(),
            EventType::Warning,
            "TooManySucceededPods",
            text,
        ));
    }
    notes.push(Action::event(
        about,
        EventType::Normal,
        "Completed",
        "Job completed".to_owned(),
    ));
    notes
}
