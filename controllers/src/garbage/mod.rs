//! Deletes what has lost its owners, and takes care of the three ways to delete an owner.
//!
//! Watches: the metadata of every resource that can be deleted, listed and watched, found by discovery every 30 s.
//! Writes: deletions, owner references, the finalizers `orphan` and `foregroundDeletion`, events. [`decide`] is the pure part.
//!
//! The informers' index by owner UID is the graph: the dependents of an object are the objects that name its UID. What
//! stays true: nothing is deleted because a cache does not know its owner: absence is confirmed by the server, and
//! the deletion is bound to the UID and the version on which it was decided. An owner of a kind that discovery does
//! not know keeps its dependents.

pub mod decide;
mod monitors;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Method;
use parking_lot::Mutex;
use serde_json::json;
use steersman_runtime::client::{ApiError, DeleteOptions, Patch, Propagation, Resource};
use steersman_runtime::events::EventType;
use steersman_runtime::informer::{Object, PartialObject};
use steersman_runtime::{Event, Key, WorkQueue};
use steersman_types::OwnerReference;
use steersman_types::api::core::v1::ObjectReference;
use tracing::{debug, info};

use crate::act::{Action, Executor};
use crate::context::Context;
use decide::{Decision, Dependents, FOREGROUND, ORPHAN, OwnerState, decide};
use monitors::Monitors;

const WORKERS: usize = 20;
const DISCOVER_EVERY: Duration = Duration::from_secs(30);
/// UIDs that are known to be gone for good.
const ABSENT: usize = 4096;

/// One object, whatever its kind.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Item {
    pub resource: Resource,
    pub key: Key,
    pub uid: String,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.resource.kind, self.key, self.uid)
    }
}

/// A bounded memory of UIDs; the oldest are forgotten.
#[derive(Default)]
struct Gone {
    known: HashSet<String>,
    order: VecDeque<String>,
}

impl Gone {
    fn insert(&mut self, uid: &str) {
        if self.known.insert(uid.to_owned()) {
            self.order.push_back(uid.to_owned());
            if self.order.len() > ABSENT
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
}

struct Collector {
    monitors: Monitors,
    executor: Executor,
    queue: WorkQueue<Item>,
    gone: Mutex<Gone>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let queue = context.queue::<Item>();
        let this = Arc::new(Collector {
            monitors: Monitors::new(context.informers.client().clone()),
            executor: context.executor("garbage-collector-controller"),
            queue: queue.clone(),
            gone: Mutex::default(),
        });
        // Nothing is judged before everything is known.
        while let Err(error) = this.refresh().await {
            debug!(%error, "discovery for the garbage collector");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        this.monitors.synced(Duration::from_secs(30)).await;
        let (refreshing, stop) = (this.clone(), context.stop.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(DISCOVER_EVERY) => {}
                    () = stop.cancelled() => return,
                }
                if let Err(error) = refreshing.refresh().await {
                    debug!(%error, "discovery for the garbage collector");
                }
            }
        });
        queue
            .run("object", WORKERS, move |item| reconcile(this.clone(), item))
            .await;
        Ok(())
    })
}

impl Collector {
    async fn refresh(self: &Arc<Self>) -> Result<(), ApiError> {
        let this = Arc::downgrade(self);
        self.monitors
            .refresh(move |resource, event| {
                if let Some(this) = this.upgrade() {
                    this.changed(resource, event);
                }
            })
            .await
    }

    /// Which objects a change may concern. Runs inside the informers' tasks.
    fn changed(&self, resource: &Resource, event: &Event<PartialObject>) {
        let object = event.object().as_ref();
        let item = item(resource, object);
        if let Event::Deleted(_) = event {
            self.gone.lock().insert(&item.uid);
            for dependent in self.monitors.dependents(&item.uid) {
                self.queue.add(dependent);
            }
            // An owner that waits for its dependents has one less.
            self.wake_waiting_owners(object);
            return;
        }
        let going = object.metadata.deletion_timestamp.is_some();
        let owners = |o: &PartialObject| o.metadata.owner_references.clone().unwrap_or_default();
        let changed = event.old().is_none_or(|old| {
            owners(old) != owners(object)
                || old.metadata.deletion_timestamp != object.metadata.deletion_timestamp
                || old.metadata.finalizers != object.metadata.finalizers
        });
        if !changed {
            return;
        }
        if let Some(old) = event.old().filter(|old| owners(old) != owners(object)) {
            // It may block an owner no longer.
            self.wake_waiting_owners(old);
        }
        if going && decide::has_finalizer(&object.metadata, FOREGROUND) {
            for dependent in self.monitors.dependents(&item.uid) {
                self.queue.add(dependent);
            }
        }
        let finalizing = going
            && [FOREGROUND, ORPHAN]
                .iter()
                .any(|f| decide::has_finalizer(&object.metadata, f));
        if finalizing || !owners(object).is_empty() {
            self.queue.add(item);
        }
    }

