//! Keeps the number of a ReplicaSet's (or ReplicationController's) pods at `spec.replicas`.
//!
//! Owns: pods that its selector selects (adopting and releasing them). Watches: the sets, pods. Writes: pods, the sets'
//! status, events. [`decide`] says what to do, this file does it; [`flavor`] holds what differs between the two kinds.
//!
//! What stays true: never more than 500 pods are created or deleted in one run; pods that are terminating or finished
//! do not count; a pod is deleted by its UID.

pub mod decide;
pub mod flavor;
mod rank;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use steersman_runtime::client::ApiError;
use steersman_runtime::events::reference;
use steersman_runtime::informer::IndexId;
use steersman_runtime::{Informer, Key};
use steersman_types::api::apps::v1::ReplicaSet;
use steersman_types::api::core::v1::{Pod, ReplicationController};

use crate::act::{Action, Executor, Written};
use crate::context::Context;
use crate::own::OwnWrites;
use crate::{fleet, labels, owners};
use decide::{Observed, Plan, decide};
use flavor::Flavor;

const WORKERS: usize = 5;
/// After a conflict.
const AGAIN: Duration = Duration::from_millis(20);

struct Replicas<T: Flavor> {
    sets: Informer<T>,
    pods: Informer<Pod>,
    orphans: IndexId,
    executor: Executor,
    own: OwnWrites<Key>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(run::<ReplicaSet>(context))
}

/// The same for ReplicationControllers.
#[must_use]
pub fn start_replication(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(run::<ReplicationController>(context))
}

async fn run<T: Flavor>(context: Context) -> anyhow::Result<()> {
    let sets = context.informers.of::<T>();
    let pods = context.informers.of::<Pod>();
    let this = Arc::new(Replicas {
        orphans: owners::orphans(&pods),
        own: OwnWrites::new([("pods", pods.progress()), (T::PLURAL, sets.progress())]),
        executor: context.executor(T::COMPONENT),
        sets,
        pods,
    });
    this.sets.synced().await;
    this.pods.synced().await;
    let queue = context.queue();
    let adding = queue.clone();
    this.sets
        .on_event(move |event| adding.add(Key::of(event.object().as_ref())));
    let selects = |set: &T, labels: Option<&_>| {
        // Only the selector is looked at, once per orphan and set.
        let view = T::view(&Arc::new(set.clone()));
        labels::selects(view.spec.as_ref().map(|s| &s.selector), labels)
    };
    owners::follow(&this.pods, &this.sets, queue.clone(), move |set: &T, meta| {
        selects(set, meta.labels.as_ref())
    });
    queue
        .run(T::KIND, WORKERS, move |key| reconcile(this.clone(), key))
        .await;
    Ok(())
}

async fn reconcile<T: Flavor>(this: Arc<Replicas<T>>, key: Key) -> Result<Option<Duration>, String> {
    this.own.seen(&key).await?;
    let Some(set) = this.sets.get_key(&key) else {
        return Ok(None);
    };
    let seen = this.observe(&key, &set);
    let plan = decide(&seen);
    let (written, failure) = this.act(&set, &plan).await;
    this.own.wrote(&key, &written);
    let failed = failure.as_ref().map(ToString::to_string);
    if let Some(status) = decide::status(&seen, &plan, failed.as_deref()) {
        let action = Action::update_status(&set.with_status(status));
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

impl<T: Flavor> Replicas<T> {
    fn observe(&self, key: &Key, set: &Arc<T>) -> Observed {
        let uid = set.metadata().uid.clone().unwrap_or_default();
        let mut pods = self.pods.owned_by(&uid);
        pods.extend(self.pods.by_index(self.orphans, &key.namespace));
        // Pods of all sets of the same owner count when it comes to spreading deletions over nodes.
        let owner = owners::controller_of(set.metadata()).map(|o| o.uid.clone());
        let siblings = owner.map(|owner| self.sets.owned_by(&owner)).unwrap_or_default();
        let related = siblings
            .iter()
            .filter_map(|sibling| sibling.metadata().uid.as_deref())
            .filter(|sibling| *sibling != uid)
            .flat_map(|sibling| self.pods.owned_by(sibling))
            .collect();
        Observed {
            set: T::view(set),
            pods,
            related,
            now: Timestamp::now(),
        }
    }

    async fn act(&self, set: &Arc<T>, plan: &Plan) -> (Vec<Written>, Option<ApiError>) {
        let about = reference(set.as_ref());
        let (mut written, mut failure) = owners::settle(&self.executor, set.as_ref(), &plan.adopt, &plan.release).await;
        if failure.is_none() {
            let (more, error) = fleet::delete(&self.executor, &about, &plan.delete).await;
            written.extend(more);
            failure = error;
        }
        if failure.is_none() && plan.create > 0 {
            let view = T::view(set);
            let template = view.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
            let pod = fleet::pod_from_template(&template, set.as_ref());
            let (more, error) = fleet::create(&self.executor, &about, vec![pod; plan.create]).await;
            written.extend(more);
            failure = error;
        }
        (written, failure)
    }
}
