//! Creates of 4 KB objects through the API beside raw creates in etcd, in turns: A B A B.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::future::try_join_all;
use steersman_conformance::Cluster;
use steersman_storage::{EtcdOptions, EtcdStore, Store};

use crate::memory::cpu;
use crate::{api, median};

const CONNECTIONS: usize = 16;
const COUNT: usize = 4000;
const BYTES: usize = 4096;
const NAMESPACE: &str = "bench-writes";

pub async fn run(cluster: &Cluster) -> Result<()> {
    let read = |name: &str| std::fs::read(cluster.pki(name)).with_context(|| name.to_owned());
    let options = EtcdOptions {
        endpoints: ["2379", "2389", "2399"]
            .map(|port| format!("https://127.0.0.1:{port}"))
            .to_vec(),
        ca: read("etcd-ca.crt")?,
        cert: read("etcd-client.crt")?,
        key: read("etcd-client.key")?,
    };
    let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(options)?);
    let admin = api::client(cluster, None).await?;
    api::namespace(&admin, NAMESPACE).await?;
    let (mut raw, mut api_rates, mut cpus) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..2 {
        raw.push(etcd(&store, round).await?);
        let pid = cluster.pid("kube-apiserver").context("kube-apiserver does not run")?;
        let before = cpu(pid)?;
        api_rates.push(creates(cluster, round).await?);
        cpus.push((cpu(pid)? - before) / (COUNT as f64 / 1000.0));
    }
    println!("creates of {BYTES} bytes, {CONNECTIONS} connections, {COUNT} each, A B A B:");
    println!("  raw etcd transactions  {:>7.0}/s", median(raw.clone()));
    println!(
        "  API creates            {:>7.0}/s  ({:.0} % of raw), {:.2} CPU s of kube-apiserver per 1000",
        median(api_rates.clone()),
        100.0 * median(api_rates) / median(raw),
        median(cpus)
    );
    api::drop_namespace(&admin, NAMESPACE).await
}

async fn etcd(store: &Arc<dyn Store>, round: usize) -> Result<f64> {
    let value = Bytes::from(vec![b'x'; BYTES]);
    let next = AtomicUsize::new(0);
    let key = |i: usize| format!("/bench-raw/{round}/{i}");
    let begin = Instant::now();
    let worker = || async {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= COUNT {
                return anyhow::Ok(());
            }
            store.create(&key(i), value.clone(), None).await?;
        }
    };
    try_join_all((0..CONNECTIONS).map(|_| worker())).await?;
    let rate = COUNT as f64 / begin.elapsed().as_secs_f64();
    for i in 0..COUNT {
        let revision = store.get(&key(i)).await?.kv.map(|v| v.mod_revision);
        if let Some(revision) = revision {
            store.delete(&key(i), revision).await?;
        }
    }
    Ok(rate)
}

async fn creates(cluster: &Cluster, round: usize) -> Result<f64> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(api::client(cluster, None).await?);
    }
    let begin = Instant::now();
    let workers = clients.into_iter().map(|client| {
        let next = next.clone();
        tokio::spawn(async move {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= COUNT {
                    return anyhow::Ok(());
                }
                let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": format!("c-{round}-{i}"), "namespace": NAMESPACE}, "data": {"x": "x".repeat(BYTES - 200)}});
                api::json(&client, "POST", &format!("/api/v1/namespaces/{NAMESPACE}/configmaps"), Some(&object)).await?;
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    Ok(COUNT as f64 / begin.elapsed().as_secs_f64())
}