    fn wake_waiting_owners(&self, dependent: &PartialObject) {
        let namespace = dependent.metadata.namespace.as_deref().unwrap_or_default();
        for owner in dependent.metadata.owner_references.iter().flatten() {
            if let Some((resource, owner)) = self.monitors.find(owner, namespace)
                && decide::is_waiting(&owner.metadata)
            {
                self.queue.add(item(&resource, &owner));
            }
        }
    }
}

fn item(resource: &Resource, object: &PartialObject) -> Item {
    Item {
        resource: resource.clone(),
        key: Key::of(object),
        uid: object.metadata.uid.clone().unwrap_or_default(),
    }
}

async fn reconcile(this: Arc<Collector>, item: Item) -> Result<Option<Duration>, String> {
    match this.attempt(&item).await {
        // Somebody changed it meanwhile: look again at what it is now.
        Err(error) if error.is_conflict() => Ok(Some(Duration::from_millis(50))),
        Err(error) if error.is_not_found() => Ok(None),
        outcome => outcome.map_err(|e| e.to_string()),
    }
}

impl Collector {
    /// Returns when to look again, if nothing else will tell.
    async fn attempt(&self, item: &Item) -> Result<Option<Duration>, ApiError> {
        let Some(cached) = self.monitors.get(&item.resource, &item.key) else {
            return Ok(None);
        };
        // Most objects have owners that are there: no request is needed to leave them alone.
        if !decide::needs_attention(&cached.metadata) && self.all_owners_known(&cached) {
            return Ok(None);
        }
        let Some(object) = self.live(&item.resource, &item.key).await? else {
            return Ok(None);
        };
        if object.metadata.uid.as_deref() != Some(item.uid.as_str()) {
            return Ok(None);
        }
        let dependents = self.monitors.dependents(&item.uid);
        let mut owners = Vec::new();
        for owner in object.metadata.owner_references.iter().flatten() {
            owners.push((owner.clone(), self.owner_state(item, owner).await?));
        }
        let known = Dependents {
            any: !dependents.is_empty(),
            blocking: dependents.iter().any(|d| self.blocks(d, &item.uid)),
            waiting: dependents.iter().any(|d| self.waits(d)),
        };
        match decide(&object.metadata, &owners, known) {
            Decision::Nothing => {}
            Decision::WaitForDiscovery => return Ok(Some(DISCOVER_EVERY)),
            Decision::WaitForDependents => {
                for dependent in dependents {
                    self.queue.add(dependent);
                }
            }
            Decision::RemoveFinalizer(finalizer) => self.remove_finalizer(item, &object, finalizer).await?,
            Decision::Orphan => {
                for dependent in &dependents {
                    self.disown(dependent, std::slice::from_ref(&item.uid)).await?;
                }
                self.remove_finalizer(item, &object, ORPHAN).await?;
            }
            Decision::Disown(uids) => self.disown(item, &uids).await?,
            Decision::Unblock => self.unblock(item, &object).await?,
            Decision::Delete(policy) => self.delete(item, &object, policy).await?,
        }
        Ok(None)
    }

    fn all_owners_known(&self, object: &PartialObject) -> bool {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        object.metadata.owner_references.iter().flatten().all(|owner| {
            self.monitors
                .find(owner, namespace)
                .is_some_and(|(_, found)| !decide::is_waiting(&found.metadata))
        })
    }

    fn blocks(&self, dependent: &Item, owner: &str) -> bool {
        self.monitors
            .get(&dependent.resource, &dependent.key)
            .is_some_and(|object| {
                object
                    .metadata
                    .owner_references
                    .iter()
                    .flatten()
                    .any(|o| o.uid == owner && o.block_owner_deletion == Some(true))
            })
    }

    fn waits(&self, dependent: &Item) -> bool {
        self.monitors
            .get(&dependent.resource, &dependent.key)
            .is_some_and(|object| decide::is_waiting(&object.metadata))
    }

    async fn owner_state(&self, item: &Item, owner: &OwnerReference) -> Result<OwnerState, ApiError> {
        let state = |found: &PartialObject| {
            if decide::is_waiting(&found.metadata) {
                OwnerState::Waiting
            } else {
                OwnerState::Solid
            }
        };
        if let Some((_, found)) = self.monitors.find(owner, &item.key.namespace) {
            return Ok(state(&found));
        }
        let Some(resource) = self.monitors.resource(owner) else {
            debug!(object = %item.key, kind = owner.kind, version = owner.api_version, "an owner's kind is not known");
            return Ok(OwnerState::Unknown);
        };
        if resource.namespaced && item.key.namespace.is_empty() {
            // A cluster-scoped object cannot have such an owner: the reference says nothing.
            return Ok(OwnerState::Solid);
        }
        if self.gone.lock().known.contains(&owner.uid) {
            return Ok(OwnerState::Absent);
        }
        let namespace = if resource.namespaced {
            item.key.namespace.as_str()
        } else {
            ""
        };
        let found = self.live(&resource, &Key::new(namespace, &owner.name)).await?;
        match found.filter(|f| f.metadata.uid.as_deref() == Some(owner.uid.as_str())) {
            Some(found) => Ok(state(&found)),
            None => {
                // Known elsewhere: absent here, but not gone.
                if self.monitors.anywhere(&owner.uid) {
                    self.complain(item, owner).await;
                } else {
                    self.gone.lock().insert(&owner.uid);
                }
                Ok(OwnerState::Absent)
            }
        }
    }

