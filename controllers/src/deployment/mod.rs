//! Rolls a Deployment's pods from one template to the next by growing and shrinking ReplicaSets.
//!
//! Owns: replicasets (adopting and releasing them). Watches: deployments, replicasets, pods. Writes: replicasets,
//! deployments/status (with the revision annotation), events. [`decide`] makes the whole plan of one run: at most one
//! kind of change of sizes, then the status that describes what was observed.
//!
//! What stays true: the sizes wanted from all sets never exceed `replicas` + `maxSurge`, and no run shrinks sets below the
//! available minimum; the set for a template is found by comparing templates, so that a set which upstream's controller
//! named differently is taken over as it is.

pub mod decide;
mod revision;
pub mod rollout;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use steersman_runtime::client::{ApiError, Patch};
use steersman_runtime::events::{EventType, reference};
use steersman_runtime::{Event, Informer, Key, WorkQueue};
use steersman_types::api::apps::v1::{Deployment, ReplicaSet};
use steersman_types::api::core::v1::Pod;
use tracing::info;

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::own::OwnWrites;
use crate::{labels, owners, pods};
use decide::{Observed, Plan, decide};

const WORKERS: usize = 5;
/// After a conflict.
const AGAIN: Duration = Duration::from_millis(20);

struct Deployments {
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    executor: Executor,
    own: OwnWrites<Key>,
    queue: WorkQueue<Key>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let deployments = context.informers.of::<Deployment>();
        let sets = context.informers.of::<ReplicaSet>();
        let pods = context.informers.of::<Pod>();
        let own = OwnWrites::new([
            ("deployments", deployments.progress()),
            ("replicasets", sets.progress()),
        ]);
        let executor = context.executor("deployment-controller");
        let queue = context.queue();
        let this = Arc::new(Deployments {
            deployments,
            sets,
            pods,
            executor,
            own,
            queue: queue.clone(),
        });
        this.deployments.synced().await;
        this.sets.synced().await;
        this.pods.synced().await;
        this.watch();
        queue
            .run("deployment", WORKERS, move |key| reconcile(this.clone(), key))
            .await;
        Ok(())
    })
}

impl Deployments {
    fn watch(&self) {
        let queue = self.queue.clone();
        self.deployments
            .on_event(move |event| queue.add(Key::of(event.object().as_ref())));
        let (queue, deployments) = (self.queue.clone(), self.deployments.clone());
        self.sets.on_event(move |event| {
            for set in event.old().into_iter().chain([event.object()]) {
                if let Some(key) = owners::owner_key::<Deployment, ReplicaSet>(set) {
                    queue.add(key);
                } else if owners::controller_of(&set.metadata).is_none() && !matches!(event, Event::Deleted(_)) {
                    for deployment in deployments.list_in(set.metadata.namespace.as_deref().unwrap_or_default()) {
                        let selector = deployment.spec.as_ref().map(|s| &s.selector);
                        if labels::selects(selector, set.metadata.labels.as_ref()) {
                            queue.add(Key::of(deployment.as_ref()));
                        }
                    }
                }
            }
        });
        // Recreate waits for the last old pod to be gone: nothing else tells.
        let (queue, deployments, sets) = (self.queue.clone(), self.deployments.clone(), self.sets.clone());
        self.pods.on_event(move |event| {
            let pod = event.object();
            if matches!(event, Event::Deleted(_)) || pods::is_finished(pod) {
                let set = owners::owner_key::<ReplicaSet, Pod>(pod).and_then(|key| sets.get_key(&key));
                let key = set.and_then(|set| owners::owner_key::<Deployment, ReplicaSet>(&set));
                let recreates = key.as_ref().and_then(|key| deployments.get_key(key)).is_some_and(|d| {
                    let strategy = d
                        .spec
                        .as_ref()
                        .and_then(|s| s.strategy.as_ref())
                        .and_then(|s| s.type_.as_deref());
                    strategy == Some("Recreate")
                });
                if let Some(key) = key.filter(|_| recreates) {
                    queue.add(key);
                }
            }
        });
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        let deployment = self.deployments.get_key(key)?;
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let selector = deployment.spec.as_ref().map(|s| &s.selector);
        let going = deployment.metadata.deletion_timestamp.is_some();
        let mut seen = Observed {
            now: Timestamp::now(),
            ..Observed::of(deployment.clone())
        };
        for set in self.sets.list_in(&key.namespace) {
            let selected = labels::selects(selector, set.metadata.labels.as_ref());
            match owners::claim(&set.metadata, uid, selected, going) {
                owners::Claim::Own => {
                    let pods = self.pods.owned_by(set.metadata.uid.as_deref().unwrap_or_default());
                    if pods.iter().any(|pod| !pods::is_finished(pod)) {
                        seen.sets_with_pods
                            .insert(set.metadata.name.clone().unwrap_or_default());
                    }
                    seen.sets.push(set);
                }
                owners::Claim::Adopt => seen.adopt.push(set),
                owners::Claim::Release => seen.release.push(set),
                owners::Claim::Ignore => {}
            }
        }
        Some(seen)
    }
}

