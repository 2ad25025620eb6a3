//! Property: whatever happens to the store, list + watch from any revision gives exactly the history: nothing lost,
//! repeated, or out of order; snapshots of the past show the past.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/unsteady.rs"]
mod unsteady;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::TestIndexer;
use futures::FutureExt;
use proptest::prelude::*;
use steersman_storage::{
    MemoryStore, Store,
    cache::{Cache, CacheOptions, Error, Event, Next, Scope, Watch},
};

const PODS: &str = "/registry/pods/";
const ITEMS: &str = "/registry/example.com/items/";

#[derive(Clone, Debug)]
enum Op {
    /// Put the key if that is possible (create or update).
    Put {
        key: usize,
        node: u8,
    },
    Delete {
        key: usize,
    },
    /// Keys that end together, in one revision.
    PutShortLived {
        key: usize,
        node: u8,
    },
    PassTime,
    /// Start a watch from a fraction of the history.
    Watch {
        scope: u8,
        back: u8,
    },
    /// Let a watch take what is there.
    Drain {
        watch: u8,
    },
    /// Let the cache catch up.
    Settle,
    Compact,
    Stray,
    /// The cache's watch of the store breaks.
    Cut,
}

fn key(n: usize) -> String {
    let resource = if n.is_multiple_of(3) { ITEMS } else { PODS };
    format!("{resource}ns{}/name{n}", n % 2)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0usize..12, 0u8..3).prop_map(|(key, node)| Op::Put { key, node }),
        3 => (0usize..12).prop_map(|key| Op::Delete { key }),
        1 => (0usize..12, 0u8..3).prop_map(|(key, node)| Op::PutShortLived { key, node }),
        1 => Just(Op::PassTime),
        3 => (0u8..6, any::<u8>()).prop_map(|(scope, back)| Op::Watch { scope, back }),
        3 => any::<u8>().prop_map(|watch| Op::Drain { watch }),
        3 => Just(Op::Settle),
        1 => Just(Op::Compact),
        1 => Just(Op::Stray),
        1 => Just(Op::Cut),
    ]
}

fn scope(n: u8) -> Scope {
    match n {
        0 => Scope::prefix(PODS, PODS),
        1 => Scope::prefix(PODS, "/registry/pods/ns1/"),
        2 => Scope::key(PODS, "/registry/pods/ns1/name1"),
        3 => Scope::prefix(PODS, PODS).with_field("spec.nodeName", "n1"),
        4 => Scope::prefix(ITEMS, ITEMS),
        _ => Scope::prefix(ITEMS, "/registry/example.com/items/ns0/").with_field("spec.nodeName", "n2"),
    }
}

/// Which (key, old value, new value) triples a scope must see.
fn wanted(scope: u8, key: &str, old: Option<&str>, new: Option<&str>) -> bool {
    let node = |n: &str| {
        [old, new]
            .into_iter()
            .flatten()
            .any(|v| v.starts_with(&format!("node={n};")))
    };
    match scope {
        0 => key.starts_with(PODS),
        1 => key.starts_with("/registry/pods/ns1/"),
        2 => key == "/registry/pods/ns1/name1",
        3 => key.starts_with(PODS) && node("n1"),
        4 => key.starts_with(ITEMS),
        _ => key.starts_with("/registry/example.com/items/ns0/") && node("n2"),
    }
}

type Told = (i64, String, Option<String>, Option<String>);

fn told(event: &Event) -> Told {
    let text = |o: Option<&Arc<steersman_storage::cache::Object>>| {
        o.map(|o| {
            let stored = String::from_utf8(o.stored().to_vec()).unwrap();
            let (value, revision) = stored.rsplit_once('@').unwrap();
            assert_eq!(revision, o.mod_revision().to_string());
            value.to_owned()
        })
    };
    (
        event.revision(),
        event.key().to_owned(),
        text(event.old()),
        text(event.new()),
    )
}

struct Watching {
    scope: u8,
    start: i64,
    watch: Watch,
    seen: Vec<Told>,
    expired: bool,
}

impl Watching {
    fn drain(&mut self) {
        while !self.expired {
            match self.watch.next().now_or_never() {
                Some(Next::Events(events)) => {
                    assert!(!events.is_empty());
                    self.seen.extend(events.iter().map(|e| told(e)));
                    assert!(
                        self.watch.revision() >= self.seen.last().unwrap().0,
                        "a bookmark behind delivered events"
                    );
                }
                Some(Next::Expired) => self.expired = true,
                None => return,
            }
        }
    }
}

/// The model: the full history, read from the store itself (before it was compacted).
#[derive(Default)]
struct History {
    state: BTreeMap<String, String>,
    events: Vec<Told>,
    revision: i64,
}

impl History {
    async fn follow(&mut self, store: &MemoryStore) {
        use futures::StreamExt;
        let now = store.current_revision().await.unwrap();
        let mut changes = store.watch("", self.revision + 1).await.unwrap();
        while self.revision < now {
            let batch = changes.next().await.unwrap().unwrap();
            self.revision = batch.revision;
            for change in batch.changes {
                let key = change.key().to_owned();
                let new = match &change {
                    steersman_storage::Change::Put(kv) => Some(String::from_utf8(kv.value.to_vec()).unwrap()),
                    steersman_storage::Change::Delete { .. } => None,
                };
                let old = match &new {
                    Some(new) => self.state.insert(key.clone(), new.clone()),
                    None => self.state.remove(&key),
                };
                self.events.push((change.revision(), key, old, new));
            }
        }
    }

