//! The contract of the key-value store: types, errors and the [`Store`] trait.
//!
//! The registry writes through it, the watch cache reads and follows it. What must stay true for every implementation is in
//! the doc comment of each method and is checked by `tests/contract`. It knows keys and bytes, and no kind of object.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// A point in the store's single line of history. Every write makes exactly one; `0` means "none" or "now", by context.
pub type Revision = i64;

/// Largest value that a store accepts, in bytes: etcd's default `--max-request-bytes` (1.5 MiB).
pub const MAX_VALUE_BYTES: usize = 1_572_864;

/// A stored key with its value and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    /// Exactly the bytes that were written. May share one large buffer with its neighbours: copy before keeping for long.
    pub value: Bytes,
    /// Revision of the write that made the key exist.
    pub create_revision: Revision,
    /// Revision of the last write of the key.
    pub mod_revision: Revision,
    /// Writes since the key came into existence; 1 after create.
    pub version: i64,
    /// Lease that the key is bound to, or 0.
    pub lease: i64,
}

/// Answer of [`Store::get`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub kv: Option<KeyValue>,
    /// The store's revision when the read happened.
    pub revision: Revision,
}

/// What [`Store::range`] shall read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest {
    /// All keys that start with this; empty means the whole keyspace.
    pub prefix: String,
    /// Only keys strictly greater than this one (the last key of the page before).
    pub after: Option<String>,
    /// At most so many keys; 0 means all.
    pub limit: usize,
    /// State as of this revision; 0 means now.
    pub revision: Revision,
    /// Leave the values out (empty).
    pub keys_only: bool,
}

/// Answer of [`Store::range`], sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub kvs: Vec<KeyValue>,
    /// Revision that the page shows: the requested one, or the store's revision when 0 was asked for. Use it for the next page.
    pub revision: Revision,
    /// More keys follow the last one.
    pub more: bool,
    /// Keys of the prefix after `after`, this page included.
    pub count: i64,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(KeyValue),
    /// The key was deleted (by a request or by its lease) at this revision.
    Delete {
        key: String,
        revision: Revision,
    },
}

impl Change {
    pub fn key(&self) -> &str {
        match self {
            Change::Put(kv) => &kv.key,
            Change::Delete { key, .. } => key,
        }
    }

    pub fn revision(&self) -> Revision {
        match self {
            Change::Put(kv) => kv.mod_revision,
            Change::Delete { revision, .. } => *revision,
        }
    }
}

/// Consecutive changes, whole revisions only: a revision is never split over two batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// All changes with revisions up to this one have been delivered with this batch. May exceed the last change's revision
    /// (progress report; then `changes` can be empty).
    pub revision: Revision,
    pub changes: Vec<Change>,
}

/// Stream of batches with growing revisions. Survives endpoint death and leader changes by itself; the first error is its last item.
pub type WatchStream = futures::stream::BoxStream<'static, Result<Batch>>;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of the store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Create found the key already there.
    #[error("key {key:?} already exists")]
    AlreadyExists { key: String },
    /// Update or delete named a revision that is not the key's: what is there now instead (`None`: the key does not exist).
    #[error("key {key:?} is not at the expected revision")]
    Conflict {
        key: String,
        current: Option<Box<KeyValue>>,
    },
    /// The revision was compacted away; `oldest` is the oldest one that can still be read (0: unknown).
    #[error("required revision {requested} has been compacted (oldest is {oldest})")]
    Compacted { requested: Revision, oldest: Revision },
    /// The revision does not exist yet.
    #[error("required revision {requested} is a future revision")]
    FutureRevision { requested: Revision },
    /// The value is larger than the store takes.
    #[error("value of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge { size: usize, limit: usize },
    /// No member answered, or there is no leader. Nothing was changed.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The deadline passed. Nothing was changed if the operation was a read.
    #[error("store did not answer in time: {0}")]
    Timeout(String),
    /// A write's answer was lost and what it did could not be found out before the deadline. It may be applied or not.
    #[error("outcome of the write is unknown: {0}")]
    Unknown(String),
    /// The store refuses writes because it is out of space (etcd alarm NOSPACE).
    #[error("store is out of space: {0}")]
    NoSpace(String),
    /// Anything else; not worth retrying.
    #[error("store failed: {0}")]
    Internal(String),
}

/// A linearizable, versioned key-value store with watch, like etcd.
///
/// All operations end within ten seconds, with quorum or without it. Reads without a revision are linearizable. Keys are
/// UTF-8; values are opaque.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads one key, now.
    async fn get(&self, key: &str) -> Result<Got>;

    /// Reads keys by prefix, in order, paged, now or at a revision.
    ///
    /// Errors: [`Error::Compacted`], [`Error::FutureRevision`].
    async fn range(&self, request: RangeRequest) -> Result<Page>;

    /// Writes a key that must not exist. Returns its revision. With `ttl` the key disappears after about that time.
    ///
    /// Errors: [`Error::AlreadyExists`], [`Error::TooLarge`]. Safe against lost answers: an identical value found under the
    /// key after a lost answer counts as written (objects carry a fresh UID).
    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision>;

    /// Replaces a key's value if the key is still at `expected` (its `mod_revision`). Returns the new revision.
    /// With `ttl` the key's life starts anew; without, the key lives until deleted.
    ///
    /// Errors: [`Error::Conflict`] with what is there now; [`Error::TooLarge`]. `expected` must not be 0.
    async fn update(&self, key: &str, value: Bytes, expected: Revision, ttl: Option<Duration>) -> Result<Revision>;

    /// Deletes a key if it is still at `expected` (its `mod_revision`). Returns the revision of the deletion.
    ///
    /// Errors: [`Error::Conflict`] with what is there now (`None` if nothing is).
    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision>;

    /// Follows all changes below `prefix` (empty: the whole keyspace) with revisions `>= from`; `from` must be at least 1.
    /// It may lie in the future.
    ///
    /// The stream yields [`Error::Compacted`] if `from` is gone, also when that happens later during a reconnection.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream>;

    /// The store's revision now, linearizable.
    async fn current_revision(&self) -> Result<Revision>;

    /// Forgets history before `revision`; reads and watches from below it fail with [`Error::Compacted`] from then on.
    /// Compacting what is compacted is no error.
    async fn compact(&self, revision: Revision) -> Result<()>;
}