async fn reconcile(this: Arc<Deployments>, key: Key) -> Result<Option<Duration>, String> {
    this.own.seen(&key).await?;
    let Some(seen) = this.observe(&key) else {
        return Ok(None);
    };
    if !seen.adopt.is_empty() || !seen.release.is_empty() {
        return this.claim(&key, &seen).await;
    }
    let plan = decide(&seen);
    let again = plan.again;
    let outcome = this.act(&key, &seen, plan).await;
    match outcome {
        Err(error) if error.is_not_found() || error.is_namespace_terminating() => Ok(None),
        // Somebody wrote in between: decide again on what is there now.
        Err(error) if error.is_conflict() => Ok(Some(AGAIN)),
        Err(error) => Err(error.to_string()),
        Ok(()) => Ok(again),
    }
}

impl Deployments {
    async fn claim(&self, key: &Key, seen: &Observed) -> Result<Option<Duration>, String> {
        let deployment = seen.deployment.as_ref();
        let owner = owners::reference_to(deployment);
        if !seen.adopt.is_empty() {
            let name = deployment.metadata.name.as_deref().unwrap_or_default();
            let fresh = self
                .executor
                .client()
                .get::<Deployment>(deployment.metadata.namespace.as_deref(), name)
                .await;
            let fresh = fresh.map_err(|e| e.to_string())?;
            if fresh.metadata.uid != deployment.metadata.uid || fresh.metadata.deletion_timestamp.is_some() {
                return Err(format!("{key} is gone or has been deleted: not adopting"));
            }
        }
        let adopt = seen
            .adopt
            .iter()
            .map(|set| (set, owners::adopt_patch(&owner, &set.metadata)));
        let release = seen
            .release
            .iter()
            .map(|set| (set, owners::release_patch(&owner.uid, &set.metadata)));
        let patches = adopt
            .chain(release)
            .map(|(set, body)| Action::patch(set.as_ref(), None, Patch::Strategic(body)));
        for outcome in self.executor.all(patches.collect()).await {
            match outcome {
                Ok(written) => self.own.wrote(key, &[written]),
                Err(error) if error.is_not_found() || error.is_invalid() => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        // Decide when the caches show who belongs to whom.
        Ok(Some(Duration::from_millis(1)))
    }

    async fn act(&self, key: &Key, seen: &Observed, plan: Plan) -> Result<(), ApiError> {
        let about = reference(seen.deployment.as_ref());
        if let Some(set) = plan.create {
            let created = self.executor.one(Action::create(&set)).await;
            match created {
                Ok(written) => {
                    self.own.wrote(key, &[written]);
                    let size = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
                    if size > 0 {
                        let name = set.metadata.name.as_deref().unwrap_or_default();
                        let message = format!("Scaled up replica set {name} from 0 to {size}");
                        let note = Action::event(about, EventType::Normal, "ScalingReplicaSet", message);
                        self.executor.one(note).await?;
                    }
                }
                Err(error) if error.is_already_exists() => return self.collided(key, seen, &set, error).await,
                Err(error) if error.is_namespace_terminating() => return Err(error),
                Err(error) => {
                    let name = set.metadata.name.as_deref().unwrap_or_default();
                    let message = format!("Failed to create new replica set {name:?}: {error}");
                    let note = Action::event(about, EventType::Warning, "ReplicaSetCreateError", message.clone());
                    let mut actions = vec![note];
                    actions.extend(status::creation_failed(&seen.deployment, message, seen.now));
                    let (written, _) = self.executor.run(actions).await;
                    self.own.wrote(key, &written);
                    return Err(error);
                }
            }
        }
        let (written, outcome) = self.executor.run(plan.actions).await;
        self.own.wrote(key, &written);
        outcome
    }

    /// The name of the new set is taken: by the very set that is wanted (the cache was behind), or by another one whose
    /// template has the same hash. The latter is resolved by counting the collision, which changes the hash.
    async fn collided(&self, key: &Key, seen: &Observed, set: &ReplicaSet, error: ApiError) -> Result<(), ApiError> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let there: ReplicaSet = self
            .executor
            .client()
            .get(set.metadata.namespace.as_deref(), name)
            .await?;
        let deployment = seen.deployment.as_ref();
        let ours = owners::controller_of(&there.metadata).map(|o| &o.uid) == deployment.metadata.uid.as_ref();
        if ours && revision::same_template(deployment, &there) {
            // Seen by the next run.
            return Err(error);
        }
        let mut counted = deployment.clone();
        let count = counted
            .status
            .get_or_insert_default()
            .collision_count
            .get_or_insert_default();
        *count = count.saturating_add(1);
        info!(deployment = %key, collisions = *count, "Found a hash collision for deployment - bumping collisionCount to resolve it");
        self.own
            .wrote(key, &[self.executor.one(Action::update_status(&counted)).await?]);
        Err(error)
    }
}
