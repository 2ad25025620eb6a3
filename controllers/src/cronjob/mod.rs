//! Starts a Job at each of a CronJob's scheduled times, and clears old ones away.
//!
//! Owns: the jobs it made (by controller reference). Watches: cronjobs, jobs. Writes: jobs, cronjobs/status, events.
//! [`decide`] says what to do; this file does it.
//!
//! What stays true: a scheduled minute gets one job, because the minute is in its name; with `Forbid` none starts beside
//! another, with `Replace` the running one is deleted first.

pub mod decide;
pub mod schedule;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use steersman_runtime::client::{ApiError, DeleteOptions, Propagation, Resource};
use steersman_runtime::events::{EventType, reference};
use steersman_runtime::{Informer, Key, WorkQueue};
use steersman_types::api::batch::v1::{CronJob, CronJobStatus, Job};
use steersman_types::api::core::v1::ObjectReference;
use steersman_types::{Time, Typed};

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::own::OwnWrites;
use crate::owners;
use decide::{Observed, Plan, decide};

const WORKERS: usize = 5;
/// After a conflict.
const AGAIN: Duration = Duration::from_millis(20);

struct Crons {
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    executor: Executor,
    own: OwnWrites<Key>,
    queue: WorkQueue<Key>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let crons = context.informers.of::<CronJob>();
        let jobs = context.informers.of::<Job>();
        let own = OwnWrites::new([("cronjobs", crons.progress()), ("jobs", jobs.progress())]);
        let queue = context.queue();
        let this = Arc::new(Crons {
            crons,
            jobs,
            executor: context.executor("cronjob-controller"),
            own,
            queue: queue.clone(),
        });
        this.crons.synced().await;
        this.jobs.synced().await;
        this.watch();
        queue
            .run("CronJobController", WORKERS, move |key| reconcile(this.clone(), key))
            .await;
        Ok(())
    })
}

impl Crons {
    fn watch(&self) {
        let queue = self.queue.clone();
        self.crons
            .on_event(move |event| queue.add(Key::of(event.object().as_ref())));
        let queue = self.queue.clone();
        self.jobs.on_event(move |event| {
            for job in event.old().into_iter().chain([event.object()]) {
                if let Some(key) = owners::owner_key::<CronJob, Job>(job) {
                    queue.add(key);
                }
            }
        });
    }

    async fn observe(&self, key: &Key) -> Result<Option<Observed>, ApiError> {
        let Some(cron) = self.crons.get_key(key) else {
            return Ok(None);
        };
        let jobs = self.jobs.owned_by(cron.metadata.uid.as_deref().unwrap_or_default());
        let mut gone = BTreeSet::new();
        for active in cron.status.iter().flat_map(|s| s.active.iter().flatten()) {
            if jobs.iter().any(|j| j.metadata.uid == active.uid) {
                continue;
            }
            // The caches of the two kinds are not equally fresh: ask.
            let name = active.name.as_deref().unwrap_or_default();
            match self.executor.client().get::<Job>(key.ns(), name).await {
                Ok(job) if job.metadata.uid == active.uid => {}
                Err(error) if !error.is_not_found() => return Err(error),
                _ => gone.extend(active.uid.clone()),
            }
        }
        Ok(Some(Observed {
            cron,
            jobs,
            gone,
            now: Timestamp::now(),
        }))
    }
}

async fn reconcile(this: Arc<Crons>, key: Key) -> Result<Option<Duration>, String> {
    this.own.seen(&key).await?;
    let Some(seen) = this.observe(&key).await.map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    let plan = decide(&seen);
    let again = plan.again;
    match this.act(&key, &seen, plan).await {
        Err(error) if error.is_not_found() || error.is_namespace_terminating() => Ok(None),
        // Somebody wrote in between: decide again on what is there now.
        Err(error) if error.is_conflict() => Ok(Some(AGAIN)),
        Err(error) => Err(error.to_string()),
        Ok(()) => Ok(again),
    }
}

