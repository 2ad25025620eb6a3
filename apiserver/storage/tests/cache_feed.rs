//! How the cache behaves when the store does not.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/unsteady.rs"]
mod unsteady;

use std::{sync::Arc, time::Duration};

use common::TestIndexer;
use futures::FutureExt;
use steersman_storage::{
    MemoryStore, Store,
    cache::{Cache, CacheOptions, Error, Next, Scope, Verdict, Watch},
    compact::Compactor,
};
use unsteady::Unsteady;

const PODS: &str = "/registry/pods/";

fn pod(n: usize) -> String {
    format!("/registry/pods/ns/p{n}")
}

fn start(store: &Unsteady) -> Arc<Cache> {
    let options = CacheOptions {
        wait: Duration::from_millis(300),
        ..CacheOptions::new("/registry/")
    };
    Cache::start(Arc::new(store.clone()), options, Arc::new(TestIndexer))
}

async fn ready(store: &Unsteady) -> Arc<Cache> {
    let cache = start(store);
    tokio::time::timeout(Duration::from_secs(5), cache.ready())
        .await
        .unwrap();
    cache
}

fn all() -> Scope {
    Scope::prefix(PODS, PODS)
}

/// Revisions of the next `n` events.
async fn take(watch: &mut Watch, n: usize) -> Vec<i64> {
    let mut seen = vec![];
    while seen.len() < n {
        match tokio::time::timeout(Duration::from_secs(5), watch.next())
            .await
            .expect("no event comes")
        {
            Next::Events(events) => seen.extend(events.iter().map(|e| e.revision())),
            Next::Expired => panic!("expired"),
        }
    }
    seen
}

async fn eventually(mut check: impl FnMut() -> bool) {
    for _ in 0..500 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("does not happen");
}

async fn caught_up(cache: &Cache, revision: i64) {
    eventually(|| cache.revision() >= revision).await;
}

#[tokio::test]
async fn before_it_is_loaded_it_says_so_and_it_loads_when_the_store_comes() {
    let store = Unsteady::new(MemoryStore::new());
    store.create(&pod(1), "node=a;".into(), None).await.unwrap();
    store.down(true);
    let cache = start(&store);
    assert!(!cache.is_ready());
    assert_eq!(cache.fresh().await, Err(Error::NotReady));
    assert_eq!(cache.wait_for(1).await, Err(Error::NotReady));
    assert_eq!(cache.watch(all(), 1).unwrap_err(), Error::NotReady);
    assert_eq!(cache.snapshot_at(PODS, 1).unwrap_err(), Error::NotReady);
    store.down(false);
    tokio::time::timeout(Duration::from_secs(5), cache.ready())
        .await
        .unwrap();
    assert!(cache.get(&pod(1)).is_some());
}

#[tokio::test]
async fn what_the_store_forgets_is_not_told_from_memory() {
    let store = Unsteady::new(MemoryStore::new());
    let first = store.create(&pod(1), "node=a;".into(), None).await.unwrap();
    let second = store.create(&pod(2), "node=a;".into(), None).await.unwrap();
    let cache = ready(&store).await;
    let third = store.create(&pod(3), "node=a;".into(), None).await.unwrap();
    caught_up(&cache, third).await;
    assert!(cache.snapshot_at(PODS, second).is_ok());
    // Any API server may compact; all of them learn it from the key by which they agree on it.
    let mut compactor = Compactor::default();
    compactor.round(&store).await.unwrap();
    let fourth = store.create(&pod(4), "node=a;".into(), None).await.unwrap();
    let compacted = compactor.round(&store).await.unwrap().unwrap();
    assert!(third < compacted && compacted < fourth);
    let expired = |revision| matches!(cache.snapshot_at(PODS, revision), Err(Error::Expired { .. }));
    eventually(|| expired(third)).await;
    assert!(expired(first) && expired(second));
    assert_eq!(cache.snapshot_at(PODS, fourth).unwrap().count(PODS, None), 4);
    // A watch is told what the memory still has.
    let mut watch = cache.watch(all(), third).unwrap();
    assert_eq!(take(&mut watch, 1).await, [fourth]);
}

