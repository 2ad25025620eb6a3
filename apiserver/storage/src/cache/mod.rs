//! The watch cache: the whole keyspace in memory, following the store with one watch.
//!
//! The registry's reads and watches come from here. What stays true:
//! - every revision of the store arrives, in order, and all resources advance together: a snapshot of any resource and
//!   the cache's revision belong to one state of the store;
//! - a watch that starts at the revision of a snapshot yields every later event of its scope exactly once, in order, or ends
//!   with [`Next::Expired`]; it never skips;
//! - memory is bounded: objects once, event log and encodings by bytes; a slow watcher holds a cursor, not a queue.
//!
//! It knows no kinds: what is inside the bytes is told by an [`Indexer`]; selectors and encodings are the caller's.

mod object;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

pub use object::{Encodings, Indexed, Indexer, Object, Pairs};

use crate::store::{self, Revision, Store};

/// How [`Cache::start`] shall work.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Keys to keep, e.g. `/registry/`. The watch itself covers the whole keyspace, so that no revision is missing.
    pub prefix: String,
    /// Field indexes: (resource prefix, field that the indexer gives), e.g. `("/registry/pods/", "spec.nodeName")`.
    pub indexes: Vec<(String, String)>,
    /// Bytes of past events (with the versions they hold, and their encodings) to keep for watches and reads of the past.
    pub history_bytes: usize,
    /// Bytes of encodings of current objects to keep ([`Cache::encoding`]).
    pub encoding_bytes: usize,
    /// How long [`Cache::wait_for`] and [`Cache::fresh`] wait for the cache to catch up. Upstream: 3 s.
    pub wait: Duration,
    /// Keys per page of the initial load.
    pub page: usize,
}

impl CacheOptions {
    pub fn new(prefix: impl Into<String>) -> Self {
        CacheOptions {
            prefix: prefix.into(),
            indexes: vec![("/registry/pods/".into(), "spec.nodeName".into())],
            history_bytes: 64 << 20,
            encoding_bytes: 32 << 20,
            wait: Duration::from_secs(3),
            page: 10_000,
        }
    }
}

/// Why the cache cannot answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The initial load is not done. Upstream: 429 with Retry-After.
    #[error("storage is (re)initializing")]
    NotReady,
    /// The cache did not reach the revision in time. Upstream: 504 with cause ResourceVersionTooLarge.
    #[error("Too large resource version: {requested}, current: {current}")]
    TooLarge { requested: Revision, current: Revision },
    /// History no longer reaches back that far. Upstream: 410 `too old resource version: {requested} ({oldest})`.
    #[error("too old resource version: {requested} ({oldest})")]
    Expired { requested: Revision, oldest: Revision },
    /// The store could not tell its revision.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What a watch covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    resource: String,
    within: String,
    field: Option<(String, String)>,
}

impl Scope {
    /// Keys below `within`, which starts with the `resource` prefix: `("/registry/pods/", "/registry/pods/")` for all
    /// namespaces, `("/registry/pods/", "/registry/pods/default/")` for one.
    pub fn prefix(resource: &str, within: &str) -> Self {
        Scope {
            resource: resource.into(),
            within: within.into(),
            field: None,
        }
    }
    /// Exactly one key (fieldSelector metadata.name=…).
    pub fn key(resource: &str, key: &str) -> Self {
        unimplemented!("{resource}{key}")
    }
    /// Further narrowed to events whose old or new object has `value` in the indexed `field` (see [`CacheOptions::indexes`]).
    pub fn with_field(self, field: &str, value: &str) -> Self {
        unimplemented!("{field}{value}")
    }
}

/// One change, with the object before and after. Shared by all watches.
#[derive(Debug)]
pub struct Event {
    old: Option<Arc<Object>>,
    new: Option<Arc<Object>>,
    revision: Revision,
}

impl Event {
    /// Before: `None` for a creation.
    pub fn old(&self) -> Option<&Arc<Object>> {
        self.old.as_ref()
    }
    /// After: `None` for a deletion.
    pub fn new(&self) -> Option<&Arc<Object>> {
        self.new.as_ref()
    }
    pub fn revision(&self) -> Revision {
        self.revision
    }
    pub fn key(&self) -> &str {
        unimplemented!()
    }
    /// The event in the encoding that the caller calls `slot` (its numbering: event type x media type x version), made once and shared.
    pub fn encoding<E>(&self, slot: u8, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let _ = slot;
        make()
    }
}

