//! The [`Store`] in memory: etcd's semantics (revisions, history, compaction, leases) without etcd.
//!
//! Tests and single-process control planes use it. It keeps all history until [`Store::compact`]. It never fails except as
//! the contract says, and persists nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::store::{
    Batch, Change, Error, Got, KeyValue, MAX_VALUE_BYTES, Page, RangeRequest, Result, Revision, Store, WatchStream,
};

/// Changes per batch that a watch which starts in the past gets at most (a revision is never split, so it can be more).
const BATCH: usize = 1000;

/// Time since some fixed moment. Decides when leases end.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The store in memory. Clones share the same state.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    clock: Clock,
    /// With the runtime's clock, expiry happens by itself; with an injected one when [`MemoryStore::expire`] is called.
    own_clock: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Tells watches that the revision (or the compaction) moved.
    moved: watch::Sender<(Revision, Revision)>,
}

struct State {
    revision: Revision,
    compacted: Revision,
    /// For each key its versions since the compaction, oldest first; `None` is a deletion.
    keys: BTreeMap<String, Vec<(Revision, Option<KeyValue>)>>,
    /// All changes with revisions above `compacted`, oldest first.
    log: VecDeque<Change>,
    /// Lease -> (end, key).
    leases: BTreeMap<i64, (Duration, String)>,
    next_lease: i64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store at revision 1, as a new etcd is. Leases follow tokio's clock.
    pub fn new() -> Self {
        let start = tokio::time::Instant::now();
        Self {
            own_clock: true,
            ..Self::with_clock(Arc::new(move || start.elapsed()))
        }
    }

    /// Like [`MemoryStore::new`], with a clock of the caller, who calls [`MemoryStore::expire`] after moving it.
    pub fn with_clock(clock: Clock) -> Self {
        let state = State {
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            leases: BTreeMap::new(),
            next_lease: 1,
        };
        let moved = watch::Sender::new((1, 0));
        MemoryStore {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                moved,
            }),
            clock,
            own_clock: false,
        }
    }

    /// Deletes the keys whose leases have ended, all in one revision.
    pub fn expire(&self) {
        self.shared.expire((self.clock)());
    }

    fn write(&self, key: &str, expected: Revision, value: Option<Bytes>, ttl: Option<Duration>) -> Result<Revision> {
        if let Some(value) = &value
            && value.len() + key.len() > MAX_VALUE_BYTES
        {
            return Err(Error::TooLarge {
                size: value.len(),
                limit: MAX_VALUE_BYTES,
            });
        }
        self.expire();
        let now = (self.clock)();
        let revision = {
            let mut state = self.shared.state.lock();
            let current = state.current(key);
            if current.map_or(0, |kv| kv.mod_revision) != expected {
                return Err(if expected == 0 && value.is_some() {
                    Error::AlreadyExists { key: key.into() }
                } else {
                    Error::Conflict {
                        key: key.into(),
                        current: current.cloned().map(Box::new),
                    }
                });
            }
            if expected == 0 && value.is_none() {
                return Err(Error::Conflict {
                    key: key.into(),
                    current: None,
                });
            }
            let lease = match ttl {
                Some(ttl) => state.grant(key, now + ttl),
                None => 0,
            };
            let revision = state.revision + 1;
            state.put(key, value, lease, revision);
            state.revision = revision;
            self.shared.announce(&state);
            revision
        };
        if let Some(ttl) = ttl
            && self.own_clock
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let store = self.clone_weak();
            runtime.spawn(async move {
                tokio::time::sleep(ttl).await;
                if let Some((shared, clock)) = store.0.upgrade().map(|s| (s, store.1)) {
                    shared.expire(clock());
                }
            });
        }
        Ok(revision)
    }

    fn clone_weak(&self) -> (Weak<Shared>, Clock) {
        (Arc::downgrade(&self.shared), self.clock.clone())
    }
}

impl Shared {
    fn announce(&self, state: &State) {
        self.moved.send_replace((state.revision, state.compacted));
    }

    fn expire(&self, now: Duration) {
        let mut state = self.state.lock();
        let ended: Vec<(i64, String)> = state
            .leases
            .iter()
            .filter(|(_, (end, _))| *end <= now)
            .map(|(id, (_, key))| (*id, key.clone()))
            .collect();
        let revision = state.revision + 1;
        for (lease, key) in ended {
            state.leases.remove(&lease);
            if state.current(&key).is_some_and(|kv| kv.lease == lease) {
                state.put(&key, None, 0, revision);
                state.revision = revision;
            }
        }
        if state.revision == revision {
            self.announce(&state);
        }
    }
}

