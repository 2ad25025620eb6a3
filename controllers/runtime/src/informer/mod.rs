//! A local, always current copy of a kind's objects, with the changes as events.
//!
//! Callers: everything that reacts to the cluster. [`Informer::start`] lists and then watches; the copy can be read at
//! any time without a request ([`Informer::get`], [`Informer::list`], indexes), and changes arrive either through
//! handlers called in order ([`Informer::on_event`], for putting keys on a queue) or through a [`Subscription`].
//!
//! What stays true: each consumer sees, per object, a gapless story: `Added`, then `Updated` with the very object it saw
//! last as `old`, then `Deleted`, whatever happened to connections meanwhile (after 410 the difference is synthesised).
//! The store already holds an event's new state when the event is seen. A slow subscriber costs at most one pending
//! entry per object: changes in between are merged. Objects are shared (`Arc`) and must be cloned before changing.
//! `metadata.managedFields` is dropped: nobody reads it and it is often half of an object. A program that neither reads nor
//! writes back more than a few fields of a kind can have the others dropped as well ([`Informers::trim`]).

mod factory;
mod reflector;
mod store;
mod subscription;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use steersman_types::{ObjectMeta, Typed};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::client::{Client, ListOptions, Resource};

pub use factory::Informers;
pub use store::IndexId;
pub use subscription::Subscription;

use store::Store;

/// What an informer can hold: typed objects, and [`PartialObject`]s.
pub trait Object: Clone + fmt::Debug + Send + Sync + 'static {
    /// # Errors
    /// When `bytes` is not an object of this shape.
    fn decode(bytes: &[u8]) -> Result<Self, String>;
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// What to ask the server for.
    fn accept() -> &'static str {
        "application/json"
    }
    /// The same for a list.
    fn accept_list() -> &'static str {
        "application/json"
    }
}

impl<T: Typed> Object for T {
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        T::from_slice(bytes).map_err(|e| e.to_string())
    }
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
}

/// Only an object's metadata; the garbage collector's view of every kind. The server sends no more than that, and labels
/// and annotations are dropped as well: with applied configurations in them they would be most of what is held.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PartialObject {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
}

impl Object for PartialObject {
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut object: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        object.metadata.labels = None;
        object.metadata.annotations = None;
        Ok(object)
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
    fn accept() -> &'static str {
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
    }
    fn accept_list() -> &'static str {
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
    }
}

/// Names an object within its kind. Ordered by namespace, then name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    pub name: String,
}

impl Key {
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    #[must_use]
    pub fn of<T: Object>(object: &T) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    /// The namespace as the client's calls want it.
    #[must_use]
    pub fn ns(&self) -> Option<&str> {
        Some(self.namespace.as_str()).filter(|n| !n.is_empty())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One change. `Updated` never spans two objects of the same name: that is a `Deleted` and an `Added`.
#[derive(Clone, Debug)]
pub enum Event<T> {
    Added(Arc<T>),
    Updated {
        old: Arc<T>,
        new: Arc<T>,
    },
    /// The last known state.
    Deleted(Arc<T>),
}

impl<T> Event<T> {
    /// The most recent state of the object.
    #[must_use]
    pub fn object(&self) -> &Arc<T> {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Updated { new: object, .. } => object,
        }
    }

    /// The state before, if it was there.
    #[must_use]
    pub fn old(&self) -> Option<&Arc<T>> {
        match self {
            Self::Added(_) => None,
            Self::Updated { old, .. } => Some(old),
            Self::Deleted(object) => Some(object),
        }
    }
}

/// A handle on a running list-and-watch. Clones share it; it stops when the last one is dropped.
pub struct Informer<T: Object> {
    store: Arc<Store<T>>,
    _stop: Arc<DropGuard>,
}

impl<T: Object> Clone for Informer<T> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            _stop: self._stop.clone(),
        }
    }
}

impl<T: Typed> Informer<T> {
    /// Starts in the background; `options` choose namespace and selectors. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(client: Client, options: ListOptions) -> Self {
        Self::start_resource(client, Resource::of::<T>(), options)
    }
}

impl<T: Object> Informer<T> {
    /// Like [`Informer::start`] for a resource known from discovery only.
    #[must_use]
    pub fn start_resource(client: Client, resource: Resource, options: ListOptions) -> Self {
        Self::start_trimmed(client, resource, options, |_| {})
    }

    fn start_trimmed(client: Client, resource: Resource, options: ListOptions, trim: fn(&mut T)) -> Self {
        let stop = CancellationToken::new();
        let store = Arc::new(Store::new(trim));
        let reflector = reflector::Reflector::new(client, resource, options, store.clone());
        let stopped = stop.clone();
        let store_end = store.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = reflector.run() => {}
            }
            store_end.close();
        });
        Self {
            store,
            _stop: Arc::new(stop.drop_guard()),
        }
    }

    /// Waits until the first list is in the store.
    pub async fn synced(&self) {
        self.store.synced().await;
    }

    #[must_use]
    pub fn has_synced(&self) -> bool {
        self.store.has_synced()
    }

    /// The revision up to which the store is known to be complete; 0 before the first list.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.store.revision()
    }

    /// Follows [`Informer::revision`].
    #[must_use]
    pub fn progress(&self) -> tokio::sync::watch::Receiver<u64> {
        self.store.progress()
    }

    /// Waits until the store has seen `revision` (of an own write to this kind), at most `limit`.
    /// Returns whether it has.
    pub async fn caught_up(&self, revision: u64, limit: Duration) -> bool {
        self.store.caught_up(revision, limit).await
    }

    /// `namespace` is empty for cluster-scoped kinds.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.store.get(&Key::new(namespace, name))
    }

    #[must_use]
    pub fn get_key(&self, key: &Key) -> Option<Arc<T>> {
        self.store.get(key)
    }

    /// All objects, ordered by key.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<T>> {
        self.store.list()
    }

    /// The objects of one namespace, ordered by name.
    #[must_use]
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<T>> {
        self.store.list_in(namespace)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.store.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Objects with an owner reference to `uid`, ordered by key.
    #[must_use]
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<T>> {
        self.store.by_index(store::OWNERS, uid)
    }

    /// Adds an index; `keys` says under which texts an object is found. May be called at any time; adding the same
    /// index twice costs memory twice.
    pub fn add_index(&self, keys: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) -> IndexId {
        self.store.add_index(Box::new(keys))
    }

    /// Objects found under `key`, ordered by their own key.
    #[must_use]
    pub fn by_index(&self, index: IndexId, key: &str) -> Vec<Arc<T>> {
        self.store.by_index(index, key)
    }

    /// Calls `handler` for every object present now (as `Added`) and then for each change, in order. It runs inside
    /// the informer's task: it must not block and not add handlers; putting a key on a queue is what it is for.
    pub fn on_event(&self, handler: impl Fn(&Event<T>) + Send + Sync + 'static) {
        self.store.add_handler(Box::new(handler));
    }

    /// A receiver of the same story for a consumer that awaits. Starts with everything present as `Added`.
    #[must_use]
    pub fn subscribe(&self) -> Subscription<T> {
        self.store.subscribe()
    }
}
