//! What the etcd store promises while members die, hang and come back.
#![allow(clippy::unwrap_used)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/etcd.rs"]
mod etcd;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use common::TestIndexer;
use etcd::Cluster;
use futures::StreamExt;
use steersman_storage::{
    Change, Error, EtcdStore, RangeRequest, Store,
    cache::{Cache, CacheOptions, Next, Scope},
};

/// Workers that increment one shared counter and write keys of their own, all through the same store.
struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<tokio::task::JoinHandle<Done>>,
}

#[derive(Default, Debug)]
struct Done {
    increments: u64,
    writes: u64,
    slowest: Duration,
    errors: Vec<String>,
}

const COUNTER: &str = "/registry/load/counter";

/// Many writers write the same document over the same revision: the hardest case for a lost answer.
fn counted(n: u64) -> bytes::Bytes {
    format!("{{\"count\":{n}}}").into()
}

fn count(value: &[u8]) -> u64 {
    std::str::from_utf8(value)
        .unwrap()
        .trim_matches(|c: char| !c.is_ascii_digit())
        .parse()
        .unwrap()
}

impl Load {
    async fn start(store: &EtcdStore) -> Load {
        store.create(COUNTER, counted(0), None).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..8)
            .map(|n| {
                let (store, stop) = (store.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut done = Done::default();
                    let mut step = 0;
                    while !stop.load(Ordering::Relaxed) {
                        step += 1;
                        let start = Instant::now();
                        if let Err(error) = work(&store, n, step, &mut done).await {
                            done.errors.push(error.to_string());
                        }
                        done.slowest = done.slowest.max(start.elapsed());
                    }
                    done
                })
            })
            .collect();
        Load { stop, workers }
    }

    async fn finish(self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Done::default();
        for worker in self.workers {
            let done = worker.await.unwrap();
            sum.increments += done.increments;
            sum.writes += done.writes;
            sum.slowest = sum.slowest.max(done.slowest);
            sum.errors.extend(done.errors);
        }
        sum
    }
}

