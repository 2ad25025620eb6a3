//! LIST of 10,000 pods of about 4 KB by encoding and by selector, and a mix of reads and updates over them.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use steersman_conformance::Cluster;

use crate::figure::Report;
use crate::program::{cpu, memory, pid};
use crate::{api, load};

const PODS: usize = 10_000;
/// Of the pods, by label.
const GROUPS: usize = 100;
const ROUNDS: usize = 4;
const MIXED: usize = 2000;
const NAMESPACE: &str = "bench-list";
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

pub async fn run(cluster: &Cluster, report: &Report) -> Result<()> {
    let client = api::client(cluster, None).await?;
    api::namespace(&client, NAMESPACE).await?;
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let server = pid(cluster, "kube-apiserver")?;
    let (before, begin) = (cpu(server)?, Instant::now());
    load::create(cluster, &pods, PODS, pod).await?;
    report.higher("create pods", "per s", PODS as f64 / begin.elapsed().as_secs_f64());
    report.lower(
        "create pods",
        "CPU s per 1000",
        (cpu(server)? - before) / (PODS as f64 / 1000.0),
    );
    report.lower(
        "kube-apiserver with 10,000 pods, resident",
        "MB",
        memory(server)?.resident,
    );
    for (name, accept, query, gzip) in [
        ("JSON", JSON, "", false),
        ("JSON, gzip", JSON, "", true),
        ("protobuf", PROTOBUF, "", false),
        ("Table", "application/json;as=Table;g=meta.k8s.io;v=v1", "", false),
        (
            "metadata, JSON",
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            "",
            false,
        ),
        (
            "metadata, protobuf",
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            "",
            false,
        ),
        ("100 by label, JSON", JSON, "?labelSelector=group%3D7", false),
        (
            "none by field, JSON",
            JSON,
            "?fieldSelector=spec.nodeName%3Dnowhere",
            false,
        ),
    ] {
        let path = format!("{pods}{query}");
        let mut headers = vec![("accept", accept)];
        if gzip {
            headers.push(("accept-encoding", "gzip"));
        }
        let list = || api::send_with(&client, "GET", &path, &headers, None);
        list().await?;
        let (before, begin) = (cpu(server)?, Instant::now());
        for _ in 0..ROUNDS {
            list().await?;
        }
        let rounds = ROUNDS as f64;
        report.lower(
            &format!("LIST {name}"),
            "ms",
            begin.elapsed().as_secs_f64() * 1000.0 / rounds,
        );
        report.lower(
            &format!("LIST {name}"),
            "ms CPU",
            (cpu(server)? - before) * 1000.0 / rounds,
        );
    }
    let (before, begin) = (cpu(server)?, Instant::now());
    paged(&client, &pods).await?;
    report.lower(
        "LIST JSON, in pages of 500",
        "ms",
        begin.elapsed().as_secs_f64() * 1000.0,
    );
    report.lower("LIST JSON, in pages of 500", "ms CPU", (cpu(server)? - before) * 1000.0);
    mixed(cluster, &pods, server, report).await?;
    report.lower("kube-apiserver afterwards, resident", "MB", memory(server)?.resident);
    for name in ["kube-controller-manager", "kube-scheduler"] {
        if let Some(pid) = cluster.pid(name) {
            report.lower(
                &format!("{name} with 10,000 pods, resident"),
                "MB",
                memory(pid)?.resident,
            );
        }
    }
    // Group by group: all at once takes upstream longer than a request may.
    for group in 0..GROUPS {
        let some = format!("{pods}?gracePeriodSeconds=0&labelSelector=group%3D{group}");
        api::json(&client, "DELETE", &some, None).await?;
    }
    api::drop_namespace(&client, NAMESPACE).await
}

/// No scheduler of that name exists, so the pods stay where they are.
fn pod(i: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p-{i}"), "labels": {"app": "bench", "group": (i % GROUPS).to_string()}, "annotations": {"filler": "x".repeat(2200)}},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10.2"}]}})
}

async fn paged(client: &kube::Client, pods: &str) -> Result<()> {
    let mut next = String::new();
    loop {
        let page = api::json(client, "GET", &format!("{pods}?limit=500&continue={next}"), None).await?;
        match page.pointer("/metadata/continue").and_then(Value::as_str) {
            Some(token) if !token.is_empty() => next = token.to_owned(),
            _ => return Ok(()),
        }
    }
}

/// 80 % get, 10 % page of 500, 10 % update.
async fn mixed(cluster: &Cluster, pods: &str, server: i32, report: &Report) -> Result<()> {
    let (before, begin) = (cpu(server)?, Instant::now());
    let pods = pods.to_owned();
    let work = load::each(cluster, MIXED, move |client, i| {
        let one = format!("{pods}/p-{}", i * 7919 % PODS);
        let page = format!("{pods}?limit=500");
        async move {
            match i % 10 {
                0 => api::send(&client, "GET", &page, JSON, None).await.map(drop),
                1 => {
                    api::patch(
                        &client,
                        &one,
                        &json!({"metadata": {"annotations": {"at": i.to_string()}}}),
                    )
                    .await
                }
                _ => api::send(&client, "GET", &one, JSON, None).await.map(drop),
            }
        }
    });
    work.await?;
    report.higher(
        "80 % get, 10 % page of 500, 10 % patch",
        "per s",
        MIXED as f64 / begin.elapsed().as_secs_f64(),
    );
    let per_thousand = (cpu(server)? - before) / (MIXED as f64 / 1000.0);
    report.lower("80 % get, 10 % page of 500, 10 % patch", "CPU s per 1000", per_thousand);
    Ok(())
}
