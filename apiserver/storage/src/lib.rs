//! Storage of the API server: a [`Store`] (etcd or memory) that keeps keys and bytes, and a [`cache::Cache`] that follows it
//! with one watch and answers reads and watches from memory.
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # use steersman_storage::{Store, MemoryStore, cache::{Cache, CacheOptions, Indexer, Scope, Next}};
//! # async fn example(indexer: Arc<dyn Indexer>, value: bytes::Bytes) -> Result<(), Box<dyn std::error::Error>> {
//! let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
//! let cache = Cache::start(store.clone(), CacheOptions::new("/registry/"), indexer);
//! cache.ready().await; // initial state loaded
//!
//! // Writes go to the store; their result is the new resourceVersion.
//! let revision = store.create("/registry/pods/default/web", value.clone(), None).await?;
//!
//! // resourceVersion unset: linearizable ("most recent") read from memory.
//! cache.fresh().await?;
//! let pod = cache.get("/registry/pods/default/web").ok_or("gone")?;
//! assert_eq!(pod.mod_revision(), revision);
//! store.update(pod.key(), value, pod.mod_revision(), None).await?;
//!
//! // resourceVersion=N, NotOlderThan: wait, then any snapshot. LIST pages from an immutable snapshot.
//! cache.wait_for(revision).await?;
//! let pods = cache.snapshot("/registry/pods/");
//! let mut page = pods.range("/registry/pods/default/", None).take(500);
//! let last = page.next();
//! // Next page, or resourceVersionMatch=Exact: the same revision again, or Error::Expired.
//! let again = cache.snapshot_at("/registry/pods/", pods.revision())?;
//!
//! // Watch strictly after a revision. `next` is cancel safe: select over it, a bookmark timer and the deadline.
//! let mut watch = cache.watch(Scope::prefix("/registry/pods/", "/registry/pods/default/"), pods.revision())?;
//! match watch.next().await {
//!     Next::Events(events) => for event in events { let _ = (event.old(), event.new(), event.revision()); },
//!     Next::Expired => {} // 410: list again
//! }
//! let bookmark = watch.revision(); // everything up to here has been delivered
//! # Ok(()) }
//! ```

pub mod cache;
pub mod compact;
pub mod etcd;
pub mod memory;
pub mod store;

pub use compact::compact_regularly;
pub use etcd::{EtcdOptions, EtcdStore, MemberStatus};
pub use memory::MemoryStore;
pub use store::{
    Batch, Change, Error, Got, KeyValue, MAX_VALUE_BYTES, Page, RangeRequest, Result, Revision, Store, WatchStream,
};
