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

mod encodings;
mod event;
mod feed;
mod fresh;
mod kick;
mod object;
mod scope;
mod snapshot;
mod state;
mod tree;
mod verify;
mod watch;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use self::{encodings::EncodingBudget, fresh::Fresh, kick::Kick, state::State};
pub use self::{
    event::Event,
    object::{Indexed, Indexer, Object, Pairs},
    scope::Scope,
    snapshot::Snapshot,
    verify::Verdict,
    watch::{Next, Watch},
};
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
            page: 5_000,
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

/// The watch cache. Share it in an [`Arc`]; the feed stops when the last one is dropped.
pub struct Cache {
    inner: Arc<Inner>,
    feed: tokio::task::JoinHandle<()>,
}

/// What the cache, its feed and its watches share.
pub(crate) struct Inner {
    options: CacheOptions,
    store: Arc<dyn Store>,
    indexer: Arc<dyn Indexer>,
    state: RwLock<State>,
    /// The state's revision, for those who wait for it. 0 until loaded.
    progress: tokio::sync::watch::Sender<Revision>,
    fresh: Arc<Fresh>,
    kick: Arc<Kick>,
    encodings: EncodingBudget,
    /// Snapshots of the past that were made lately, newest last, so that the pages of one list share one.
    past: Mutex<VecDeque<(String, Snapshot)>>,
}

/// Snapshots of the past to keep at hand. They hold no object that the event log does not hold.
const PAST: usize = 32;

impl Cache {
    /// Starts loading and following in the background (needs a tokio runtime).
    pub fn start(store: Arc<dyn Store>, options: CacheOptions, indexer: Arc<dyn Indexer>) -> Arc<Cache> {
        let inner = Arc::new(Inner {
            state: RwLock::new(State::new(&options, Arc::default())),
            indexer,
            store: store.clone(),
            progress: tokio::sync::watch::Sender::new(0),
            fresh: Fresh::new(store.clone()),
            kick: Arc::default(),
            encodings: EncodingBudget::new(options.encoding_bytes),
            past: Mutex::default(),
            options,
        });
        let feed = tokio::spawn(feed::run(Arc::downgrade(&inner), store));
        Arc::new(Cache { inner, feed })
    }

    /// Waits until the initial state is loaded.
    pub async fn ready(&self) {
        // The sender lives as long as `self`.
        let _ = self.inner.progress.subscribe().wait_for(|revision| *revision > 0).await;
    }

    /// Whether [`Cache::ready`] would return at once, for readyz.
    pub fn is_ready(&self) -> bool {
        self.revision() > 0
    }

    /// The revision of the state that reads show now; 0 before it is loaded.
    pub fn revision(&self) -> Revision {
        *self.inner.progress.borrow()
    }

    /// Consistent-read barrier: after it, reads show at least everything that was written before the call. One revision read
    /// of the store serves all who wait. Returns the cache's revision.
    pub async fn fresh(&self) -> Result<Revision, Error> {
        let before = self.revision();
        if before == 0 {
            return Err(Error::NotReady);
        }
        let revision = self.inner.fresh.revision().await?;
        if revision < before {
            // What we have shown is not in the store: it was restored from a backup.
            self.inner.kick.load();
            return Err(Error::NotReady);
        }
        let reached = self.wait_for(revision).await;
        if matches!(reached, Err(Error::TooLarge { .. })) {
            self.inner.kick.watch();
        }
        reached
    }

    /// Waits until reads show at least `revision`; [`Error::TooLarge`] after [`CacheOptions::wait`]. Returns the cache's revision.
    pub async fn wait_for(&self, revision: Revision) -> Result<Revision, Error> {
        let current = self.revision();
        if current == 0 {
            return Err(Error::NotReady);
        }
        if current >= revision {
            return Ok(current);
        }
        let mut progress = self.inner.progress.subscribe();
        let reached = tokio::time::timeout(self.inner.options.wait, progress.wait_for(|r| *r >= revision)).await;
        match reached {
            Ok(Ok(reached)) => Ok(*reached),
            _ => Err(Error::TooLarge {
                requested: revision,
                current: self.revision(),
            }),
        }
    }

    /// One object, now.
    ///
    /// (Like all reads without [`Result`], only to be used after [`Cache::ready`] or a barrier that succeeded.)
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.inner.state.read().get(key).cloned()
    }

    /// One object and the revision of the state that was looked at.
    pub fn get_at(&self, key: &str) -> (Option<Arc<Object>>, Revision) {
        let state = self.inner.state.read();
        (state.get(key).cloned(), state.revision)
    }

    /// The state of a resource (`/registry/pods/`), now. Constant time.
    pub fn snapshot(&self, resource: &str) -> Snapshot {
        self.inner.state.read().snapshot(resource)
    }

    /// The state of a resource at exactly `revision`. [`Error::Expired`] if history does not reach back, [`Error::TooLarge`]
    /// at once if it is in the future. (The store may still have what is expired here.)
    pub fn snapshot_at(&self, resource: &str, revision: Revision) -> Result<Snapshot, Error> {
        let (mut objects, undo) = self.inner.state.read().before(resource, revision)?;
        if undo.is_empty() {
            return Ok(Snapshot::new(revision, objects));
        }
        let mut past = self.inner.past.lock();
        if let Some((_, snapshot)) = past.iter().find(|(r, s)| r == resource && s.revision() == revision) {
            return Ok(snapshot.clone());
        }
        for event in undo {
            objects.replace(event.new(), event.old());
        }
        let snapshot = Snapshot::new(revision, objects);
        while past.len() >= PAST {
            past.pop_front();
        }
        past.push_back((resource.to_owned(), snapshot.clone()));
        Ok(snapshot)
    }

    /// Starts a watch for events strictly after `revision`. [`Error::Expired`] if history does not reach back. A revision in the
    /// future is allowed.
    pub fn watch(&self, scope: Scope, revision: Revision) -> Result<Watch, Error> {
        Watch::start(self.inner.clone(), scope, revision)
    }

    /// An encoding of an object (the caller's `slot` numbering), made once per version and shared, within
    /// [`CacheOptions::encoding_bytes`].
    pub fn encoding<E>(
        &self,
        object: &Arc<Object>,
        slot: u8,
        make: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        self.inner.encodings.encoding(object, slot, make)
    }

    /// Objects that could not be decoded; [`Object::broken`] tells why.
    pub fn broken(&self) -> Vec<Arc<Object>> {
        self.inner.state.read().broken().cloned().collect()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.feed.abort();
    }
}
