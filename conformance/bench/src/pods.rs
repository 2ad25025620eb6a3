//! A pod from create to Running, beside the bare CRI calls (sandbox, create, start) on the same node's containerd.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use serde_json::json;
use steersman_conformance::Cluster;
use steersman_cri::{Client as Cri, Runtime, v1};

use crate::api;
use crate::figure::{Report, median, percentile};

const ROUNDS: usize = 15;
const NAMESPACE: &str = "bench-pods";
const IMAGE: &str = "registry.k8s.io/pause:3.10.2";
const NODE: &str = "node-1";

pub async fn run(cluster: &Cluster, report: &Report) -> Result<()> {
    let client = api::client(cluster, None).await?;
    api::namespace(&client, NAMESPACE).await?;
    let containerd = cluster
        .pid(&format!("{NODE}.containerd"))
        .context("no containerd runs")?;
    let socket = format!("/proc/{containerd}/root/run/containerd/containerd.sock");
    let cri = Cri::new(&socket, Duration::from_secs(30)).map_err(anyhow::Error::msg)?;
    let (mut bare, mut whole) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bare.push(bare_calls(&cri, round).await?);
        whole.push(one_pod(&client, round).await?);
    }
    let (bare, whole) = (in_ms(&bare), in_ms(&whole));
    report.lower("bare CRI: sandbox + create + start, median", "ms", median(&bare));
    report.lower("pod, create to Running, median", "ms", median(&whole));
    report.lower("pod, create to Running, p90", "ms", percentile(&whole, 90));
    report.lower(
        "pod, create to Running, above bare CRI",
        "ms",
        median(&whole) - median(&bare),
    );
    api::drop_namespace(&client, NAMESPACE).await
}

fn in_ms(seconds: &[f64]) -> Vec<f64> {
    seconds.iter().map(|s| s * 1000.0).collect()
}

async fn one_pod(client: &Client, round: usize) -> Result<f64> {
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let path = format!("{pods}/p-{round}");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p-{round}")},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": NODE}, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}]}});
    let begin = Instant::now();
    api::json(client, "POST", &pods, Some(&pod)).await?;
    loop {
        let seen = api::json(client, "GET", &path, None).await?;
        if seen.pointer("/status/phase").and_then(|p| p.as_str()) == Some("Running") {
            break;
        }
        if begin.elapsed() > Duration::from_secs(60) {
            bail!("the pod does not run: {seen}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = begin.elapsed().as_secs_f64();
    api::json(client, "DELETE", &path, None).await?;
    for _ in 0..600 {
        if api::json(client, "GET", &path, None).await.is_err() {
            return Ok(took);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the pod is not gone after 30 s")
}

async fn bare_calls(cri: &Cri, round: usize) -> Result<f64> {
    let name = format!("bench-{}-{round}", std::process::id());
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.clone(),
            uid: name.clone(),
            namespace: "bench".into(),
            attempt: 0,
        }),
        hostname: name.clone(),
        log_directory: format!("/var/log/pods/{name}"),
        linux: Some(v1::LinuxPodSandboxConfig::default()),
        ..Default::default()
    };
    let container = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "c".into(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: IMAGE.into(),
            ..Default::default()
        }),
        log_path: "c.log".into(),
        linux: Some(v1::LinuxContainerConfig::default()),
        ..Default::default()
    };
    let begin = Instant::now();
    let id = cri.run_sandbox(sandbox.clone(), "").await?;
    let started = async {
        let inner = cri.create_container(&id, container, sandbox).await?;
        cri.start_container(&inner).await
    };
    let result = started.await;
    let took = begin.elapsed().as_secs_f64();
    cri.stop_sandbox(&id).await?;
    cri.remove_sandbox(&id).await?;
    result?;
    Ok(took)
}