    /// The owner exists in another namespace: that is no ownership, and its author should know why the object goes.
    async fn complain(&self, item: &Item, owner: &OwnerReference) {
        let about = ObjectReference {
            api_version: Some(item.resource.api_version()),
            kind: Some(item.resource.kind.clone()),
            namespace: item.key.ns().map(str::to_owned),
            name: Some(item.key.name.clone()),
            uid: Some(item.uid.clone()),
            ..ObjectReference::default()
        };
        let message = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace {:?}",
            owner.api_version, owner.kind, item.key.namespace, owner.name, owner.uid, item.key.namespace
        );
        let note = Action::event(about, EventType::Warning, "OwnerRefInvalidNamespace", message);
        let _ = self.executor.one(note).await;
    }

    /// The object's metadata as the server has it now; `None` when it is gone.
    async fn live(&self, resource: &Resource, key: &Key) -> Result<Option<PartialObject>, ApiError> {
        let path = resource.path(key.ns(), Some(&key.name), None);
        match self
            .executor
            .client()
            .call(Method::GET, &path, None, PartialObject::accept())
            .await
        {
            Ok(bytes) => PartialObject::decode(&bytes).map(Some).map_err(ApiError::Decode),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, item: &Item, object: &PartialObject, policy: Propagation) -> Result<(), ApiError> {
        info!(object = %item.key, kind = %item.resource.kind, ?policy, "Deleting item: its owners are gone");
        let options = DeleteOptions {
            uid: Some(item.uid.clone()),
            resource_version: object.metadata.resource_version.clone(),
            propagation: Some(policy),
            grace_period_seconds: None,
        };
        let path = item.resource.path(item.key.ns(), Some(&item.key.name), None);
        self.executor
            .client()
            .request(Method::DELETE, &path, Some(options.to_vec()))
            .await
            .map(drop)
    }

    /// Takes references to `owners` off the object; the version is the precondition.
    async fn disown(&self, item: &Item, owners: &[String]) -> Result<(), ApiError> {
        let Some(object) = self.live(&item.resource, &item.key).await? else {
            return Ok(());
        };
        let all = object.metadata.owner_references.clone().unwrap_or_default();
        let kept: Vec<&OwnerReference> = all.iter().filter(|o| !owners.contains(&o.uid)).collect();
        if object.metadata.uid.as_deref() != Some(item.uid.as_str()) || kept.len() == all.len() {
            return Ok(());
        }
        self.patch(
            item,
            &object,
            json!({"ownerReferences": kept.iter().map(|o| reference(o)).collect::<Vec<_>>()}),
        )
        .await
    }

    /// None of the object's references blocks its owner any longer; the version is the precondition.
    async fn unblock(&self, item: &Item, object: &PartialObject) -> Result<(), ApiError> {
        let mut owners = object.metadata.owner_references.clone().unwrap_or_default();
        for owner in &mut owners {
            owner.block_owner_deletion = Some(false);
        }
        let owners: Vec<_> = owners.iter().map(reference).collect();
        self.patch(item, object, json!({"ownerReferences": owners})).await
    }

    async fn remove_finalizer(&self, item: &Item, object: &PartialObject, finalizer: &str) -> Result<(), ApiError> {
        let kept: Vec<&String> = object
            .metadata
            .finalizers
            .iter()
            .flatten()
            .filter(|f| *f != finalizer)
            .collect();
        self.patch(item, object, json!({"finalizers": kept})).await
    }

    async fn patch(&self, item: &Item, object: &PartialObject, mut meta: serde_json::Value) -> Result<(), ApiError> {
        meta["resourceVersion"] = object.metadata.resource_version.clone().into();
        meta["uid"] = item.uid.clone().into();
        let action = Action::Patch {
            resource: item.resource.clone(),
            namespace: item.key.ns().map(str::to_owned),
            name: item.key.name.clone(),
            subresource: None,
            // Every kind understands this form, custom resources too.
            patch: Patch::Merge(json!({"metadata": meta})),
        };
        self.executor.one(action).await.map(drop)
    }
}

fn reference(owner: &OwnerReference) -> serde_json::Value {
    let mut value = json!({
        "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid,
    });
    if let Some(controller) = owner.controller {
        value["controller"] = controller.into();
    }
    if let Some(block) = owner.block_owner_deletion {
        value["blockOwnerDeletion"] = block.into();
    }
    value
}