impl Crons {
    async fn act(&self, key: &Key, seen: &Observed, plan: Plan) -> Result<(), ApiError> {
        let cron = seen.cron.as_ref();
        for job in &plan.forget {
            // The next run tries again; it must not keep the next job from starting.
            let _ = self.delete(key, cron, &reference(job.as_ref())).await;
        }
        for (kind, reason, text) in plan.remarks {
            self.note(cron, kind, reason, text).await;
        }
        let mut status = plan.status;
        let mut failure = None;
        if let Some((job, due)) = plan.start {
            failure = self.begin(key, cron, &mut status, &plan.replace, &job, due).await.err();
        }
        if !same(cron.status.as_ref(), &status) {
            let mut updated = cron.clone();
            updated.status = Some(status);
            let written = self.executor.one(Action::update_status(&updated)).await?;
            self.own.wrote(key, &[written]);
        }
        failure.map_or(Ok(()), Err)
    }

    /// Makes room, creates the job and enters it into `status`.
    async fn begin(
        &self,
        key: &Key,
        cron: &CronJob,
        status: &mut CronJobStatus,
        replace: &[ObjectReference],
        job: &Job,
        due: Timestamp,
    ) -> Result<(), ApiError> {
        for old in replace {
            self.delete(key, cron, old).await?;
            status.active.get_or_insert_default().retain(|r| r.uid != old.uid);
        }
        let created = match self.executor.one(Action::create(job)).await {
            Ok(written) => {
                let created = Job::from_value(&written.object).map_err(|e| ApiError::Decode(e.to_string()))?;
                self.own.wrote(key, &[written]);
                let name = created.metadata.name.as_deref().unwrap_or_default();
                self.note(
                    cron,
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("Created job {name}"),
                )
                .await;
                created
            }
            Err(error) if error.is_already_exists() => {
                // Made before a crash, and not entered yet; or somebody else's.
                let name = job.metadata.name.as_deref().unwrap_or_default();
                let there: Job = self.executor.client().get(key.ns(), name).await?;
                let ours = owners::controller_of(&there.metadata).map(|o| &o.uid) == cron.metadata.uid.as_ref();
                if !ours {
                    return Ok(());
                }
                there
            }
            Err(error) if error.is_namespace_terminating() => return Err(error),
            Err(error) => {
                self.note(
                    cron,
                    EventType::Warning,
                    "FailedCreate",
                    format!("Error creating job: {error}"),
                )
                .await;
                return Err(error);
            }
        };
        let active = status.active.get_or_insert_default();
        if !active.iter().any(|r| r.uid == created.metadata.uid) {
            active.push(reference(&created));
        }
        status.last_schedule_time = Some(Time(due));
        Ok(())
    }

    /// The job and, later, its pods.
    async fn delete(&self, key: &Key, cron: &CronJob, job: &ObjectReference) -> Result<(), ApiError> {
        let name = job.name.clone().unwrap_or_default();
        let action = Action::Delete {
            resource: Resource::of::<Job>(),
            namespace: job.namespace.clone(),
            name: name.clone(),
            options: DeleteOptions {
                uid: job.uid.clone(),
                propagation: Some(Propagation::Background),
                ..DeleteOptions::default()
            },
        };
        match self.executor.one(action).await {
            Ok(written) => {
                self.own.wrote(key, &[written]);
                self.note(
                    cron,
                    EventType::Normal,
                    "SuccessfulDelete",
                    format!("Deleted job {name}"),
                )
                .await;
                Ok(())
            }
            Err(error) => {
                self.note(
                    cron,
                    EventType::Warning,
                    "FailedDelete",
                    format!("Deleted job: {error}"),
                )
                .await;
                Err(error)
            }
        }
    }

    async fn note(&self, cron: &CronJob, kind: EventType, reason: &'static str, text: String) {
        // Recording events does not fail.
        let _ = self
            .executor
            .one(Action::event(reference(cron), kind, reason, text))
            .await;
    }
}

/// Equal where an absent list is empty.
fn same(old: Option<&CronJobStatus>, new: &CronJobStatus) -> bool {
    let plain = |s: &CronJobStatus| {
        let mut s = s.clone();
        s.active.get_or_insert_default();
        s
    };
    plain(&old.cloned().unwrap_or_default()) == plain(new)
}
