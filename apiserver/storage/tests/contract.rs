//! The contract of [`Store`], kept by memory and etcd alike.
#![allow(clippy::unwrap_used)]

#[path = "common/etcd.rs"]
mod etcd;

use std::time::Duration;

use futures::StreamExt;
use steersman_storage::{
    Batch, Change, Error, MAX_VALUE_BYTES, MemoryStore, RangeRequest, Revision, Store, WatchStream,
};

/// Runs every part of the contract, each below its own prefix.
async fn keep_the_contract(store: &dyn Store) {
    create_makes_a_key_once(store, "/c1/").await;
    update_and_delete_need_the_current_revision(store, "/c2/").await;
    ranges_are_sorted_paged_and_readable_at_a_revision(store, "/c3/").await;
    a_watch_yields_whole_revisions_in_order_from_where_it_starts(store, "/c4/").await;
    a_key_with_a_lease_goes_away_and_the_watch_tells(store, "/c5/").await;
    an_update_without_ttl_takes_the_key_off_its_lease(store, "/c6/").await;
    too_large_values_are_refused(store, "/c7/").await;
    the_revision_is_linearizable(store, "/c8/").await;
    // Last: it takes away history.
    compacted_history_is_refused_everywhere(store, "/c9/").await;
}

async fn create_makes_a_key_once(store: &dyn Store, at: &str) {
    let key = format!("{at}a");
    assert_eq!(store.get(&key).await.unwrap().kv, None);
    let revision = store.create(&key, "one".into(), None).await.unwrap();
    let got = store.get(&key).await.unwrap();
    assert!(got.revision >= revision);
    let kv = got.kv.unwrap();
    assert_eq!((&*kv.key, &*kv.value), (&*key, &b"one"[..]));
    assert_eq!(
        (kv.create_revision, kv.mod_revision, kv.version, kv.lease),
        (revision, revision, 1, 0)
    );
    assert_eq!(
        store.create(&key, "two".into(), None).await,
        Err(Error::AlreadyExists { key: key.clone() })
    );
    // Also with the same bytes: nobody's answer was lost.
    assert_eq!(
        store.create(&key, "one".into(), None).await,
        Err(Error::AlreadyExists { key })
    );
}

async fn update_and_delete_need_the_current_revision(store: &dyn Store, at: &str) {
    let key = format!("{at}a");
    let first = store.create(&key, "one".into(), None).await.unwrap();
    let second = store.update(&key, "two".into(), first, None).await.unwrap();
    assert!(second > first);
    let kv = store.get(&key).await.unwrap().kv.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (first, second, 2));

    let conflict = Err(Error::Conflict {
        key: key.clone(),
        current: Some(Box::new(kv)),
    });
    assert_eq!(store.update(&key, "three".into(), first, None).await, conflict);
    assert_eq!(store.delete(&key, first).await, conflict);

    let deleted = store.delete(&key, second).await.unwrap();
    assert!(deleted > second);
    let gone = Err(Error::Conflict {
        key: key.clone(),
        current: None,
    });
    assert_eq!(store.delete(&key, second).await, gone);
    assert_eq!(store.update(&key, "four".into(), second, None).await, gone);
    assert!(
        store.update(&key, "five".into(), 0, None).await.is_err(),
        "an update never creates"
    );

    let again = store.create(&key, "six".into(), None).await.unwrap();
    let kv = store.get(&key).await.unwrap().kv.unwrap();
    assert_eq!((kv.create_revision, kv.version), (again, 1), "a new life");
}

