//! Keeps the number of a ReplicaSet's pods at `spec.replicas`.
//!
//! Owns: pods that its selector selects (adopting and releasing them). Watches: replicasets, pods. Writes: pods,
//! replicasets/status, events. [`decide`] says what to do, this file does it: creations in growing batches, so that
//! something that refuses every pod (a quota, an admission plugin) is asked once or twice and not five hundred times.
//!
//! What stays true: never more than 500 pods are created or deleted in one run; pods that are terminating or finished
//! do not count; a pod is deleted by its UID.

pub mod decide;
mod rank;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use steersman_runtime::client::{ApiError, Patch};
use steersman_runtime::events::{EventType, reference};
use steersman_runtime::informer::IndexId;
use steersman_runtime::{Event, Informer, Key, WorkQueue};
use steersman_types::api::apps::v1::ReplicaSet;
use steersman_types::api::core::v1::Pod;

use crate::act::{Action, Executor, Written};
use crate::context::Context;
use crate::own::OwnWrites;
use crate::{labels, owners};
use decide::{Observed, Plan, decide};

const WORKERS: usize = 5;
/// After a conflict.
const AGAIN: Duration = Duration::from_millis(20);

struct Replicas {
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    /// Pods without a controller, by namespace.
    orphans: IndexId,
    executor: Executor,
    own: OwnWrites<Key>,
    queue: WorkQueue<Key>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let sets = context.informers.of::<ReplicaSet>();
        let pods = context.informers.of::<Pod>();
        let orphans = pods.add_index(|pod: &Pod| match owners::controller_of(&pod.metadata) {
            None => vec![pod.metadata.namespace.clone().unwrap_or_default()],
            Some(_) => Vec::new(),
        });
        let queue = context.queue();
        let own = OwnWrites::new([("pods", pods.progress()), ("replicasets", sets.progress())]);
        let executor = context.executor("replicaset-controller");
        let this = Arc::new(Replicas {
            sets,
            pods,
            orphans,
            executor,
            own,
            queue: queue.clone(),
        });
        this.sets.synced().await;
        this.pods.synced().await;
        this.watch();
        queue
            .run("ReplicaSet", WORKERS, move |key| reconcile(this.clone(), key))
            .await;
        Ok(())
    })
}

impl Replicas {
    fn watch(&self) {
        let queue = self.queue.clone();
        self.sets
            .on_event(move |event| queue.add(Key::of(event.object().as_ref())));
        let (queue, sets) = (self.queue.clone(), self.sets.clone());
        self.pods.on_event(move |event| {
            for pod in event.old().into_iter().chain([event.object()]) {
                match owners::controller_of(&pod.metadata) {
                    Some(_) => {
                        if let Some(key) = owners::owner_key::<ReplicaSet, Pod>(pod) {
                            queue.add(key);
                        }
                    }
                    None if matches!(event, Event::Deleted(_)) => {}
                    None => {
                        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                        for set in sets.list_in(namespace) {
                            let selector = set.spec.as_ref().map(|s| &s.selector);
                            if labels::selects(selector, pod.metadata.labels.as_ref()) {
                                queue.add(Key::of(set.as_ref()));
                            }
                        }
                    }
                }
            }
        });
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        let set = self.sets.get_key(key)?;
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let mut pods = self.pods.owned_by(&uid);
        pods.extend(self.pods.by_index(self.orphans, &key.namespace));
        // Pods of all sets of the same owner count when it comes to spreading deletions over nodes.
        let owner = owners::controller_of(&set.metadata).map(|o| o.uid.clone());
        let related = match owner {
            None => Vec::new(),
            Some(owner) => {
                let siblings = self
                    .sets
                    .owned_by(&owner)
                    .into_iter()
                    .filter_map(|s| s.metadata.uid.clone());
                siblings
                    .filter(|sibling| *sibling != uid)
                    .flat_map(|sibling| self.pods.owned_by(&sibling))
                    .collect()
            }
        };
        Some(Observed {
            set,
            pods,
            related,
            now: Timestamp::now(),
        })
    }
}

