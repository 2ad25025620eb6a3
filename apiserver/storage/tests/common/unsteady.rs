//! A store that can be told to misbehave.
#![allow(dead_code)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::RwLock;
use steersman_storage::{Error, Got, MemoryStore, Page, RangeRequest, Result, Revision, Store, WatchStream};
use tokio::sync::watch;

#[derive(Clone)]
pub struct Unsteady(Arc<Inner>);

struct Inner {
    store: RwLock<MemoryStore>,
    down: AtomicBool,
    cuts: watch::Sender<u64>,
    /// A revision that watches leave out, once.
    hidden: AtomicI64,
    /// Watches deliver nothing.
    mute: AtomicBool,
}

impl Unsteady {
    pub fn new(store: MemoryStore) -> Self {
        Unsteady(Arc::new(Inner {
            store: RwLock::new(store),
            down: AtomicBool::new(false),
            cuts: watch::Sender::new(0),
            hidden: AtomicI64::new(0),
            mute: AtomicBool::new(false),
        }))
    }

    /// Ends all watches with an error.
    pub fn cut(&self) {
        self.0.cuts.send_modify(|n| *n += 1);
    }

    /// Nothing works, or works again.
    pub fn down(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
        self.cut();
    }

    pub fn hide(&self, revision: Revision) {
        self.0.hidden.store(revision, Ordering::SeqCst);
    }

    pub fn mute(&self, mute: bool) {
        self.0.mute.store(mute, Ordering::SeqCst);
    }

    /// Another store takes its place, as after a restore from a backup. Watches of the old one stay silent.
    pub fn replace(&self, store: MemoryStore) {
        *self.0.store.write() = store;
    }

    fn store(&self) -> Result<MemoryStore> {
        if self.0.down.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("down".into()));
        }
        Ok(self.0.store.read().clone())
    }
}

#[async_trait]
impl Store for Unsteady {
    async fn get(&self, key: &str) -> Result<Got> {
        self.store()?.get(key).await
    }
    async fn range(&self, request: RangeRequest) -> Result<Page> {
        self.store()?.range(request).await
    }
    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision> {
        self.store()?.create(key, value, ttl).await
    }
    async fn update(&self, key: &str, value: Bytes, expected: Revision, ttl: Option<Duration>) -> Result<Revision> {
        self.store()?.update(key, value, expected, ttl).await
    }
    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision> {
        self.store()?.delete(key, expected).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream> {
        let inner = self.0.clone();
        let batches = self.store()?.watch(prefix, from).await?;
        let mut cuts = self.0.cuts.subscribe();
        let batches = batches.filter_map(move |batch| {
            let inner = inner.clone();
            async move {
                let mut batch = match batch {
                    Ok(batch) => batch,
                    Err(error) => return Some(Err(error)),
                };
                if inner.mute.load(Ordering::SeqCst) {
                    return None;
                }
                let hidden = inner.hidden.load(Ordering::SeqCst);
                if batch.changes.iter().any(|c| c.revision() == hidden) && batch.revision > hidden {
                    inner.hidden.store(0, Ordering::SeqCst);
                    batch.changes.retain(|c| c.revision() != hidden);
                }
                Some(Ok(batch))
            }
        });
        let cut = async move {
            let _ = cuts.changed().await;
            Err(Error::Unavailable("cut".into()))
        };
        // The cut comes first, then nothing more.
        let cut = futures::stream::once(cut)
            .map(Some)
            .chain(futures::stream::once(async { None }));
        let both =
            futures::stream::select_with_strategy(cut, batches.map(Some), |_: &mut ()| futures::stream::PollNext::Left);
        Ok(both
            .take_while(|item| futures::future::ready(item.is_some()))
            .filter_map(futures::future::ready)
            .boxed())
    }
    async fn current_revision(&self) -> Result<Revision> {
        self.store()?.current_revision().await
    }
    async fn compact(&self, revision: Revision) -> Result<()> {
        self.store()?.compact(revision).await
    }
}
