//! Informers against a fake API server in this process: a list, watch lines and failures that the test scripts.

use super::*;
use crate::client::{BodyStream, BoxFuture, Transport, TransportError};
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use steersman_types::api::core::v1::ConfigMap;
use tokio::sync::mpsc;

/// Keeps every write, so that a watch can resume anywhere; breaks when told to.
#[derive(Default)]
struct Server {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<String, Value>,
    log: Vec<(u64, String)>,
    /// Watches from before this revision are refused with 410.
    compacted: u64,
    /// Answers that fail before any succeeds.
    failures: u32,
    watchers: Vec<mpsc::UnboundedSender<Result<Bytes, TransportError>>>,
    requests: Vec<String>,
}

fn object(name: &str, uid: u64, revision: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("u{uid}"), "resourceVersion": revision.to_string(),
        "managedFields": [{"manager": "x"}]}, "data": {"at": revision.to_string()}})
}

impl Server {
    fn write(&self, name: &str, delete: bool) {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        let known = state.objects.get(name).cloned();
        let (kind, object) = match (known, delete) {
            (None, true) => return,
            (None, false) => ("ADDED", object(name, revision, revision)),
            (Some(old), delete) => {
                let mut new = old;
                new["metadata"]["resourceVersion"] = revision.to_string().into();
                new["data"]["at"] = revision.to_string().into();
                (if delete { "DELETED" } else { "MODIFIED" }, new)
            }
        };
        if delete {
            state.objects.remove(name);
        } else {
            state.objects.insert(name.to_owned(), object.clone());
        }
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        state.log.push((revision, line.clone()));
        state.watchers.retain(|w| w.send(Ok(Bytes::from(line.clone()))).is_ok());
    }

    fn break_watches(&self) {
        self.state.lock().watchers.clear();
    }

    fn compact(&self) {
        let mut state = self.state.lock();
        state.compacted = state.revision;
        state.watchers.clear();
    }
}

fn answer(code: u16, body: Value) -> Response<BodyStream> {
    let stream: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from(body.to_string()))]));
    let mut response = Response::new(stream);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response
}

struct Fake(Arc<Server>);

impl Transport for Fake {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<BodyStream>, TransportError>> {
        let server = self.0.clone();
        Box::pin(async move {
            let mut state = server.state.lock();
            let uri = request.uri().to_string();
            state.requests.push(uri.clone());
            if state.failures > 0 {
                state.failures -= 1;
                return Err("connection refused".into());
            }
            let query: Vec<(String, String)> = request
                .uri()
                .query()
                .unwrap_or_default()
                .split('&')
                .filter_map(|p| p.split_once('='))
                .map(|(k, v)| (k.into(), v.into()))
                .collect();
            let value = |name: &str| query.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
            if value("watch").is_none() {
                let items: Vec<Value> = state.objects.values().cloned().collect();
                return Ok(answer(
                    200,
                    json!({"metadata": {"resourceVersion": state.revision.to_string()}, "items": items}),
                ));
            }
            let from: u64 = value("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
            if from > state.revision {
                let causes = json!([{"reason": "ResourceVersionTooLarge"}]);
                let message = format!("Too large resource version: {from}, current: {}", state.revision);
                let status = json!({"kind": "Status", "code": 504, "reason": "Timeout", "message": message, "details": {"causes": causes}});
                return Ok(answer(504, status));
            }
            if from < state.compacted {
                return Ok(answer(
                    410,
                    json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}),
                ));
            }
            let (sender, receiver) = mpsc::unbounded_channel();
            for (_, line) in state.log.iter().filter(|(r, _)| *r > from) {
                let _ = sender.send(Ok(Bytes::from(line.clone())));
            }
            state.watchers.push(sender);
            let body: BodyStream = Box::pin(tokio_stream(receiver));
            Ok(Response::new(body))
        })
    }
}

fn tokio_stream(
    receiver: mpsc::UnboundedReceiver<Result<Bytes, TransportError>>,
) -> impl futures::Stream<Item = Result<Bytes, TransportError>> + Send {
    futures::stream::unfold(receiver, |mut r| async move { r.recv().await.map(|item| (item, r)) })
        // Lines arrive in pieces.
        .flat_map(|chunk| {
            let pieces: Vec<_> = match chunk {
                Ok(bytes) => {
                    let half = bytes.len() / 2;
                    vec![Ok(bytes.slice(..half)), Ok(bytes.slice(half..))]
                }
                Err(error) => vec![Err(error)],
            };
            futures::stream::iter(pieces)
        })
}

fn start() -> (Arc<Server>, Informer<ConfigMap>) {
    let server = Arc::new(Server::default());
    let client = Client::new(Arc::new(Fake(server.clone())), "test");
    (server, Informer::start(client, ListOptions::all()))
}

fn name(event: &Event<ConfigMap>) -> String {
    let kind = match event {
        Event::Added(_) => "+",
        Event::Updated { .. } => "~",
        Event::Deleted(_) => "-",
    };
    format!("{kind}{}", event.object().metadata.name.clone().unwrap_or_default())
}

async fn settle() {
    tokio::time::sleep(Duration::from_secs(120)).await;
}

