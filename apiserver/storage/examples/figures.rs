//! Measures the store and the cache against a real three-member etcd on this machine:
//! `STEERSMAN_ETCD=... cargo run --release -p steersman-storage --example figures [objects [page]]`.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/etcd.rs"]
mod etcd;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::TestIndexer;
use futures::StreamExt;
use steersman_storage::{
    EtcdOptions, Store,
    cache::{Cache, CacheOptions, Next, Scope},
};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// The bare stubs, to compare with.
#[allow(clippy::all, dead_code)]
mod pb {
    tonic::include_proto!("etcdserverpb");
}

const PODS: &str = "/registry/pods/";

fn memory_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn value(n: usize) -> bytes::Bytes {
    format!("{{node=n{};{n}{}", n % 1000, "x".repeat(1500)).into()
}

async fn write(store: &impl Store, from: usize, count: usize, at_once: usize) -> f64 {
    let start = Instant::now();
    futures::stream::iter(from..from + count)
        .map(|n| async move {
            store
                .create(&format!("{PODS}ns{}/pod-{n}", n % 50), value(n), None)
                .await
                .unwrap()
        })
        .buffer_unordered(at_once)
        .for_each(|_| async {})
        .await;
    count as f64 / start.elapsed().as_secs_f64()
}

/// The same writes without our store: one channel to the first member, one put per transaction, nothing compared.
async fn write_raw(options: &EtcdOptions, from: usize, count: usize, at_once: usize) -> f64 {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&options.ca))
        .identity(Identity::from_pem(&options.cert, &options.key));
    let endpoint = Endpoint::from_shared(options.endpoints[0].clone())
        .unwrap()
        .tls_config(tls)
        .unwrap();
    let channel = endpoint.tcp_nodelay(true).connect().await.unwrap();
    let start = Instant::now();
    futures::stream::iter(from..from + count)
        .map(|n| {
            let mut client = pb::kv_client::KvClient::new(channel.clone());
            let put = pb::PutRequest {
                key: format!("/raw/pod-{n}").into(),
                value: value(n),
                lease: 0,
            };
            let op = pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(put)),
            };
            async move {
                client
                    .txn(pb::TxnRequest {
                        success: vec![op],
                        ..Default::default()
                    })
                    .await
                    .unwrap();
            }
        })
        .buffer_unordered(at_once)
        .for_each(|_| async {})
        .await;
    count as f64 / start.elapsed().as_secs_f64()
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    format!("p50 {:?} p99 {:?} max {:?}", at(0.5), at(0.99), at(1.0))
}

#[tokio::main]
async fn main() {
    let objects: usize = std::env::args().nth(1).map_or(150_000, |n| n.parse().unwrap());
    let (cluster, store) = etcd::Cluster::start().await;
    let options = cluster.options();
    // In turns, because other things happen on the machine.
    for round in 0..4 {
        let raw = write_raw(&options, round * 2000, 2000, 64).await;
        let ours = write(&store, 10_000_000 + round * 2000, 2000, 64).await;
        println!(
            "writes/s, 1.5 KiB, 64 at a time: etcd alone {raw:.0}, the store {ours:.0} ({:.0} %)",
            ours / raw * 100.0
        );
    }
    println!(
        "creates/s, 1.5 KiB, 1 at a time: {:.0}",
        write(&store, 0, 1000, 1).await
    );
    println!(
        "creates/s, 1.5 KiB, 64 at a time: {:.0}",
        write(&store, 1000, objects.max(2000) - 1000, 64).await
    );

    let before = memory_kib();
    let start = Instant::now();
    let cache = Cache::start(
        Arc::new(store.clone()),
        CacheOptions::new("/registry/"),
        Arc::new(TestIndexer),
    );
    cache.ready().await;
    let loaded = start.elapsed();
    let snapshot = cache.snapshot(PODS);
    let stored: usize = snapshot.range(PODS, None).map(|o| o.stored().len()).sum();
    println!(
        "loaded {} objects, {} MiB, in {loaded:?}",
        snapshot.count(PODS, None),
        stored >> 20
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = (memory_kib() - before) * 1024;
    println!(
        "memory: {:.2} x stored bytes ({} bytes per object besides)",
        held as f64 / stored as f64,
        held.saturating_sub(stored) / snapshot.count(PODS, None).max(1)
    );

    let start = Instant::now();
    let mut count = 0;
    for _ in 0..10 {
        count += cache
            .snapshot(PODS)
            .range(PODS, None)
            .filter(|o| !o.stored().is_empty())
            .count();
    }
    println!(
        "walk over a snapshot: {:.0} ns per object",
        start.elapsed().as_nanos() as f64 / count as f64
    );

    let mut times = vec![];
    for _ in 0..2000 {
        let start = Instant::now();
        cache.fresh().await.unwrap();
        times.push(start.elapsed());
    }
    println!("fresh, one reader: {}", percentiles(times));
    let start = Instant::now();
    let readers: Vec<_> = (0..500)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for _ in 0..40 {
                    cache.fresh().await.unwrap();
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    println!("fresh, 500 readers: {:.0}/s", 20_000.0 / start.elapsed().as_secs_f64());

    // Watchers: idle ones in memory, and how soon an event is there.
    let before = memory_kib();
    let idle: Vec<_> = (0..10_000)
        .map(|n| {
            let scope = Scope::prefix(PODS, PODS).with_field("spec.nodeName", &format!("idle{n}"));
            let mut watch = cache.watch(scope, cache.revision()).unwrap();
            tokio::spawn(async move { drop(watch.next().await) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!(
        "an idle watcher with its task: {} bytes",
        (memory_kib() - before) * 1024 / idle.len()
    );
    let mut watch = cache.watch(Scope::prefix(PODS, PODS), cache.revision()).unwrap();
    let mut times = vec![];
    for n in 0..500 {
        let key = format!("{PODS}late/pod-{n}");
        let start = Instant::now();
        let (_, next) = tokio::join!(store.create(&key, value(n), None), watch.next());
        assert!(matches!(next, Next::Events(_)));
        times.push(start.elapsed());
    }
    println!("create to event (10,000 idle watchers beside): {}", percentiles(times));
}
