//! Creates whose first copy is stuck in a member that is cut off, and is delivered when all is over.
#![allow(clippy::unwrap_used)]

#[path = "common/etcd.rs"]
mod etcd;
#[path = "common/relay.rs"]
mod relay;

use etcd::Cluster;
use relay::Relay;
use steersman_storage::{Error, EtcdStore, Store};

const KEY: &str = "/registry/pods/default/web";

/// A store that talks to the first member through a relay, and goes on with the second; it has created something.
async fn through_a_relay(cluster: &Cluster) -> (Relay, EtcdStore) {
    let mut options = cluster.options();
    let relay = Relay::before(&options.endpoints[0]).await;
    options.endpoints = vec![relay.url.clone(), options.endpoints[1].clone()];
    let store = EtcdStore::connect(options).unwrap();
    store
        .create("/registry/pods/default/first", "{}".into(), None)
        .await
        .unwrap();
    (relay, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_was_created_and_deleted_does_not_come_back() {
    let (cluster, _) = Cluster::start().await;
    let (relay, store) = through_a_relay(&cluster).await;
    relay.hold();
    let created = store.create(KEY, r#"{"by":"us"}"#.into(), None).await.unwrap();
    store.delete(KEY, created).await.unwrap();
    relay.deliver().await;
    assert_eq!(store.get(KEY).await.unwrap().kv, None);
    store.create(KEY, r#"{"by":"us again"}"#.into(), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_was_refused_takes_no_effect_later() {
    let (cluster, other) = Cluster::start().await;
    let (relay, store) = through_a_relay(&cluster).await;
    relay.hold();
    let refused = {
        let store = store.clone();
        tokio::spawn(async move { store.create(KEY, r#"{"by":"us"}"#.into(), None).await })
    };
    // Before the lost create is judged: its attempt has 1.5 s.
    let theirs = other.create(KEY, r#"{"by":"them"}"#.into(), None).await.unwrap();
    let refused = refused.await.unwrap();
    assert!(matches!(refused, Err(Error::AlreadyExists { .. })), "{refused:?}");
    other.delete(KEY, theirs).await.unwrap();
    relay.deliver().await;
    assert_eq!(other.get(KEY).await.unwrap().kv, None);
}
