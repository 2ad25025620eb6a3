//! Many threads at once: no wake-up is lost, no event is skipped, whatever the scope of the watch.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use common::TestIndexer;
use steersman_storage::{
    Error, MemoryStore, Store,
    cache::{Cache, CacheOptions, Next, Scope},
};

const PODS: &str = "/registry/pods/";
const WRITES: usize = 3000;

fn scope(n: usize) -> Scope {
    match n % 4 {
        0 => Scope::prefix(PODS, PODS),
        1 => Scope::prefix(PODS, "/registry/pods/ns1/"),
        2 => Scope::key(PODS, "/registry/pods/ns1/p7"),
        _ => Scope::prefix(PODS, PODS).with_field("spec.nodeName", "n1"),
    }
}

fn covers(n: usize, key: &str, node: Option<&str>) -> bool {
    match n % 4 {
        0 => true,
        1 => key.starts_with("/registry/pods/ns1/"),
        2 => key == "/registry/pods/ns1/p7",
        _ => node == Some("n1"),
    }
}

/// Lists, then follows until `end` is known and reached; returns what it believes exists in its scope. Now and then it
/// drops its watch and resumes from where it was.
async fn follow(cache: Arc<Cache>, n: usize, end: Arc<AtomicI64>) -> BTreeMap<String, i64> {
    let snapshot = cache.snapshot(PODS);
    let mut state: BTreeMap<String, i64> = snapshot
        .range(PODS, None)
        .filter(|o| covers(n, o.key(), o.fields().get("spec.nodeName")))
        .map(|o| (o.key().to_owned(), o.mod_revision()))
        .collect();
    let mut last = snapshot.revision();
    let mut watch = cache.watch(scope(n), last).unwrap();
    let mut rounds = 0;
    loop {
        let goal = end.load(Ordering::SeqCst);
        if goal > 0 && watch.revision() >= goal {
            return state;
        }
        // The pause only ends the wait when there is nothing more to come.
        let Ok(next) = tokio::time::timeout(Duration::from_millis(50), watch.next()).await else {
            continue;
        };
        let Next::Events(events) = next else { panic!("expired") };
        for event in events {
            assert!(event.revision() > last, "watch {n}: {} after {last}", event.revision());
            last = event.revision();
            let inside =
                |o: &&Arc<steersman_storage::cache::Object>| covers(n, o.key(), o.fields().get("spec.nodeName"));
            let before = state.remove(event.key());
            assert_eq!(
                before,
                event.old().filter(inside).map(|o| o.mod_revision()),
                "watch {n}: a version was skipped"
            );
            if let Some(new) = event.new().filter(inside) {
                state.insert(new.key().to_owned(), new.mod_revision());
            }
        }
        rounds += 1;
        if rounds % 16 == n % 16 {
            watch = cache.watch(scope(n), watch.revision()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_readers_and_watchers_at_once_agree_in_the_end() {
    let store = MemoryStore::new();
    let cache = Cache::start(
        Arc::new(store.clone()),
        CacheOptions::new("/registry/"),
        Arc::new(TestIndexer),
    );
    cache.ready().await;
    let end = Arc::new(AtomicI64::new(0));
    let mut watchers = vec![];
    let mut writers = vec![];
    for w in 0..4 {
        let (store, cache) = (store.clone(), cache.clone());
        writers.push(tokio::spawn(async move {
            for step in 0..WRITES {
                let key = format!("{PODS}ns{}/p{}", step % 3, (step * 7 + w * 3) % 40);
                let value = format!("node=n{};{w}-{step}", (step + w) % 5);
                let result = match store.get(&key).await.unwrap().kv {
                    Some(kv) if (step + w) % 4 == 0 => store.delete(&key, kv.mod_revision).await,
                    Some(kv) => store.update(&key, value.into(), kv.mod_revision, None).await,
                    None => store.create(&key, value.into(), None).await,
                };
                match result {
                    // What was written is there for who asks for the newest state.
                    Ok(revision) if step % 50 == 0 => assert!(cache.fresh().await.unwrap() >= revision),
                    Ok(_) | Err(Error::Conflict { .. } | Error::AlreadyExists { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                if step % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }));
    }
    for n in 0..32 {
        watchers.push((n, tokio::spawn(follow(cache.clone(), n, end.clone()))));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    end.store(cache.fresh().await.unwrap(), Ordering::SeqCst);
    let snapshot = cache.snapshot(PODS);
    for (n, watcher) in watchers {
        let state = tokio::time::timeout(Duration::from_secs(20), watcher)
            .await
            .expect("a watch hangs")
            .unwrap();
        let expected: BTreeMap<String, i64> = snapshot
            .range(PODS, None)
            .filter(|o| covers(n, o.key(), o.fields().get("spec.nodeName")))
            .map(|o| (o.key().to_owned(), o.mod_revision()))
            .collect();
        assert_eq!(state, expected, "watch {n}");
    }
}
