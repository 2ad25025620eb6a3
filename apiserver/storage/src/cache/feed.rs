//! The task that loads the store's state and follows it with one watch over the whole keyspace.
//!
//! Every revision of the store shows up in that watch, so a missing one is seen: the feed then asks for it again.

use std::{
    collections::{HashMap, VecDeque},
    ops::ControlFlow,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::StreamExt;

use super::{
    Indexer, Inner,
    object::Object,
    state::{Aftermath, Decoded},
    tree::Keyed,
};
use crate::{
    compact,
    store::{Batch, Change, Error, KeyValue, RangeRequest, Result, Revision, Store},
};

/// Pages that are being indexed while the next one is fetched.
const PAGES_AHEAD: usize = 3;
/// How many revisions of the past to replay at the start, if the store still has them. At some KiB each they fit into the
/// event log.
const REPLAY: [Revision; 2] = [10_000, 1_000];
/// Time for the replay.
const REPLAY_TIME: Duration = Duration::from_secs(5);
/// Pause after a failure of the store (which has its own retries and deadlines), doubled with each one in a row.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why the feed stops following.
enum Stop {
    /// Somebody noticed that the watch is stuck, or a revision is missing: watch again from where we are.
    Watch,
    /// History is lost: load again.
    Load,
    /// The cache is gone.
    End,
}

/// Loads and follows until the cache is dropped.
pub(super) async fn run(cache: Weak<Inner>, store: Arc<dyn Store>) {
    let mut pause = PAUSE;
    while let Some(inner) = cache.upgrade() {
        let loaded = load(&inner, &*store).await;
        drop(inner);
        if let Err(error) = loaded {
            tracing::warn!(%error, "cannot load the state of the store");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            continue;
        }
        pause = PAUSE;
        if follow(&cache, &*store).await.is_break() {
            return;
        }
    }
}

/// Loads the store's state. The first time it takes a state of the past and lets the watch replay what followed, so that
/// clients of a server that was restarted find the history which they need to resume.
async fn load(cache: &Inner, store: &dyn Store) -> Result<()> {
    let now = store.current_revision().await?;
    if cache.state.read().epoch == 0 {
        for back in REPLAY {
            let from = (now - back).max(1);
            match load_at(cache, store, from, now).await {
                Err(Error::Compacted { .. }) => {}
                done => return done,
            }
        }
    }
    load_at(cache, store, 0, 0).await
}

/// Loads the state at `revision` (0: the newest), to be told when the cache has reached `target`.
async fn load_at(cache: &Inner, store: &dyn Store, revision: Revision, target: Revision) -> Result<()> {
    let mut pages = VecDeque::new();
    let mut objects = Vec::new();
    let (prefix, limit) = (cache.options.prefix.clone(), cache.options.page);
    let mut request = RangeRequest {
        prefix,
        limit,
        revision,
        keys_only: false,
        after: None,
    };
    loop {
        let page = store.range(request.clone()).await?;
        request.revision = page.revision;
        request.after = page.kvs.last().map(|kv| kv.key.clone());
        let more = page.more && request.after.is_some();
        objects.reserve(if objects.is_empty() {
            usize::try_from(page.count).unwrap_or(0)
        } else {
            0
        });
        let indexer = cache.indexer.clone();
        pages.push_back(tokio::task::spawn_blocking(move || index_page(&*indexer, page.kvs)));
        while pages.len() > if more { PAGES_AHEAD } else { 0 }
            && let Some(page) = pages.pop_front()
        {
            objects.extend(
                page.await
                    .map_err(|e| Error::Internal(format!("indexing failed: {e}")))?,
            );
        }
        if !more {
            break;
        }
    }
    tracing::info!(
        objects = objects.len(),
        revision = request.revision,
        target,
        "loaded the state of the store"
    );
    let after = cache.state.write().load(objects, request.revision, target);
    // Revisions may mean something else now (a restored store).
    cache.past.lock().clear();
    finish(cache, after);
    Ok(())
}

fn index_page(indexer: &dyn Indexer, kvs: Vec<KeyValue>) -> Vec<Arc<Object>> {
    kvs.into_iter()
        .map(|kv| Arc::new(object(indexer, kv.key.as_str().into(), &kv)))
        .collect()
}

fn object(indexer: &dyn Indexer, key: Arc<str>, kv: &KeyValue) -> Object {
    Object::new(indexer, key, &kv.value, kv.create_revision, kv.mod_revision, kv.lease)
}

/// Follows the store from the cache's revision on, until history is lost (`Continue`) or the cache is gone (`Break`).
async fn follow(cache: &Weak<Inner>, store: &dyn Store) -> ControlFlow<()> {
    // A revision that was missing twice has no changes; do not ask a third time.
    let mut believed_gap = None;
    loop {
        let Some(from) = cache.upgrade().map(|c| c.state.read().revision + 1) else {
            return ControlFlow::Break(());
        };
        match follow_from(cache, store, from, &mut believed_gap).await {
            Stop::Watch => tokio::time::sleep(PAUSE).await,
            Stop::Load => return ControlFlow::Continue(()),
            Stop::End => return ControlFlow::Break(()),
        }
    }
}

async fn follow_from(
    cache: &Weak<Inner>,
    store: &dyn Store,
    from: Revision,
    believed_gap: &mut Option<Revision>,
) -> Stop {
    let mut batches = match store.watch("", from).await {
        Ok(batches) => batches,
        Err(error) => return stop_for(&error),
    };
    let mut next = from;
    let Some(kick) = cache.upgrade().map(|c| c.kick.clone()) else {
        return Stop::End;
    };
    let replayed = tokio::time::sleep(REPLAY_TIME);
    tokio::pin!(replayed);
    let mut replaying = cache.upgrade().is_some_and(|c| !c.state.read().is_ready());
    loop {
        let batch = tokio::select! {
            () = &mut replayed, if replaying => {
                tracing::warn!("the replay of past revisions does not come to its end; loading the newest state instead");
                return Stop::Load;
            }
            batch = batches.next() => batch,
            reload = kick.kicked() => {
                tracing::warn!(from = next, reload, "restarting the watch of the store");
                return if reload { Stop::Load } else { Stop::Watch };
            }
        };
        let Some(inner) = cache.upgrade() else { return Stop::End };
        match batch {
            Some(Ok(batch)) => {
                if let Some(missing) = first_gap(&batch, next).filter(|gap| *believed_gap != Some(*gap)) {
                    tracing::warn!(
                        revision = missing,
                        "a revision is missing in the watch of the store; asking again"
                    );
                    *believed_gap = Some(missing);
                    return Stop::Watch;
                }
                next = next.max(batch.revision + 1);
                apply(&inner, batch);
                replaying = replaying && !inner.state.read().is_ready();
            }
            Some(Err(error)) => return stop_for(&error),
            None => return Stop::Watch,
        }
    }
}

fn stop_for(error: &Error) -> Stop {
    tracing::warn!(%error, "watch of the store ended");
    match error {
        Error::Compacted { .. } | Error::FutureRevision { .. } => Stop::Load,
        _ => Stop::Watch,
    }
}

/// First revision from `next` on that the batch jumps over.
fn first_gap(batch: &Batch, mut next: Revision) -> Option<Revision> {
    for change in &batch.changes {
        if change.revision() > next {
            return Some(next);
        }
        next = next.max(change.revision() + 1);
    }
    None
}

/// Decodes a batch and applies it at once.
fn apply(cache: &Inner, batch: Batch) {
    let revision = batch.revision;
    let keys = {
        // Versions of a key share its string.
        let state = cache.state.read();
        let known = |key: &str| state.get(key).map(|o| Keyed::key(o).clone());
        batch.changes.iter().map(|c| known(c.key())).collect::<Vec<_>>()
    };
    let compacted = batch.changes.iter().rev().find_map(compact::compacted_to);
    let mut fresh_keys: HashMap<String, Arc<str>> = HashMap::new();
    let changes = batch
        .changes
        .into_iter()
        .zip(keys)
        .filter(|(change, _)| change.key().starts_with(&cache.options.prefix))
        .map(|(change, known)| {
            let key = known.unwrap_or_else(|| match fresh_keys.get(change.key()) {
                Some(key) => key.clone(),
                None => {
                    let key: Arc<str> = change.key().into();
                    fresh_keys.insert(change.key().to_owned(), key.clone());
                    key
                }
            });
            let revision = change.revision();
            let object = match change {
                Change::Put(kv) => Some(Arc::new(object(&*cache.indexer, key.clone(), &kv))),
                Change::Delete { .. } => None,
            };
            Decoded { key, revision, object }
        })
        .collect();
    let after = {
        let mut state = cache.state.write();
        if let Some(revision) = compacted {
            state.compact(revision);
        }
        state.apply(changes, revision)
    };
    finish(cache, after);
}

/// What has to happen after a write of the state, outside its lock.
fn finish(cache: &Inner, mut after: Aftermath) {
    for topic in after.wake.drain(..) {
        topic.notify.notify_waiters();
    }
    if after.trimmed {
        let mut past = cache.past.lock();
        let state = cache.state.read();
        past.retain(|(resource, snapshot)| state.reaches(resource, snapshot.revision()));
    }
    let (ready, revision) = {
        let state = cache.state.read();
        (state.is_ready(), state.revision)
    };
    if ready {
        cache
            .progress
            .send_if_modified(|now| std::mem::replace(now, revision) != revision);
    }
}