async fn work(store: &EtcdStore, worker: usize, step: u64, done: &mut Done) -> Result<(), Error> {
    let key = format!("/registry/load/own/{worker}-{step}");
    let created = store
        .create(&key, format!("{{\"by\":\"{worker}-{step}\"}}").into(), None)
        .await?;
    let updated = store.update(&key, "{\"again\":1}".into(), created, None).await?;
    assert!(updated > created);
    if step.is_multiple_of(2) {
        store.delete(&key, updated).await?;
    }
    done.writes += 1;
    let kv = store.get(COUNTER).await?.kv.expect("the counter is there");
    match store
        .update(COUNTER, counted(count(&kv.value) + 1), kv.mod_revision, None)
        .await
    {
        Ok(_) => done.increments += 1,
        Err(Error::Conflict { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn counter(store: &EtcdStore) -> u64 {
    let kv = store.get(COUNTER).await.unwrap().kv.unwrap();
    count(&kv.value)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_die_one_after_the_other_cost_no_request_and_no_increment() {
    let (mut cluster, store) = Cluster::start().await;
    let mut watch = store.watch("", 1).await.unwrap();
    let load = Load::start(&store).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for n in 0..3 {
        cluster.members[n].kill();
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.run(n);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let done = load.finish().await;
    println!("{done:?}");
    assert_eq!(done.errors, Vec::<String>::new());
    assert_eq!(
        counter(&store).await,
        done.increments,
        "increments that were confirmed, and no others"
    );
    assert!(done.writes > 100);

    // The one watch saw every revision once, over all these deaths.
    let now = store.current_revision().await.unwrap();
    let mut last = 1;
    while last < now {
        let batch = tokio::time::timeout(Duration::from_secs(10), watch.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        for change in batch.changes {
            assert_eq!(change.revision(), last + 1);
            last = change.revision();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_is_left_for_another() {
    let (cluster, store) = Cluster::start().await;
    let load = Load::start(&store).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut watch = store.watch("", store.current_revision().await.unwrap()).await.unwrap();
    let cache = Cache::start(
        Arc::new(store.clone()),
        CacheOptions::new("/registry/"),
        Arc::new(TestIndexer),
    );
    cache.ready().await;
    let reader = tokio::spawn(async move {
        for _ in 0..500 {
            cache
                .fresh()
                .await
                .expect("a consistent read fails because one member hangs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    // The first endpoint is the pinned one.
    cluster.members[0].freeze();
    tokio::time::sleep(Duration::from_secs(15)).await;
    let before = counter(&store).await;
    let start = Instant::now();
    store.create("/registry/after", "x".into(), None).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the hanging member is no longer asked"
    );
    let seen = async {
        loop {
            let batch = watch.next().await.unwrap().unwrap();
            if batch.changes.iter().any(|c| c.key() == "/registry/after") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), seen)
        .await
        .expect("the watch moved too");
    reader.await.unwrap();
    cluster.members[0].thaw();
    let done = load.finish().await;
    println!("{done:?}");
    assert_eq!(done.errors, Vec::<String>::new());
    assert!(counter(&store).await >= before);
    assert_eq!(counter(&store).await, done.increments);
    assert!(done.slowest < Duration::from_secs(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_quorum_requests_fail_within_ten_seconds_and_work_again_after() {
    let (mut cluster, store) = Cluster::start().await;
    let revision = store.create("/registry/k", "1".into(), None).await.unwrap();
    let mut watch = store.watch("", revision + 1).await.unwrap();
    cluster.members[0].kill();
    cluster.members[1].kill();
    // The rest needs an election timeout to notice.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = Instant::now();
    let limited = |error: Error| {
        assert!(start.elapsed() < Duration::from_secs(10), "{error}");
        assert!(
            matches!(error, Error::Unavailable(_) | Error::Timeout(_) | Error::Unknown(_)),
            "{error}"
        );
    };
    let range = RangeRequest {
        prefix: "/registry/".into(),
        ..RangeRequest::default()
    };
    let (get, range, create, update, delete, current, leased) = tokio::join!(
        store.get("/registry/k"),
        store.range(range),
        store.create("/registry/new", "1".into(), None),
        store.update("/registry/k", "2".into(), revision, None),
        store.delete("/registry/k", revision),
        store.current_revision(),
        store.create("/registry/leased", "1".into(), Some(Duration::from_secs(60))),
    );
    limited(get.unwrap_err());
    limited(range.unwrap_err());
    limited(create.unwrap_err());
    limited(update.unwrap_err());
    limited(delete.unwrap_err());
    limited(current.unwrap_err());
    limited(leased.unwrap_err());

    cluster.run(0);
    cluster.run(1);
    let start = Instant::now();
    while store.current_revision().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    let written = store.create("/registry/back", "x".into(), None).await.unwrap();
    let mut last = revision;
    while last < written {
        let batch = tokio::time::timeout(Duration::from_secs(20), watch.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        last = batch.revision;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_follows_through_member_deaths_and_compaction() {
    let (mut cluster, store) = Cluster::start().await;
    for n in 0..50 {
        store
            .create(&format!("/registry/pods/ns/p{n}"), "{node=n1;0}".into(), None)
            .await
            .unwrap();
    }
    let options = CacheOptions {
        page: 7,
        ..CacheOptions::new("/registry/")
    };
    let cache = Cache::start(Arc::new(store.clone()), options, Arc::new(TestIndexer));
    tokio::time::timeout(Duration::from_secs(10), cache.ready())
        .await
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writes = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let (store, stop, writes) = (store.clone(), stop.clone(), writes.clone());
            tokio::spawn(async move {
                let mut step = w;
                while !stop.load(Ordering::Relaxed) {
                    step += 7;
                    let key = format!("/registry/pods/ns/p{}", step % 60);
                    let value = format!("{{node=n{};{step}}}", step % 3);
                    let written = match store.get(&key).await.unwrap().kv {
                        Some(kv) if step % 5 == 0 => store.delete(&key, kv.mod_revision).await,
                        Some(kv) => store.update(&key, value.into(), kv.mod_revision, None).await,
                        None => store.create(&key, value.into(), None).await,
                    };
                    match written {
                        Ok(revision) => {
                            writes.fetch_max(revision.unsigned_abs(), Ordering::Relaxed);
                        }
                        Err(Error::Conflict { .. } | Error::AlreadyExists { .. }) => {}
                        Err(error) => panic!("{key}: {error}"),
                    }
                }
            })
        })
        .collect();
    // Watchers that list, follow, and compare at the end; they start all the time.
    let follow = |cache: Arc<Cache>, scope: Scope| {
        let snapshot = cache.snapshot("/registry/pods/");
        let mut watch = cache.watch(scope, snapshot.revision()).unwrap();
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut state: BTreeMap<String, i64> = snapshot
                .range("/registry/pods/", None)
                .map(|o| (o.key().to_owned(), o.mod_revision()))
                .collect();
            let mut last = snapshot.revision();
            loop {
                match tokio::time::timeout(Duration::from_secs(3), watch.next()).await {
                    Ok(Next::Events(events)) => {
                        for event in events {
                            assert!(event.revision() > last, "order");
                            last = event.revision();
                            let before = match event.new() {
                                Some(new) => state.insert(event.key().into(), new.mod_revision()),
                                None => state.remove(event.key()),
                            };
                            assert_eq!(before, event.old().map(|o| o.mod_revision()), "a version was skipped");
                        }
                    }
                    Ok(Next::Expired) => panic!("expired though there is ample history"),
                    Err(_) if stop.load(Ordering::Relaxed) => return state,
                    Err(_) => {}
                }
            }
        })
    };
    let mut followers = vec![];
    let mut before = store.current_revision().await.unwrap();
    for n in 0..3 {
        for _ in 0..4 {
            followers.push(follow(
                cache.clone(),
                Scope::prefix("/registry/pods/", "/registry/pods/ns/"),
            ));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // As the regular compaction does it: up to where the round before began.
        let now = store.current_revision().await.unwrap();
        store.compact(std::mem::replace(&mut before, now)).await.unwrap();
        cluster.members[n].kill();
        tokio::time::sleep(Duration::from_secs(2)).await;
        // Fresh reads go on without the member.
        let written = i64::try_from(writes.load(Ordering::Relaxed)).unwrap();
        assert!(cache.fresh().await.unwrap() >= written);
        cluster.run(n);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    cache.fresh().await.unwrap();
    let page = store
        .range(RangeRequest {
            prefix: "/registry/pods/".into(),
            ..RangeRequest::default()
        })
        .await
        .unwrap();
    let truth: BTreeMap<String, i64> = page.kvs.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect();
    let shown = cache.snapshot("/registry/pods/");
    let shown: BTreeMap<String, i64> = shown
        .range("/registry/pods/", None)
        .map(|o| (o.key().to_owned(), o.mod_revision()))
        .collect();
    assert_eq!(shown, truth);
    for follower in followers {
        assert_eq!(follower.await.unwrap(), truth);
    }
    println!("{} revisions", page.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_cluster_still_has_what_was_confirmed() {
    let (mut cluster, store) = Cluster::start().await;
    let leader = cluster.leader(&store).await;
    let written = store.create("/registry/kept", "x".into(), None).await.unwrap();
    let mut watch = store.watch("/registry/", written).await.unwrap();
    for n in [leader, (leader + 1) % 3, (leader + 2) % 3] {
        cluster.members[n].kill();
    }
    for n in 0..3 {
        cluster.run(n);
    }
    let start = Instant::now();
    let got = loop {
        match store.get("/registry/kept").await {
            Ok(got) => break got,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "{error}"),
        }
    };
    assert_eq!(got.kv.unwrap().mod_revision, written);
    let later = store.create("/registry/later", "y".into(), None).await.unwrap();
    let mut seen = vec![];
    while seen.last() != Some(&later) {
        let batch = tokio::time::timeout(Duration::from_secs(20), watch.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        seen.extend(batch.changes.iter().map(Change::revision));
    }
    assert_eq!(seen, [written, later]);
}
