//! Scheduling, in the shapes of upstream's scheduler_perf: fake nodes, a scheduler of the benchmark's own, pods per second.
//!
//! The cluster's own scheduler and controllers sleep meanwhile, so that nobody taints nodes without a kubelet or schedules
//! twice. The measured pods are created while the scheduler under test is stopped, then it is let go: what is measured is
//! the scheduler and its binding writes, not how fast pods are created.

mod shapes;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use serde_json::{Value, json};
use steersman_conformance::Cluster;
use steersman_conformance::process::{Background, signal};

use crate::figure::{Report, percentile};
use crate::h2::{Connection, Lines};
use crate::program::{Asleep, awaited, command_line, cpu, memory};
use crate::{api, load};
use shapes::{NAMESPACES, PRIORITY, Placed, Shape};

const LIMIT: Duration = Duration::from_secs(120);
const PORT: u16 = 16_259;
/// Pods that come one by one after the measured ones of the first shape, and the pause between them.
const SINGLE: usize = 100;
const BETWEEN: Duration = Duration::from_millis(20);

/// `program`: the scheduler, instead of the cluster's own; `only`: the shapes whose names contain this.
pub async fn run(cluster: &Cluster, program: Option<&Path>, only: Option<&str>, report: &Report) -> Result<()> {
    let client = api::client(cluster, None).await?;
    clear(&client).await?;
    let nodes = api::json(&client, "GET", "/api/v1/nodes?limit=1", None).await?;
    if nodes.pointer("/items/0").is_some() {
        bail!("scheduling is measured with fake nodes only: bring the cluster up with hack/up --nodes 0");
    }
    for namespace in NAMESPACES {
        api::namespace(&client, namespace).await?;
    }
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": PRIORITY}, "value": 10});
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    if api::json(&client, "GET", &format!("{classes}/{PRIORITY}"), None)
        .await
        .is_err()
    {
        api::json(&client, "POST", classes, Some(&class)).await?;
    }
    awaited(cluster, "kube-controller-manager").await?;
    let words = command_line(awaited(cluster, "kube-scheduler").await?)?;
    let (own, arguments) = words.split_first().context("an empty command line")?;
    let program = program.map_or_else(|| PathBuf::from(own), Path::to_path_buf);
    let _asleep = Asleep::put(cluster, &["kube-controller-manager", "kube-scheduler"]);
    for shape in shapes::ALL
        .iter()
        .filter(|s| only.is_none_or(|part| s.name.contains(part)))
    {
        let mut command = Command::new(&program);
        command
            .args(arguments)
            .args(["--leader-elect=false", &format!("--secure-port={PORT}")]);
        // Upstream's program asks the API server for at most 50 things per second unless it is told otherwise.
        if takes(&program, "--kube-api-qps") {
            command.args(["--kube-api-qps=5000", "--kube-api-burst=5000"]);
        }
        let result = one(cluster, &client, command, shape, report).await;
        clear(&client).await?;
        if let Err(error) = result {
            report.note(&format!("{}: {error:#}", shape.name));
        }
    }
    Ok(())
}

fn takes(program: &Path, flag: &str) -> bool {
    let help = Command::new(program).arg("--help").output();
    help.is_ok_and(|h| String::from_utf8_lossy(&[h.stdout, h.stderr].concat()).contains(flag))
}