/// What [`Watch::next`] yields.
#[derive(Debug)]
pub enum Next {
    /// At least one event, in order; all events of a revision are in one item.
    Events(Vec<Arc<Event>>),
    /// The watch fell out of history (or history was lost): it is over, the client must list again.
    Expired,
}

/// A cursor into the event log.
pub struct Watch {
    _p: (),
}

impl Watch {
    /// Waits for events. Cancel safe: a dropped call loses nothing.
    pub async fn next(&mut self) -> Next {
        unimplemented!()
    }
    /// The revision up to which everything in scope has been delivered: what a bookmark may say. Grows while the scope is idle.
    pub fn revision(&mut self) -> Revision {
        unimplemented!()
    }
}

/// An immutable state of one resource.
#[derive(Clone)]
pub struct Snapshot {
    _p: (),
}

impl Snapshot {
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }
    pub fn get(&self, key: &str) -> Option<&Arc<Object>> {
        unimplemented!("{key}")
    }
    /// Objects with keys below `within`, in key order, strictly after the key `after`.
    pub fn range<'a>(
        &'a self,
        within: &str,
        after: Option<&str>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Object>> + Send + 'a> {
        unimplemented!("{within}{after:?}")
    }
    /// How many objects [`Snapshot::range`] would yield, without walking over them.
    pub fn count(&self, within: &str, after: Option<&str>) -> usize {
        unimplemented!("{within}{after:?}")
    }
    /// Objects whose indexed field has the value, in key order.
    pub fn by_field<'a>(&'a self, field: &str, value: &str) -> Box<dyn Iterator<Item = &'a Arc<Object>> + Send + 'a> {
        unimplemented!("{field}{value}")
    }
}

/// The watch cache. Cheap to share in an [`Arc`]; the feed stops when the last one is dropped.
pub struct Cache {
    _p: (),
}

impl Cache {
    /// Starts loading and following in the background (needs a tokio runtime).
    pub fn start(store: Arc<dyn Store>, options: CacheOptions, indexer: Arc<dyn Indexer>) -> Arc<Cache> {
        let _ = (store, options, indexer);
        unimplemented!()
    }
    /// Waits until the initial state is loaded.
    pub async fn ready(&self) {
        unimplemented!()
    }
    /// Whether [`Cache::ready`] would return at once, for readyz.
    pub fn is_ready(&self) -> bool {
        unimplemented!()
    }
    /// The revision of the state that reads show now.
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }
    /// Consistent-read barrier: after it, reads show at least everything that was written before the call. One revision read of the store serves all
    /// who wait. Returns the cache's revision.
    pub async fn fresh(&self) -> Result<Revision, Error> {
        unimplemented!()
    }
    /// Waits until reads show at least `revision`; [`Error::TooLarge`] after [`CacheOptions::wait`].
    pub async fn wait_for(&self, revision: Revision) -> Result<Revision, Error> {
        let _ = revision;
        unimplemented!()
    }
    /// One object, now.
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        unimplemented!("{key}")
    }
    /// The state of a resource (`/registry/pods/`), now. Constant time.
    pub fn snapshot(&self, resource: &str) -> Snapshot {
        unimplemented!("{resource}")
    }
    /// The state of a resource at exactly `revision`. [`Error::Expired`] if history does not reach back, [`Error::TooLarge`] if it is in the future.
    pub fn snapshot_at(&self, resource: &str, revision: Revision) -> Result<Snapshot, Error> {
        unimplemented!("{resource}{revision}")
    }
    /// Starts a watch for events strictly after `revision`.
    pub fn watch(&self, scope: Scope, revision: Revision) -> Result<Watch, Error> {
        unimplemented!("{scope:?}{revision}")
    }
    /// An encoding of an object (the caller's `slot` numbering), made once per version and shared, within [`CacheOptions::encoding_bytes`].
    pub fn encoding<E>(
        &self,
        object: &Arc<Object>,
        slot: u8,
        make: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let _ = (object, slot);
        make()
    }
    /// Objects that could not be decoded: key and reason.
    pub fn broken(&self) -> Vec<(String, String)> {
        unimplemented!()
    }
}