async fn reconcile(this: Arc<Replicas>, key: Key) -> Result<Option<Duration>, String> {
    this.own.seen(&key).await?;
    let Some(seen) = this.observe(&key) else {
        return Ok(None);
    };
    let plan = decide(&seen);
    let (written, failure) = this.act(&seen, &plan).await;
    this.own.wrote(&key, &written);
    let failed = failure.as_ref().map(ToString::to_string);
    if let Some(action) = decide::status(&seen, &plan, failed.as_deref()) {
        let (written, outcome) = this.executor.run(vec![action]).await;
        this.own.wrote(&key, &written);
        match outcome {
            Err(error) if error.is_not_found() => return Ok(None),
            // Somebody wrote in between: decide again on what is there now.
            Err(error) if error.is_conflict() && failed.is_none() => return Ok(Some(AGAIN)),
            outcome => outcome.map_err(|e| e.to_string())?,
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(plan.again),
    }
}

impl Replicas {
    async fn act(&self, seen: &Observed, plan: &Plan) -> (Vec<Written>, Option<ApiError>) {
        if !plan.adopt.is_empty()
            && let Err(error) = self.still_wanted(&seen.set).await
        {
            return (Vec::new(), Some(error));
        }
        let owner = owners::reference_to(seen.set.as_ref());
        let mut claims = Vec::new();
        for pod in &plan.adopt {
            let patch = Patch::Strategic(owners::adopt_patch(&owner, &pod.metadata));
            claims.push(Action::patch(pod.as_ref(), None, patch));
        }
        for pod in &plan.release {
            let patch = Patch::Strategic(owners::release_patch(&owner.uid, &pod.metadata));
            claims.push(Action::patch(pod.as_ref(), None, patch));
        }
        let mut written = Vec::new();
        let mut failure = None;
        for outcome in self.executor.all(claims).await {
            match outcome {
                Ok(one) => written.push(one),
                // Gone, or another pod by now: nothing left to claim.
                Err(error) if error.is_not_found() || error.is_invalid() => {}
                Err(error) => failure = Some(error),
            }
        }
        if failure.is_none() {
            let (more, error) = self.delete(seen, plan).await;
            written.extend(more);
            failure = error;
        }
        if failure.is_none() {
            let (more, error) = self.create(seen, plan).await;
            written.extend(more);
            failure = error;
        }
        (written, failure)
    }

    /// Before adopting, asks the server itself whether the set is still there and not being deleted: the cache may
    /// not know yet, and an adopted pod would be collected with its new owner.
    async fn still_wanted(&self, set: &ReplicaSet) -> Result<(), ApiError> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let fresh: ReplicaSet = self
            .executor
            .client()
            .get(set.metadata.namespace.as_deref(), name)
            .await?;
        if fresh.metadata.uid != set.metadata.uid || fresh.metadata.deletion_timestamp.is_some() {
            return Err(ApiError::Decode(format!(
                "{name} is gone or has been deleted: not adopting"
            )));
        }
        Ok(())
    }

    async fn delete(&self, seen: &Observed, plan: &Plan) -> (Vec<Written>, Option<ApiError>) {
        let about = reference(seen.set.as_ref());
        let actions = plan.delete.iter().map(|pod| Action::delete(pod.as_ref())).collect();
        let outcomes = self.executor.all(actions).await;
        let (mut written, mut failure, mut notes) = (Vec::new(), None, Vec::new());
        for (pod, outcome) in plan.delete.iter().zip(outcomes) {
            let name = pod.metadata.name.clone().unwrap_or_default();
            match outcome {
                Ok(one) => {
                    written.push(one);
                    let message = format!("Deleted pod: {name}");
                    notes.push(Action::event(
                        about.clone(),
                        EventType::Normal,
                        "SuccessfulDelete",
                        message,
                    ));
                }
                Err(error) => {
                    let message = format!("Error deleting: {error}");
                    notes.push(Action::event(
                        about.clone(),
                        EventType::Warning,
                        "FailedDelete",
                        message,
                    ));
                    failure = Some(error);
                }
            }
        }
        // Recording events does not fail.
        let _ = self.executor.run(notes).await;
        (written, failure)
    }

    async fn create(&self, seen: &Observed, plan: &Plan) -> (Vec<Written>, Option<ApiError>) {
        let about = reference(seen.set.as_ref());
        let pod = Action::create(&decide::pod(&seen.set));
        let (mut written, mut failure, mut notes) = (Vec::new(), None, Vec::new());
        let (mut left, mut batch) = (plan.create, 1);
        while left > 0 && failure.is_none() {
            batch = batch.min(left);
            for outcome in self.executor.all(vec![pod.clone(); batch]).await {
                match outcome {
                    Ok(one) => {
                        let name = one.object["metadata"]["name"].as_str().unwrap_or_default();
                        let message = format!("Created pod: {name}");
                        notes.push(Action::event(
                            about.clone(),
                            EventType::Normal,
                            "SuccessfulCreate",
                            message,
                        ));
                        written.push(one);
                    }
                    // Every creation here will fail from now on, and soon the set goes as well.
                    Err(error) if error.is_namespace_terminating() => return (written, None),
                    Err(error) => {
                        let message = format!("Error creating: {error}");
                        notes.push(Action::event(
                            about.clone(),
                            EventType::Warning,
                            "FailedCreate",
                            message,
                        ));
                        failure = Some(error);
                    }
                }
            }
            left -= batch;
            batch *= 2;
        }
        let _ = self.executor.run(notes).await;
        (written, failure)
    }
}
