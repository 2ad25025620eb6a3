//! Writes of 4 KB objects through the API: creates beside raw creates in etcd, and patches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::future::try_join_all;
use serde_json::json;
use steersman_conformance::Cluster;
use steersman_storage::{EtcdOptions, EtcdStore, Store};

use crate::api;
use crate::figure::{Report, median};
use crate::load::{self, CONNECTIONS};
use crate::program::{command_line, cpu, flag, pid};

const COUNT: usize = 3000;
const BYTES: usize = 4096;
const NAMESPACE: &str = "bench-writes";

pub async fn run(cluster: &Cluster, report: &Report) -> Result<()> {
    let read = |name: &str| std::fs::read(cluster.pki(name)).with_context(|| name.to_owned());
    let server = pid(cluster, "kube-apiserver")?;
    let endpoints = flag(&command_line(server)?, "--etcd-servers").context("no --etcd-servers")?;
    let options = EtcdOptions {
        endpoints: endpoints.split(',').map(str::to_owned).collect(),
        ca: read("etcd-ca.crt")?,
        cert: read("etcd-client.crt")?,
        key: read("etcd-client.key")?,
    };
    let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(options)?);
    let admin = api::client(cluster, None).await?;
    api::namespace(&admin, NAMESPACE).await?;
    let maps = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let (mut raw, mut creates, mut patches) = (Vec::new(), Phase::default(), Phase::default());
    for round in 0..2 {
        raw.push(etcd(&store, round).await?);
        let path = maps.clone();
        let create = load::create(
            cluster,
            &path,
            COUNT,
            move |i| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c-{round}-{i}")}, "data": {"x": "x".repeat(BYTES - 200)}}),
        );
        creates.add(server, create).await?;
        let patch = load::each(cluster, COUNT, move |client, i| {
            let path = format!("{path}/c-{round}-{i}");
            async move { api::patch(&client, &path, &json!({"metadata": {"annotations": {"seen": "yes"}}})).await }
        });
        patches.add(server, patch).await?;
    }
    let raw = median(&raw);
    report.higher(
        &format!("etcd alone, {BYTES} bytes, {CONNECTIONS} connections"),
        "creates/s",
        raw,
    );
    report.higher("create", "per s", creates.rate());
    report.higher("create, of what etcd alone does", "%", 100.0 * creates.rate() / raw);
    report.lower("create, kube-apiserver", "CPU s per 1000", median(&creates.cpu));
    report.higher("merge patch", "per s", patches.rate());
    report.lower("merge patch, kube-apiserver", "CPU s per 1000", median(&patches.cpu));
    api::drop_namespace(&admin, NAMESPACE).await
}

/// Rate and CPU of one kind of request, a value per round.
#[derive(Default)]
struct Phase {
    rates: Vec<f64>,
    cpu: Vec<f64>,
}

impl Phase {
    async fn add(&mut self, server: i32, work: impl Future<Output = Result<()>>) -> Result<()> {
        let (before, begin) = (cpu(server)?, Instant::now());
        work.await?;
        self.rates.push(COUNT as f64 / begin.elapsed().as_secs_f64());
        self.cpu.push((cpu(server)? - before) / (COUNT as f64 / 1000.0));
        Ok(())
    }

    fn rate(&self) -> f64 {
        median(&self.rates)
    }
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