    fn state_at(&self, revision: i64, prefix: &str) -> Vec<(String, String)> {
        let mut state = BTreeMap::new();
        for (at, key, _, new) in &self.events {
            if *at > revision {
                break;
            }
            match new {
                Some(new) => state.insert(key.clone(), new.clone()),
                None => state.remove(key),
            };
        }
        state.into_iter().filter(|(k, _)| k.starts_with(prefix)).collect()
    }
}

async fn run(ops: Vec<Op>, history_bytes: usize) {
    let clock = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let now = clock.clone();
    let store = MemoryStore::with_clock(Arc::new(move || {
        Duration::from_secs(now.load(std::sync::atomic::Ordering::Relaxed))
    }));
    let shaky = unsteady::Unsteady::new(store.clone());
    let mut history = History {
        revision: 0,
        ..History::default()
    };
    for n in [1, 2, 3] {
        store
            .create(&key(n), format!("node=n{n};start").into(), None)
            .await
            .unwrap();
    }
    let options = CacheOptions {
        history_bytes,
        page: 2,
        ..CacheOptions::new("/registry/")
    };
    let cache = Cache::start(Arc::new(shaky.clone()), options, Arc::new(TestIndexer));
    cache.ready().await;
    let loaded = cache.revision();
    let mut watches: Vec<Watching> = vec![];
    for (step, op) in ops.into_iter().enumerate() {
        match op {
            Op::Put { key: n, node } | Op::PutShortLived { key: n, node } => {
                let ttl = matches!(op, Op::PutShortLived { .. }).then_some(Duration::from_secs(10));
                let value = format!("node=n{node};{step}");
                match store.get(&key(n)).await.unwrap().kv {
                    Some(kv) => store.update(&key(n), value.into(), kv.mod_revision, ttl).await.unwrap(),
                    None => store.create(&key(n), value.into(), ttl).await.unwrap(),
                };
            }
            Op::Delete { key: n } => {
                if let Some(kv) = store.get(&key(n)).await.unwrap().kv {
                    store.delete(&key(n), kv.mod_revision).await.unwrap();
                }
            }
            Op::PassTime => {
                clock.fetch_add(11, std::sync::atomic::Ordering::Relaxed);
                store.expire();
            }
            Op::Watch { scope: n, back } => {
                let now = cache.revision();
                let start = loaded + (now - loaded) * i64::from(back) / 255;
                match cache.watch(scope(n), start) {
                    Ok(watch) => watches.push(Watching {
                        scope: n,
                        start,
                        watch,
                        seen: vec![],
                        expired: false,
                    }),
                    Err(Error::Expired { .. }) => assert!(history_bytes < 1 << 20, "history was dropped too early"),
                    Err(other) => panic!("{other}"),
                }
            }
            Op::Drain { watch } => {
                let len = watches.len();
                if len > 0 {
                    watches[usize::from(watch) % len].drain();
                }
            }
            Op::Settle => {
                cache.fresh().await.unwrap();
            }
            Op::Compact => {
                history.follow(&store).await;
                cache.fresh().await.unwrap();
                store.compact(store.current_revision().await.unwrap()).await.unwrap();
            }
            Op::Cut => shaky.cut(),
            Op::Stray => {
                let n = store.current_revision().await.unwrap();
                store.create(&format!("elsewhere{n}"), "x".into(), None).await.unwrap();
            }
        }
    }
    history.follow(&store).await;
    let end = cache.fresh().await.unwrap();
    assert_eq!(end, history.revision);

    for watching in &mut watches {
        watching.drain();
        let mut expected: Vec<Told> = history
            .events
            .iter()
            .filter(|(revision, key, old, new)| {
                *revision > watching.start && wanted(watching.scope, key, old.as_deref(), new.as_deref())
            })
            .cloned()
            .collect();
        if watching.expired {
            assert!(history_bytes < 1 << 20, "expired with ample history");
            // What came before the end is a prefix of the truth.
            expected.truncate(watching.seen.len());
        } else {
            assert_eq!(
                watching.watch.revision(),
                end,
                "an idle watch may bookmark the newest revision"
            );
        }
        assert_eq!(watching.seen, expected);
    }
    for resource in [PODS, ITEMS] {
        for revision in loaded..=end {
            match cache.snapshot_at(resource, revision) {
                Ok(snapshot) => {
                    let shown: Vec<_> = snapshot
                        .range(resource, None)
                        .map(|o| {
                            let value = String::from_utf8(o.stored().to_vec()).unwrap();
                            (o.key().to_owned(), value.rsplit_once('@').unwrap().0.to_owned())
                        })
                        .collect();
                    assert_eq!(shown, history.state_at(revision, resource), "{resource} at {revision}");
                    assert_eq!(snapshot.revision(), revision);
                    assert_eq!(snapshot.count(resource, None), shown.len());
                    let on_node: Vec<_> = snapshot.by_field("spec.nodeName", "n1").map(|o| o.key()).collect();
                    let model: Vec<_> = shown
                        .iter()
                        .filter(|(_, v)| v.starts_with("node=n1;"))
                        .map(|(k, _)| k.as_str())
                        .collect();
                    if resource == PODS {
                        assert_eq!(on_node, model);
                    }
                }
                Err(Error::Expired { .. }) => assert!(history_bytes < 1 << 20),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn list_and_watch_from_any_revision_give_exactly_the_history(ops in proptest::collection::vec(op(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(ops, 64 << 20));
    }

    #[test]
    fn with_too_little_history_watches_expire_but_never_skip(ops in proptest::collection::vec(op(), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(ops, 4096));
    }
}