impl State {
    fn current(&self, key: &str) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    fn at<'a>(&self, versions: &'a [(Revision, Option<KeyValue>)], revision: Revision) -> Option<&'a KeyValue> {
        versions.iter().rev().find(|(r, _)| *r <= revision)?.1.as_ref()
    }

    fn grant(&mut self, key: &str, end: Duration) -> i64 {
        let id = self.next_lease;
        self.next_lease += 1;
        self.leases.insert(id, (end, key.into()));
        id
    }

    /// Adds a version of the key at `revision`; the caller moves the store's revision.
    fn put(&mut self, key: &str, value: Option<Bytes>, lease: i64, revision: Revision) {
        let before = self.current(key);
        let kv = value.map(|value| KeyValue {
            key: key.into(),
            value,
            create_revision: before.map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: before.map_or(1, |kv| kv.version + 1),
            lease,
        });
        self.log.push_back(match &kv {
            Some(kv) => Change::Put(kv.clone()),
            None => Change::Delete {
                key: key.into(),
                revision,
            },
        });
        self.keys.entry(key.into()).or_default().push((revision, kv));
    }

    fn range(&self, request: &RangeRequest) -> Result<Page> {
        let revision = if request.revision == 0 {
            self.revision
        } else {
            request.revision
        };
        if revision > self.revision {
            return Err(Error::FutureRevision { requested: revision });
        }
        if revision < self.compacted {
            return Err(Error::Compacted {
                requested: revision,
                oldest: self.compacted,
            });
        }
        let from = match &request.after {
            Some(after) => Bound::Excluded(after.as_str()),
            None => Bound::Included(request.prefix.as_str()),
        };
        let mut page = Page {
            revision,
            ..Page::default()
        };
        for (key, versions) in self.keys.range::<str, _>((from, Bound::Unbounded)) {
            if !key.starts_with(&request.prefix) {
                if key.as_str() < request.prefix.as_str() {
                    continue;
                }
                break;
            }
            let Some(kv) = self.at(versions, revision) else {
                continue;
            };
            page.count += 1;
            if request.limit == 0 || page.kvs.len() < request.limit {
                let value = if request.keys_only {
                    Bytes::new()
                } else {
                    kv.value.clone()
                };
                page.kvs.push(KeyValue { value, ..kv.clone() });
            } else {
                page.more = true;
            }
        }
        Ok(page)
    }

    /// Changes below `prefix` from revision `from` on, at most about [`BATCH`], and the revision up to which they are complete.
    fn changes(&self, prefix: &str, from: Revision) -> Batch {
        let start = self.log.partition_point(|c| c.revision() < from);
        let mut batch = Batch {
            revision: self.revision,
            changes: Vec::new(),
        };
        let mut last = 0;
        for change in self.log.range(start..) {
            if batch.changes.len() >= BATCH && change.revision() != last {
                batch.revision = last;
                break;
            }
            last = change.revision();
            if change.key().starts_with(prefix) {
                batch.changes.push(change.clone());
            }
        }
        batch
    }

    fn compact(&mut self, revision: Revision) -> Result<()> {
        if revision > self.revision {
            return Err(Error::FutureRevision { requested: revision });
        }
        if revision <= self.compacted {
            return Ok(());
        }
        self.compacted = revision;
        // Changes *at* the compacted revision stay visible to watches, as in etcd.
        while self.log.front().is_some_and(|c| c.revision() < revision) {
            self.log.pop_front();
        }
        self.keys.retain(|_, versions| {
            let keep = versions.iter().rposition(|(r, _)| *r <= revision).unwrap_or(0);
            versions.drain(..keep);
            !(versions.len() == 1 && versions.iter().all(|(r, kv)| kv.is_none() && *r <= revision))
        });
        Ok(())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Got> {
        self.expire();
        let state = self.shared.state.lock();
        Ok(Got {
            kv: state.current(key).cloned(),
            revision: state.revision,
        })
    }

    async fn range(&self, request: RangeRequest) -> Result<Page> {
        self.expire();
        self.shared.state.lock().range(&request)
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision> {
        self.write(key, 0, Some(value), ttl)
    }

    async fn update(&self, key: &str, value: Bytes, expected: Revision, ttl: Option<Duration>) -> Result<Revision> {
        if expected == 0 {
            return Err(Error::Internal("update needs the expected revision".into()));
        }
        self.write(key, expected, Some(value), ttl)
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision> {
        self.write(key, expected, None, None)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream> {
        let shared = self.shared.clone();
        let moved = shared.moved.subscribe();
        let cursor = Some((shared, moved, prefix.to_owned(), from.max(1)));
        Ok(Box::pin(futures::stream::unfold(cursor, |cursor| async move {
            let (shared, mut moved, prefix, from) = cursor?;
            loop {
                {
                    let state = shared.state.lock();
                    if from < state.compacted {
                        let error = Error::Compacted {
                            requested: from,
                            oldest: state.compacted,
                        };
                        return Some((Err(error), None));
                    }
                    if state.revision >= from {
                        let batch = state.changes(&prefix, from);
                        let next = batch.revision + 1;
                        drop(state);
                        return Some((Ok(batch), Some((shared, moved, prefix, next))));
                    }
                    moved.mark_unchanged();
                }
                // The sender lives in `shared`, which we hold.
                moved.changed().await.ok()?;
            }
        })))
    }

    async fn current_revision(&self) -> Result<Revision> {
        self.expire();
        Ok(self.shared.state.lock().revision)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let mut state = self.shared.state.lock();
        state.compact(revision)?;
        self.shared.announce(&state);
        Ok(())
    }
}
