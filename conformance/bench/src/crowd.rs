//! Hundreds of pods at once over the cluster's nodes: from the first create until all run, and from the deletion of all
//! until the last is gone.
//!
//! Each pod's own time counts from its create request to the watch event that shows it Running; at the end all pods are
//! deleted with one request. Nodes must have room: upstream's default of 110 pods per node is raised with
//! `STEERSMAN_MAX_PODS=252 hack/up` (a node has 253 addresses for pods).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use steersman_conformance::Cluster;

use crate::figure::{Report, median, percentile};
use crate::h2::{Connection, Lines};
use crate::program::{cpu, memory};
use crate::{api, load};

/// How many pods, unless `--pods` says otherwise.
pub const COUNT: usize = 500;
const NAMESPACE: &str = "bench-crowd";
const PODS: &str = "/api/v1/namespaces/bench-crowd/pods";
const IMAGE: &str = "registry.k8s.io/pause:3.10.2";
/// For all pods to run, and for all to go.
const LIMIT: Duration = Duration::from_secs(400);
/// Whose CPU the pods cost; containerd and the runtime are not among what is compared.
const PROGRAMS: &[&str] = &[
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "node-1.kubelet",
    "node-2.kubelet",
    "node-1.kube-proxy",
    "node-2.kube-proxy",
];

pub async fn run(cluster: &Cluster, count: usize, report: &Report) -> Result<()> {
    let client = api::client(cluster, None).await?;
    let room = room(&client).await?;
    if room < count {
        bail!("the nodes have room for {room} pods, not {count}: start them with STEERSMAN_MAX_PODS=252 hack/up");
    }
    api::namespace(&client, NAMESPACE).await?;
    let used = Used::now(cluster)?;
    let mut watch = Connection::open(cluster).await?.get(&format!("{PODS}?watch=1")).await?;

    let begun = Instant::now();
    let asked: Arc<Mutex<BTreeMap<String, Instant>>> = Arc::default();
    let noted = asked.clone();
    let creating = load::each(cluster, count, move |client, i| {
        let name = format!("p-{i}");
        let pod = pod(&name);
        noted.lock().insert(name, Instant::now());
        async move { api::json(&client, "POST", PODS, Some(&pod)).await.map(drop) }
    });
    let (created, running) = tokio::join!(creating, follow(&mut watch, count, is_running));
    created?;
    let running = running.context("pods to Running")?;
    let asked = asked.lock().clone();
    let each: Vec<f64> = running
        .iter()
        .filter_map(|(name, at)| Some(at.duration_since(*asked.get(name)?).as_secs_f64()))
        .collect();
    figures(report, count, "create to Running", begun, &running, &each);
    let spent = Used::now(cluster)?;
    report.lower(
        "CPU of our programs per pod started",
        "ms",
        used.until(&spent) * 1000.0 / count as f64,
    );
    for node in ["node-1", "node-2"] {
        if let Some(pid) = cluster.pid(&format!("{node}.kubelet")) {
            let what = format!("{node}.kubelet with its share of {count} pods, anonymous");
            report.lower(&what, "MB", memory(pid)?.anonymous);
        }
    }

    let begun = Instant::now();
    let (deleted, gone) = tokio::join!(
        api::json(&client, "DELETE", PODS, None),
        follow(&mut watch, count, |event| event["type"] == "DELETED")
    );
    deleted?;
    let gone = gone.context("pods to be gone")?;
    let each: Vec<f64> = gone.values().map(|at| at.duration_since(begun).as_secs_f64()).collect();
    figures(report, count, "deletion to gone", begun, &gone, &each);
    let last = Used::now(cluster)?;
    report.lower(
        "CPU of our programs per pod deleted",
        "ms",
        spent.until(&last) * 1000.0 / count as f64,
    );
    api::drop_namespace(&client, NAMESPACE).await
}

fn figures(report: &Report, count: usize, what: &str, begun: Instant, ended: &BTreeMap<String, Instant>, each: &[f64]) {
    let last = ended
        .values()
        .max()
        .map_or(0.0, |at| at.duration_since(begun).as_secs_f64());
    report.lower(&format!("{count} pods, {what}, all"), "s", last);
    report.lower(&format!("{count} pods, {what}, p50"), "s", median(each));
    report.lower(&format!("{count} pods, {what}, p99"), "s", percentile(each, 99));
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}]}})
}

/// How many more pods all nodes take.
async fn room(client: &Client) -> Result<usize> {
    let items = |list: &Value| list["items"].as_array().cloned().unwrap_or_default();
    let nodes = items(&api::json(client, "GET", "/api/v1/nodes", None).await?);
    let most: usize = nodes
        .iter()
        .filter_map(|node| {
            node.pointer("/status/allocatable/pods")?
                .as_str()?
                .parse::<usize>()
                .ok()
        })
        .sum();
    let there = items(&api::json(client, "GET", "/api/v1/pods", None).await?).len();
    Ok(most.saturating_sub(there))
}

fn is_running(event: &Value) -> bool {
    event.pointer("/object/status/phase").and_then(Value::as_str) == Some("Running")
}

/// Follows a watch until `count` objects have had an event that counts; when that was, by name.
async fn follow(watch: &mut Lines, count: usize, counts: fn(&Value) -> bool) -> Result<BTreeMap<String, Instant>> {
    let mut seen = BTreeMap::new();
    let deadline = tokio::time::Instant::now() + LIMIT;
    while seen.len() < count {
        let Ok(line) = tokio::time::timeout_at(deadline, watch.next()).await else {
            bail!("only {} of {count} after {LIMIT:?}", seen.len());
        };
        let event: Value = serde_json::from_slice(line?.context("the watch ended")?)?;
        let name = event.pointer("/object/metadata/name").and_then(Value::as_str);
        if let Some(name) = name.filter(|_| counts(&event)) {
            seen.entry(name.to_owned()).or_insert_with(Instant::now);
        }
    }
    Ok(seen)
}

/// CPU seconds of the programs so far.
struct Used(BTreeMap<i32, f64>);

impl Used {
    fn now(cluster: &Cluster) -> Result<Self> {
        let pids = PROGRAMS.iter().filter_map(|name| cluster.pid(name));
        pids.map(|pid| Ok((pid, cpu(pid)?))).collect::<Result<_>>().map(Self)
    }

    /// What they used between two looks; one that was started again counts from nothing.
    fn until(&self, later: &Self) -> f64 {
        later
            .0
            .iter()
            .map(|(pid, now)| now - self.0.get(pid).unwrap_or(&0.0))
            .sum()
    }
}