#[tokio::test(start_paused = true)]
async fn additions_changes_and_deletions_arrive_with_old_and_new_state() {
    let (server, informer) = start();
    server.write("a", false);
    informer.synced().await;
    let mut events = informer.subscribe();
    assert_eq!(events.recv().await.as_ref().map(name).as_deref(), Some("+a"));
    server.write("a", false);
    let Some(Event::Updated { old, new }) = events.recv().await else {
        panic!("no update")
    };
    assert_eq!(
        (
            old.metadata.resource_version.as_deref(),
            new.metadata.resource_version.as_deref()
        ),
        (Some("1"), Some("2"))
    );
    assert!(new.metadata.managed_fields.is_none());
    server.write("a", true);
    assert_eq!(events.recv().await.as_ref().map(name).as_deref(), Some("-a"));
    assert!(informer.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_resumes_without_a_new_list() {
    let (server, informer) = start();
    informer.synced().await;
    settle().await;
    server.break_watches();
    server.write("a", false);
    settle().await;
    assert!(informer.get("ns", "a").is_some());
    let lists = server
        .state
        .lock()
        .requests
        .iter()
        .filter(|r| !r.contains("watch="))
        .count();
    assert_eq!(lists, 1);
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_lists_again_and_synthesises_what_was_missed() {
    let (server, informer) = start();
    server.write("gone", false);
    server.write("same", false);
    server.write("changed", false);
    informer.synced().await;
    let mut events = informer.subscribe();
    while events.try_recv().is_some() {}
    server.break_watches();
    server.write("gone", true);
    server.write("changed", false);
    server.write("new", false);
    server.compact();
    settle().await;
    let mut seen: Vec<String> = std::iter::from_fn(|| events.try_recv()).map(|e| name(&e)).collect();
    seen.sort();
    assert_eq!(seen, ["+new", "-gone", "~changed"]);
    assert_eq!(informer.revision(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_server_restored_from_an_older_backup_is_believed() {
    let (server, informer) = start();
    for _ in 0..5 {
        server.write("a", false);
    }
    informer.synced().await;
    settle().await;
    let backup = Server::default();
    backup.write("b", false);
    *server.state.lock() = backup.state.into_inner();
    settle().await;
    assert!(informer.get("ns", "a").is_none());
    assert!(informer.get("ns", "b").is_some());
}

#[tokio::test(start_paused = true)]
async fn an_object_replaced_under_the_same_name_is_a_deletion_and_an_addition() {
    let (server, informer) = start();
    server.write("a", false);
    informer.synced().await;
    let mut events = informer.subscribe();
    while events.try_recv().is_some() {}
    server.write("a", true);
    server.write("a", false);
    settle().await;
    let seen: Vec<String> = std::iter::from_fn(|| events.try_recv()).map(|e| name(&e)).collect();
    assert_eq!(seen, ["-a", "+a"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_with_back_off() {
    let (server, informer) = start();
    server.state.lock().failures = 6;
    server.write("a", false);
    informer.synced().await;
    assert!(informer.get("ns", "a").is_some());
}

#[tokio::test(start_paused = true)]
async fn indexes_follow_changes_and_late_handlers_see_everything() {
    let (server, informer) = start();
    server.write("a", false);
    informer.synced().await;
    let at = informer.add_index(|c: &ConfigMap| c.data.iter().flatten().map(|(_, v)| v.clone()).collect());
    assert_eq!(informer.by_index(at, "1").len(), 1);
    server.write("a", false);
    settle().await;
    assert_eq!(
        (informer.by_index(at, "1").len(), informer.by_index(at, "2").len()),
        (0, 1)
    );
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    informer.on_event(move |e| log.lock().push(name(e)));
    assert_eq!(*seen.lock(), ["+a"]);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u8),
    Delete(u8),
    Break,
    Compact,
    Fail,
    Wait,
    Read,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..5).prop_map(Step::Write),
        2 => (0u8..5).prop_map(Step::Delete),
        1 => Just(Step::Break),
        1 => Just(Step::Compact),
        1 => Just(Step::Fail),
        2 => Just(Step::Wait),
        2 => Just(Step::Read),
    ];
    proptest::collection::vec(step, 0..60)
}

/// A subscriber's own copy, built from events only; panics when the story has a gap.
#[derive(Default)]
struct Replay(BTreeMap<String, Option<String>>);

impl Replay {
    fn take(&mut self, event: Event<ConfigMap>) {
        let key = event.object().metadata.name.clone().unwrap_or_default();
        let version = |o: &Arc<ConfigMap>| o.metadata.resource_version.clone();
        match event {
            Event::Added(new) => assert!(self.0.insert(key, version(&new)).is_none(), "added twice"),
            Event::Updated { old, new } => {
                assert_eq!(
                    self.0.insert(key, version(&new)),
                    Some(version(&old)),
                    "old is not what was seen last"
                );
            }
            Event::Deleted(_) => assert!(self.0.remove(&key).is_some(), "deleted without having been there"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn under_any_failures_events_reconstruct_the_server_s_state(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let Ok(runtime) = runtime else { return Err(TestCaseError::fail("no runtime")) };
        runtime.block_on(async move {
            let (server, informer) = start();
            let mut events = informer.subscribe();
            let mut replay = Replay::default();
            for step in steps {
                match step {
                    Step::Write(n) => server.write(&format!("o{n}"), false),
                    Step::Delete(n) => server.write(&format!("o{n}"), true),
                    Step::Break => server.break_watches(),
                    Step::Compact => server.compact(),
                    Step::Fail => server.state.lock().failures = 2,
                    Step::Wait => settle().await,
                    Step::Read => {
                        if let Some(event) = events.try_recv() {
                            replay.take(event);
                        }
                    }
                }
            }
            server.state.lock().failures = 0;
            settle().await;
            settle().await;
            while let Some(event) = events.try_recv() {
                replay.take(event);
            }
            let expected: BTreeMap<String, Option<String>> = server.state.lock().objects.iter()
                .map(|(k, v)| (k.clone(), v["metadata"]["resourceVersion"].as_str().map(str::to_owned))).collect();
            assert_eq!(replay.0, expected);
            assert_eq!(informer.len(), expected.len());
        });
    }
}