async fn ranges_are_sorted_paged_and_readable_at_a_revision(store: &dyn Store, at: &str) {
    for name in ["b", "d", "a", "e", "c"] {
        store.create(&format!("{at}{name}"), name.into(), None).await.unwrap();
    }
    let neighbour = format!("{}0outside", at.trim_end_matches('/')); // '0' follows '/'
    store.create(&neighbour, "x".into(), None).await.unwrap();
    let read = |after: Option<&str>, limit, revision| {
        let after = after.map(|name| format!("{at}{name}"));
        store.range(RangeRequest {
            prefix: at.into(),
            after,
            limit,
            revision,
            keys_only: false,
        })
    };
    let names = |page: &steersman_storage::Page| -> String {
        page.kvs.iter().map(|kv| kv.key.strip_prefix(at).unwrap()).collect()
    };
    let all = read(None, 0, 0).await.unwrap();
    assert_eq!((&*names(&all), all.more, all.count), ("abcde", false, 5));
    let page = read(None, 2, 0).await.unwrap();
    assert_eq!((&*names(&page), page.more, page.count), ("ab", true, 5));

    let then = page.revision;
    let kv = store.get(&format!("{at}c")).await.unwrap().kv.unwrap();
    store
        .update(&format!("{at}c"), "changed".into(), kv.mod_revision, None)
        .await
        .unwrap();
    store.create(&format!("{at}bb"), "new".into(), None).await.unwrap();
    let d = store.get(&format!("{at}d")).await.unwrap().kv.unwrap();
    store.delete(&format!("{at}d"), d.mod_revision).await.unwrap();

    let page = read(Some("b"), 2, then).await.unwrap();
    assert_eq!(
        (&*names(&page), page.more, page.count, page.revision),
        ("cd", true, 3, then)
    );
    assert_eq!(&*page.kvs[0].value, b"c", "the value of then");
    let page = read(Some("d"), 2, then).await.unwrap();
    assert_eq!((&*names(&page), page.more, page.count), ("e", false, 1));
    assert_eq!(names(&read(None, 0, 0).await.unwrap()), "abbbce");
    let keys_only = RangeRequest {
        prefix: at.into(),
        keys_only: true,
        ..RangeRequest::default()
    };
    let keys = store.range(keys_only).await.unwrap();
    assert_eq!(names(&keys), "abbbce");
    assert!(keys.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 0));
    let everything = store.range(RangeRequest::default()).await.unwrap();
    assert!(
        everything.kvs.iter().any(|kv| kv.key == neighbour),
        "no prefix means the whole keyspace"
    );
    assert!(everything.kvs.is_sorted_by(|a, b| a.key < b.key));

    let requested = store.current_revision().await.unwrap() + 1000;
    assert_eq!(read(None, 0, requested).await, Err(Error::FutureRevision { requested }));
}

/// The next `n` changes of a watch; checks that batches are whole and in order.
async fn take(watch: &mut WatchStream, n: usize) -> Vec<Change> {
    let mut changes: Vec<Change> = vec![];
    while changes.len() < n {
        let next = tokio::time::timeout(Duration::from_secs(10), watch.next())
            .await
            .expect("the watch is silent");
        let Batch {
            revision,
            changes: more,
        } = next.expect("the watch ended").unwrap();
        let before = changes.last().map_or(0, Change::revision);
        assert!(
            more.first().is_none_or(|c| c.revision() > before),
            "a revision in two batches"
        );
        assert!(more.last().is_none_or(|c| c.revision() <= revision));
        assert!(more.is_sorted_by_key(Change::revision));
        changes.extend(more);
    }
    assert_eq!(changes.len(), n, "{changes:?}");
    changes
}

fn shown(changes: &[Change], at: &str) -> String {
    let one = |change: &Change| {
        let name = change.key().strip_prefix(at).unwrap();
        match change {
            Change::Put(kv) => format!("{name}={}", String::from_utf8_lossy(&kv.value)),
            Change::Delete { .. } => format!("-{name}"),
        }
    };
    changes.iter().map(one).collect::<Vec<_>>().join(" ")
}

async fn a_watch_yields_whole_revisions_in_order_from_where_it_starts(store: &dyn Store, at: &str) {
    let (a, b) = (format!("{at}a"), format!("{at}b"));
    let first = store.create(&a, "1".into(), None).await.unwrap();
    let second = store.update(&a, "2".into(), first, None).await.unwrap();
    store.create("/elsewhere-in-c4", "x".into(), None).await.unwrap();
    store.create(&b, "3".into(), None).await.unwrap();
    store.delete(&a, second).await.unwrap();

    let mut past = store.watch(at, first).await.unwrap();
    assert_eq!(shown(&take(&mut past, 4).await, at), "a=1 a=2 b=3 -a");
    let mut later = store.watch(at, second).await.unwrap();
    assert_eq!(
        shown(&take(&mut later, 3).await, at),
        "a=2 b=3 -a",
        "the start is included"
    );

    let now = store.current_revision().await.unwrap();
    let mut future = store.watch(at, now + 2).await.unwrap();
    store.create(&format!("{at}c"), "too early".into(), None).await.unwrap();
    store.create(&format!("{at}d"), "4".into(), None).await.unwrap();
    assert_eq!(shown(&take(&mut future, 1).await, at), "d=4");
    assert_eq!(shown(&take(&mut past, 2).await, at), "c=too early d=4");

    // Everything, without a hole in the revisions.
    let mut all = store.watch("", first).await.unwrap();
    let changes = take(&mut all, 7).await;
    let revisions: Vec<Revision> = changes.iter().map(Change::revision).collect();
    assert_eq!(revisions, (first..first + 7).collect::<Vec<_>>());
}