async fn one(cluster: &Cluster, client: &Client, mut command: Command, shape: &Shape, report: &Report) -> Result<()> {
    make_nodes(cluster, shape).await?;
    let scheduler = Background(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let process = i32::try_from(scheduler.0.id())?;
    let mut first = Bound::watch(cluster, NAMESPACES[0]).await?;
    let pod = shape.before_pod;
    load::create(cluster, &pods(NAMESPACES[0]), shape.before, move |_| pod()).await?;
    if shape.before_fit {
        first.wait(shape.before).await.context("the pods before")?;
    } else {
        wait_until_refused(client, NAMESPACES[0], shape.before).await?;
    }
    drop(first);

    signal(process, libc::SIGSTOP);
    let mut bound = Bound::watch(cluster, NAMESPACES[1]).await?;
    let pod = shape.measured_pod;
    load::create(cluster, &pods(NAMESPACES[1]), shape.measured, move |_| pod()).await?;
    let (used, begin) = (cpu(process)?, Instant::now());
    signal(process, libc::SIGCONT);
    bound.wait(shape.measured).await?;
    let took = begin.elapsed().as_secs_f64();
    let used = cpu(process)? - used;
    let placed = placed(client).await?;
    if !(shape.holds)(&placed) {
        bail!("the pods are bound, but not where they may or should be");
    }
    if let Some(pod) = shape.refused_pod {
        api::json(client, "POST", &pods(NAMESPACES[1]), Some(&pod())).await?;
        let refused = wait_until_refused(client, NAMESPACES[1], 1).await;
        refused.context("the scheduler does not know the constraint")?;
    }
    let thousands = shape.measured as f64 / 1000.0;
    report.higher(shape.name, "pods/s", thousands * 1000.0 / took);
    report.lower(shape.name, "CPU s per 1000 pods", used / thousands);
    if shape.name == "SchedulingBasic" {
        let delays = singly(client, shape, &mut bound).await?;
        report.lower(
            "one pod at a time, created to bound, p50",
            "ms",
            percentile(&delays, 50),
        );
        report.lower(
            "one pod at a time, created to bound, p99",
            "ms",
            percentile(&delays, 99),
        );
    }
    if shape.name == "SchedulingBasic, 5000 nodes" {
        report.lower(
            "scheduler with 5000 nodes and 2000 pods, resident",
            "MB",
            memory(process)?.resident,
        );
    }
    Ok(())
}

fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// Admission taints a node that is new; a controller would take that away, but sleeps.
async fn make_nodes(cluster: &Cluster, shape: &Shape) -> Result<()> {
    let zones = shape.zones;
    load::each(cluster, shape.nodes, move |client, i| async move {
        let made = api::json(&client, "POST", "/api/v1/nodes", Some(&shapes::node(i, zones))).await?;
        if made.pointer("/spec/taints").is_some() {
            api::patch(
                &client,
                &format!("/api/v1/nodes/fake-{i}"),
                &json!({"spec": {"taints": null}}),
            )
            .await?;
        }
        Ok(())
    })
    .await
}

/// Milliseconds from the request to the bound pod's event.
async fn singly(client: &Client, shape: &Shape, bound: &mut Bound) -> Result<Vec<f64>> {
    let mut delays = Vec::new();
    for _ in 0..SINGLE {
        let begin = Instant::now();
        api::json(client, "POST", &pods(NAMESPACES[1]), Some(&(shape.measured_pod)())).await?;
        bound.wait(1).await?;
        delays.push(begin.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(delays)
}

/// The pods of a namespace that get a node, by a watch that shows nothing else.
struct Bound(Lines);

impl Bound {
    async fn watch(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let path = format!("{}?watch=1&fieldSelector=spec.nodeName!%3D", pods(namespace));
        Ok(Self(Connection::open(cluster).await?.get(&path).await?))
    }

    /// Waits until `count` more are there.
    async fn wait(&mut self, count: usize) -> Result<()> {
        let mut seen = 0;
        let deadline = tokio::time::Instant::now() + LIMIT;
        while seen < count {
            let next = tokio::time::timeout_at(deadline, self.0.next()).await;
            let Ok(line) = next else {
                bail!("{seen} of {count} pods bound after {LIMIT:?}")
            };
            let line = line?.context("the watch ended")?;
            if line.starts_with(b"{\"type\":\"ADDED\"") {
                seen += 1;
            }
        }
        Ok(())
    }
}

/// Until so many pods have been found to fit nowhere.
async fn wait_until_refused(client: &Client, namespace: &str, count: usize) -> Result<()> {
    let begin = Instant::now();
    let pending = format!("{}?fieldSelector=spec.nodeName%3D", pods(namespace));
    loop {
        let list = api::json(client, "GET", &pending, None).await?;
        let refused = items(&list)
            .filter(|p| p.pointer("/status/conditions/0/reason").and_then(Value::as_str) == Some("Unschedulable"))
            .count();
        if refused >= count {
            return Ok(());
        }
        if items(&list).count() < count {
            bail!("a pod that fits nowhere was bound");
        }
        if begin.elapsed() > LIMIT {
            bail!("{refused} of {count} pods found unschedulable after {LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("items").and_then(Value::as_array).into_iter().flatten()
}

async fn placed(client: &Client) -> Result<Placed> {
    let nodes = api::json(client, "GET", "/api/v1/nodes", None).await?;
    let zones: std::collections::HashMap<&str, &str> = items(&nodes)
        .filter_map(|n| {
            let zone = n
                .pointer("/metadata/labels/topology.kubernetes.io~1zone")
                .and_then(Value::as_str);
            Some((n.pointer("/metadata/name")?.as_str()?, zone.unwrap_or_default()))
        })
        .collect();
    let mut placed = Placed::default();
    for (namespace, into) in NAMESPACES.into_iter().zip([&mut placed.before, &mut placed.measured]) {
        let list = api::json(client, "GET", &pods(namespace), None).await?;
        into.extend(items(&list).filter_map(|p| {
            let node = p.pointer("/spec/nodeName")?.as_str()?;
            Some((node.to_owned(), (*zones.get(node)?).to_owned()))
        }));
    }
    Ok(placed)
}

async fn clear(client: &Client) -> Result<()> {
    for namespace in NAMESPACES {
        let path = format!("{}?gracePeriodSeconds=0", pods(namespace));
        api::json(client, "DELETE", &path, None).await?;
    }
    api::json(client, "DELETE", "/api/v1/nodes?labelSelector=bench%3Dfake", None)
        .await
        .map(drop)
}