#[tokio::test]
async fn watches_and_reads_of_the_past_survive_a_restart_of_the_server() {
    let store = Unsteady::new(MemoryStore::new());
    let mut written = vec![];
    for n in 0..20 {
        written.push(
            store
                .create(&pod(n % 7 + 100 * n), "node=a;".into(), None)
                .await
                .unwrap(),
        );
    }
    let cache = ready(&store).await;
    assert_eq!(
        cache.revision(),
        written[19],
        "nothing older than the newest state is ever told"
    );
    let mut resumed = cache.watch(all(), written[4]).unwrap();
    assert_eq!(take(&mut resumed, 15).await, written[5..]);
    assert_eq!(cache.snapshot_at(PODS, written[9]).unwrap().count(PODS, None), 10);

    // As far back as the store remembers, and no farther.
    store.compact(written[9]).await.unwrap();
    let cache = ready(&store).await;
    assert_eq!(cache.revision(), written[19]);
    assert!(matches!(cache.watch(all(), written[4]), Err(Error::Expired { .. })));
}

#[tokio::test]
async fn a_cut_watch_of_the_store_is_not_felt_by_watchers() {
    let store = Unsteady::new(MemoryStore::new());
    let cache = ready(&store).await;
    let mut watch = cache.watch(all(), cache.revision()).unwrap();
    let mut written = vec![];
    for n in 0..5 {
        written.push(store.create(&pod(n), "node=a;".into(), None).await.unwrap());
        store.cut();
        written.push(store.create(&pod(n + 10), "node=a;".into(), None).await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(take(&mut watch, written.len()).await, written);
}

#[tokio::test]
async fn a_revision_that_is_missing_is_asked_for_again() {
    let store = Unsteady::new(MemoryStore::new());
    let cache = ready(&store).await;
    let mut watch = cache.watch(all(), cache.revision()).unwrap();
    let first = store.create(&pod(1), "node=a;".into(), None).await.unwrap();
    take(&mut watch, 1).await;
    // The next one gets lost, and is noticed with the one after it.
    store.hide(first + 1);
    store.mute(true);
    store.create(&pod(2), "node=a;".into(), None).await.unwrap();
    store.create(&pod(3), "node=a;".into(), None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.mute(false);
    store.cut();
    assert_eq!(take(&mut watch, 2).await, [first + 1, first + 2]);
    assert!(cache.get(&pod(2)).is_some());
}

#[tokio::test]
async fn a_stuck_watch_is_restarted_when_a_reader_notices() {
    let store = Unsteady::new(MemoryStore::new());
    let cache = ready(&store).await;
    store.mute(true);
    let written = store.create(&pod(1), "node=a;".into(), None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.mute(false);
    let stuck = cache.fresh().await;
    assert_eq!(
        stuck,
        Err(Error::TooLarge {
            requested: written,
            current: written - 1
        })
    );
    assert_eq!(
        stuck.unwrap_err().to_string(),
        format!("Too large resource version: {written}, current: {}", written - 1)
    );
    caught_up(&cache, written).await;
    assert_eq!(cache.fresh().await, Ok(written));
}

#[tokio::test]
async fn history_that_is_compacted_during_an_outage_expires_watches_and_nothing_else_is_lost() {
    let store = Unsteady::new(MemoryStore::new());
    let kept = store.create(&pod(1), "node=a;".into(), None).await.unwrap();
    let cache = ready(&store).await;
    let start = cache.revision();
    let mut watch = cache.watch(all(), start).unwrap();
    let mut elsewhere = cache
        .watch(Scope::prefix("/registry/secrets/", "/registry/secrets/"), start)
        .unwrap();
    // While the feed is away, things change and are forgotten.
    let memory = {
        store.mute(true);
        store.cut();
        let changed = store.update(&pod(1), "node=b;".into(), kept, None).await.unwrap();
        store.create(&pod(2), "node=a;".into(), None).await.unwrap();
        store.delete(&pod(1), changed).await.unwrap();
        let now = store.current_revision().await.unwrap();
        store.compact(now).await.unwrap();
        now
    };
    store.mute(false);
    store.cut();
    caught_up(&cache, memory).await;
    assert!(matches!(watch.next().now_or_never(), Some(Next::Expired)));
    assert!(
        matches!(watch.next().now_or_never(), Some(Next::Expired)),
        "it stays so"
    );
    assert!(matches!(elsewhere.next().now_or_never(), Some(Next::Expired)));
    assert_eq!(
        cache.watch(all(), start).unwrap_err(),
        Error::Expired {
            requested: start,
            oldest: memory
        }
    );
    assert_eq!(
        cache.snapshot_at(PODS, start).unwrap_err(),
        Error::Expired {
            requested: start,
            oldest: memory
        }
    );
    let snapshot = cache.snapshot(PODS);
    assert_eq!(
        snapshot.range(PODS, None).map(|o| o.key()).collect::<Vec<_>>(),
        [pod(2)]
    );
    let mut again = cache.watch(all(), snapshot.revision()).unwrap();
    let next = store.create(&pod(3), "node=a;".into(), None).await.unwrap();
    assert_eq!(take(&mut again, 1).await, [next]);
}

#[tokio::test]
async fn a_store_that_was_restored_from_a_backup_is_loaded_again() {
    let store = Unsteady::new(MemoryStore::new());
    for n in 0..9 {
        store.create(&pod(n), "node=a;".into(), None).await.unwrap();
    }
    let cache = ready(&store).await;
    let mut watch = cache.watch(all(), cache.revision()).unwrap();
    let backup = MemoryStore::new();
    backup.create(&pod(1), "node=old;".into(), None).await.unwrap();
    store.replace(backup);
    assert_eq!(cache.fresh().await, Err(Error::NotReady));
    eventually(|| cache.revision() == 2).await;
    assert_eq!(cache.fresh().await, Ok(2));
    assert_eq!(cache.snapshot(PODS).count(PODS, None), 1);
    assert!(matches!(watch.next().now_or_never(), Some(Next::Expired)));
}

#[tokio::test]
async fn a_cache_that_differs_from_the_store_notices_and_heals() {
    let (one, two) = (MemoryStore::new(), MemoryStore::new());
    for n in 0..12 {
        one.create(&pod(n), "node=a;".into(), None).await.unwrap();
        two.create(&pod(n * 2), "node=a;".into(), None).await.unwrap();
    }
    let store = Unsteady::new(one);
    let cache = ready(&store).await;
    let revision = cache.revision();
    assert_eq!(
        cache.verify(PODS).await,
        Ok(Verdict::Consistent { objects: 12, revision })
    );
    assert_eq!(cache.resources(), [PODS.into()]);
    // Same revision, other content: only a comparison can tell.
    store.replace(two);
    let verdict = cache.verify(PODS).await;
    assert_eq!(verdict, Ok(Verdict::Inconsistent { revision, key: pod(10) }));
    eventually(|| cache.get(&pod(22)).is_some()).await;
    assert_eq!(
        cache.verify(PODS).await,
        Ok(Verdict::Consistent { objects: 12, revision })
    );
}

#[tokio::test]
async fn an_object_that_cannot_be_decoded_is_kept_and_reported() {
    let store = Unsteady::new(MemoryStore::new());
    let bad = store.create(&pod(1), "rubbish".into(), None).await.unwrap();
    let cache = ready(&store).await;
    let worse = store.create(&pod(2), vec![0xff, 0xfe].into(), None).await.unwrap();
    caught_up(&cache, worse).await;
    let broken = cache.broken();
    assert_eq!(
        broken.iter().map(|o| (o.key(), o.mod_revision())).collect::<Vec<_>>(),
        [(&*pod(1), bad), (&*pod(2), worse)]
    );
    assert_eq!(broken[0].broken(), Some("no node in the value"));
    assert_eq!(&broken[0].stored()[..], b"rubbish");
    let healed = store.update(&pod(1), "node=a;".into(), bad, None).await.unwrap();
    let gone = store.delete(&pod(2), worse).await.unwrap();
    caught_up(&cache, gone).await;
    assert!(cache.broken().is_empty());
    assert_eq!(cache.get(&pod(1)).unwrap().mod_revision(), healed);
}

#[tokio::test]
async fn waiting_for_a_revision_ends_when_it_comes_or_in_time() {
    let store = Unsteady::new(MemoryStore::new());
    let cache = ready(&store).await;
    let next = cache.revision() + 1;
    let key = pod(1);
    let (reached, _) = tokio::join!(cache.wait_for(next), store.create(&key, "node=a;".into(), None));
    assert_eq!(reached, Ok(next));
    let error = cache.wait_for(next + 7).await.unwrap_err();
    assert_eq!(
        error,
        Error::TooLarge {
            requested: next + 7,
            current: next
        }
    );
    assert_eq!(cache.snapshot_at(PODS, next + 7).unwrap_err(), error);
}

#[tokio::test]
async fn encodings_are_made_once_and_shared() {
    let store = Unsteady::new(MemoryStore::new());
    let cache = ready(&store).await;
    let from = cache.revision();
    let (mut one, mut two) = (cache.watch(all(), from).unwrap(), cache.watch(all(), from).unwrap());
    store.create(&pod(1), "node=a;".into(), None).await.unwrap();
    let (Next::Events(first), Next::Events(second)) = (one.next().await, two.next().await) else {
        panic!()
    };
    let made = first[0].encoding::<()>(3, || Ok("made".into())).unwrap();
    let shared = second[0].encoding::<()>(3, || panic!("made twice")).unwrap();
    assert_eq!(made.as_ptr(), shared.as_ptr());
    assert_eq!(second[0].encoding(4, || Err("no")), Err("no"), "an error is not kept");
    assert_eq!(
        &second[0].encoding::<()>(4, || Ok("other".into())).unwrap()[..],
        b"other"
    );

    let object = cache.get(&pod(1)).unwrap();
    cache.encoding::<()>(&object, 1, || Ok("json".into())).unwrap();
    cache.encoding::<()>(&object, 1, || panic!("made twice")).unwrap();
    // What does not fit the budget is dropped, oldest first.
    cache
        .encoding::<()>(&object, 2, || Ok(vec![0; 64 << 20].into()))
        .unwrap();
    assert_eq!(
        &cache.encoding::<()>(&object, 1, || Ok("anew".into())).unwrap()[..],
        b"anew"
    );
}

#[tokio::test]
async fn idle_watchers_are_not_woken_by_what_does_not_concern_them() {
    let store = Unsteady::new(MemoryStore::new());
    let cache = ready(&store).await;
    let from = cache.revision();
    let scopes = [
        Scope::prefix(PODS, "/registry/pods/other/"),
        Scope::key(PODS, "/registry/pods/ns/other"),
        Scope::prefix(PODS, PODS).with_field("spec.nodeName", "other"),
        Scope::prefix("/registry/secrets/", "/registry/secrets/"),
    ];
    let mut watches: Vec<Watch> = scopes.iter().map(|s| cache.watch(s.clone(), from).unwrap()).collect();
    let mut waiting: Vec<_> = watches.iter_mut().map(|w| Box::pin(w.next())).collect();
    let woken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    struct Count(Arc<std::sync::atomic::AtomicUsize>);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let waker = std::task::Waker::from(Arc::new(Count(woken.clone())));
    let mut context = std::task::Context::from_waker(&waker);
    for next in &mut waiting {
        assert!(next.as_mut().poll(&mut context).is_pending());
    }
    let mut last = 0;
    for n in 0..100 {
        last = store.create(&pod(n), "node=a;".into(), None).await.unwrap();
    }
    caught_up(&cache, last).await;
    assert_eq!(woken.load(std::sync::atomic::Ordering::SeqCst), 0);
    drop(waiting);
    for watch in &mut watches {
        assert_eq!(watch.revision(), last, "but their bookmarks advance");
    }
}