async fn a_key_with_a_lease_goes_away_and_the_watch_tells(store: &dyn Store, at: &str) {
    let key = format!("{at}short");
    let revision = store
        .create(&key, "1".into(), Some(Duration::from_secs(1)))
        .await
        .unwrap();
    let other = store
        .create(&format!("{at}short2"), "1".into(), Some(Duration::from_secs(1)))
        .await
        .unwrap();
    assert_ne!(store.get(&key).await.unwrap().kv.unwrap().lease, 0);
    let mut watch = store.watch(at, revision).await.unwrap();
    let changes = take(&mut watch, 4).await;
    assert_eq!(changes[0].revision(), revision);
    assert_eq!(changes[1].revision(), other);
    let mut gone: Vec<&str> = changes[2..].iter().map(Change::key).collect();
    gone.sort();
    assert_eq!(gone, [&*key, &*format!("{at}short2")]);
    assert_eq!(store.get(&key).await.unwrap().kv, None);
}

async fn an_update_without_ttl_takes_the_key_off_its_lease(store: &dyn Store, at: &str) {
    let key = format!("{at}kept");
    let revision = store
        .create(&key, "1".into(), Some(Duration::from_secs(1)))
        .await
        .unwrap();
    store.update(&key, "2".into(), revision, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(store.get(&key).await.unwrap().kv.unwrap().lease, 0);
}

async fn too_large_values_are_refused(store: &dyn Store, at: &str) {
    let key = format!("{at}large");
    for size in [MAX_VALUE_BYTES, 3 << 20] {
        let refused = store.create(&key, vec![b'x'; size].into(), None).await;
        assert!(
            matches!(refused, Err(Error::TooLarge { size: s, .. }) if s == size),
            "{refused:?}"
        );
    }
    // Near the limit it works, also to read many of them at once (more than gRPC's usual 4 MiB).
    for n in 0..4 {
        store
            .create(&format!("{key}{n}"), vec![b'x'; 1_500_000].into(), None)
            .await
            .unwrap();
    }
    let page = store
        .range(RangeRequest {
            prefix: key,
            ..RangeRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(page.kvs.len(), 4);
    let mut watch = store.watch(at, page.kvs[0].mod_revision).await.unwrap();
    take(&mut watch, 4).await;
}

async fn the_revision_is_linearizable(store: &dyn Store, at: &str) {
    for n in 0..20 {
        let written = store.create(&format!("{at}{n}"), "x".into(), None).await.unwrap();
        assert_eq!(store.current_revision().await.unwrap(), written);
    }
}

async fn compacted_history_is_refused_everywhere(store: &dyn Store, at: &str) {
    let key = format!("{at}a");
    let mut at_revision = store.create(&key, "0".into(), None).await.unwrap();
    let old = at_revision;
    for n in 1..5 {
        at_revision = store
            .update(&key, n.to_string().into(), at_revision, None)
            .await
            .unwrap();
    }
    store.compact(at_revision - 1).await.unwrap();
    store.compact(at_revision - 1).await.unwrap();
    store.compact(old).await.unwrap();
    let read = store
        .range(RangeRequest {
            prefix: at.into(),
            revision: old,
            ..RangeRequest::default()
        })
        .await;
    assert!(
        matches!(read, Err(Error::Compacted { requested, .. }) if requested == old),
        "{read:?}"
    );
    let read = store
        .range(RangeRequest {
            prefix: at.into(),
            revision: at_revision - 1,
            ..RangeRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(
        &*read.kvs[0].value, b"3",
        "the compacted revision itself is still there"
    );
    let mut watch = store.watch(at, old).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), watch.next())
        .await
        .unwrap();
    assert_eq!(
        ended,
        Some(Err(Error::Compacted {
            requested: old,
            oldest: at_revision - 1
        }))
    );
    assert_eq!(watch.next().await, None);
    let requested = at_revision + 1000;
    assert_eq!(store.compact(requested).await, Err(Error::FutureRevision { requested }));
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    keep_the_contract(&MemoryStore::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_keeps_the_contract() {
    let (_cluster, store) = etcd::Cluster::start().await;
    keep_the_contract(&store).await;
}
