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
pub mod memory;
pub mod store;

pub use memory::MemoryStore;
pub use store::{
    Batch, Change, Error, Got, KeyValue, MAX_VALUE_BYTES, Page, RangeRequest, Result, Revision, Store, WatchStream,
};

mod signatures_pending {
    // Filled in the next commits: same names, same signatures.
    use super::*;
    use std::time::Duration;

    /// Where etcd is and how to prove who we are.
    #[derive(Clone, Debug, Default)]
    pub struct EtcdOptions {
        /// `https://host:port`, one per member (`--etcd-servers`).
        pub endpoints: Vec<String>,
        /// PEM contents of `--etcd-cafile`, `--etcd-certfile`, `--etcd-keyfile`.
        pub ca: Vec<u8>,
        pub cert: Vec<u8>,
        pub key: Vec<u8>,
    }

    /// The store in etcd.
    pub struct EtcdStore {}
    impl EtcdStore {
        /// Succeeds also when no member answers yet: connections are made when needed.
        pub fn connect(options: EtcdOptions) -> Result<Self> {
            let _ = options;
            unimplemented!()
        }
    }
    #[async_trait::async_trait]
    impl Store for EtcdStore {
        async fn get(&self, _: &str) -> Result<Got> {
            unimplemented!()
        }
        async fn range(&self, _: RangeRequest) -> Result<Page> {
            unimplemented!()
        }
        async fn create(&self, _: &str, _: bytes::Bytes, _: Option<Duration>) -> Result<Revision> {
            unimplemented!()
        }
        async fn update(&self, _: &str, _: bytes::Bytes, _: Revision, _: Option<Duration>) -> Result<Revision> {
            unimplemented!()
        }
        async fn delete(&self, _: &str, _: Revision) -> Result<Revision> {
            unimplemented!()
        }
        async fn watch(&self, _: &str, _: Revision) -> Result<WatchStream> {
            unimplemented!()
        }
        async fn current_revision(&self) -> Result<Revision> {
            unimplemented!()
        }
        async fn compact(&self, _: Revision) -> Result<()> {
            unimplemented!()
        }
    }

    /// Compacts etcd's history like upstream: every `interval`, one API server of all (elected through the key `compact_rev_key`).
    /// Runs until dropped.
    pub async fn compact_regularly(store: std::sync::Arc<dyn Store>, interval: Duration) {
        let _ = (store, interval);
        unimplemented!()
    }
}
pub use signatures_pending::{EtcdOptions, EtcdStore, compact_regularly};
