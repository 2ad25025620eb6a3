//! CPU of the API server per LIST of 10,000 pods of about 4 KB, by encoding.

use std::time::Instant;

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::json;
use steersman_conformance::Cluster;

use crate::api;
use crate::memory::cpu;

const PODS: usize = 10_000;
const ROUNDS: usize = 5;
const NAMESPACE: &str = "bench-list";

pub async fn run(cluster: &Cluster) -> Result<()> {
    let client = api::client(cluster, None).await?;
    api::namespace(&client, NAMESPACE).await?;
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    stream::iter(0..PODS)
        .map(|i| {
            let (client, pods) = (&client, &pods);
            async move {
                // No scheduler of that name exists, so the pods stay where they are.
                let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p-{i}"), "labels": {"app": "bench", "index": i.to_string()},
                    "annotations": {"filler": "x".repeat(2200)}},
                    "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10.2"}]}});
                api::json(client, "POST", pods, Some(&pod)).await
            }
        })
        .buffer_unordered(16)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    let pid = cluster.pid("kube-apiserver").context("kube-apiserver does not run")?;
    println!("LIST of {PODS} pods, mean of {ROUNDS} after one to warm up:");
    for (name, accept) in [
        ("JSON", "application/json"),
        ("protobuf", "application/vnd.kubernetes.protobuf"),
        ("Table", "application/json;as=Table;g=meta.k8s.io;v=v1"),
        (
            "metadata",
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        ),
    ] {
        let first_cpu = cpu(pid)?;
        let bytes = api::send(&client, "GET", &pods, accept, None).await?.len();
        let (before, begin) = (cpu(pid)?, Instant::now());
        for _ in 0..ROUNDS {
            api::send(&client, "GET", &pods, accept, None).await?;
        }
        let rounds = ROUNDS as f64;
        println!(
            "  {name:<9} {:>6.1} MB  {:>6.0} ms  {:>6.0} ms CPU (the first one {:.0} ms CPU)",
            bytes as f64 / 1e6,
            begin.elapsed().as_secs_f64() * 1000.0 / rounds,
            (cpu(pid)? - before) * 1000.0 / rounds,
            (before - first_cpu) * 1000.0
        );
    }
    crate::memory::run(cluster)?;
    api::json(&client, "DELETE", &format!("{pods}?gracePeriodSeconds=0"), None).await?;
    api::drop_namespace(&client, NAMESPACE).await
}
