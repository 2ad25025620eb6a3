//! Figures about the node, its pods and containers: `/stats/summary`, `/metrics`, `/metrics/resource`.

use std::fmt::Write;

use serde_json::{Value, json};
use steersman_cri::v1;
use steersman_types::jiff::Timestamp;

use super::Server;
use crate::node::machine::Available;
use crate::pod;
use crate::pod::observe::nanos;
use crate::runtime::labels;

/// The document that metrics collectors read.
pub async fn summary(server: &Server) -> Value {
    let stats = server.context.runtime.list_stats().await.unwrap_or_default();
    let now = Timestamp::now();
    let available = Available::read(&server.context.root);
    let memory = server.machine.memory;
    let disk = json!({
        "time": now.to_string(), "availableBytes": available.disk, "capacityBytes": available.disk_capacity,
        "usedBytes": available.disk_capacity.saturating_sub(available.disk),
        "inodesFree": available.inodes_free, "inodes": available.inodes,
    });
    let total_cpu: u64 = stats.iter().map(cpu).sum();
    let pods: Vec<Value> = server
        .pods
        .list()
        .iter()
        .map(|p| {
            let own: Vec<&v1::ContainerStats> = stats
                .iter()
                .filter(|s| label(s, labels::POD_UID) == pod::uid(p))
                .collect();
            json!({
                "podRef": {"name": pod::name(p), "namespace": pod::namespace(p), "uid": pod::uid(p)},
                "startTime": p.status.as_ref().and_then(|s| s.start_time.clone()).map(|t| t.0.to_string()),
                "cpu": {"time": now.to_string(), "usageCoreNanoSeconds": own.iter().map(|s| cpu(s)).sum::<u64>()},
                "memory": {"time": now.to_string(), "workingSetBytes": own.iter().map(|s| working_set(s)).sum::<u64>()},
                "containers": own.iter().map(|s| container(s)).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "node": {
            "nodeName": server.node,
            "startTime": now.checked_sub(steersman_types::jiff::SignedDuration::try_from(server.started.elapsed()).unwrap_or_default()).unwrap_or(now).to_string(),
            "cpu": {"time": now.to_string(), "usageCoreNanoSeconds": total_cpu},
            "memory": {"time": now.to_string(), "availableBytes": available.memory,
                "usageBytes": memory.saturating_sub(available.memory), "workingSetBytes": memory.saturating_sub(available.memory)},
            "fs": disk, "runtime": {"imageFs": disk},
        },
        "pods": pods,
    })
}

fn label(stats: &v1::ContainerStats, name: &str) -> String {
    stats
        .attributes
        .as_ref()
        .and_then(|a| a.labels.get(name))
        .cloned()
        .unwrap_or_default()
}

fn cpu(stats: &v1::ContainerStats) -> u64 {
    stats
        .cpu
        .as_ref()
        .and_then(|c| c.usage_core_nano_seconds.as_ref())
        .map_or(0, |v| v.value)
}

fn working_set(stats: &v1::ContainerStats) -> u64 {
    stats
        .memory
        .as_ref()
        .and_then(|m| m.working_set_bytes.as_ref())
        .map_or(0, |v| v.value)
}

fn container(stats: &v1::ContainerStats) -> Value {
    let time = |t: i64| nanos(t).to_string();
    let number = |v: &Option<v1::UInt64Value>| v.as_ref().map(|v| v.value);
    json!({
        "name": label(stats, labels::CONTAINER_NAME),
        "cpu": stats.cpu.as_ref().map(|c| json!({"time": time(c.timestamp),
            "usageCoreNanoSeconds": number(&c.usage_core_nano_seconds), "usageNanoCores": number(&c.usage_nano_cores)})),
        "memory": stats.memory.as_ref().map(|m| json!({"time": time(m.timestamp),
            "workingSetBytes": number(&m.working_set_bytes), "usageBytes": number(&m.usage_bytes),
            "rssBytes": number(&m.rss_bytes), "availableBytes": number(&m.available_bytes)})),
        "rootfs": stats.writable_layer.as_ref().map(|f| json!({"time": time(f.timestamp),
            "usedBytes": number(&f.used_bytes), "inodesUsed": number(&f.inodes_used)})),
    })
}

/// What metrics-server reads.
pub async fn resource(server: &Server) -> String {
    let result = server.context.runtime.list_stats().await;
    let failed = i32::from(result.is_err());
    let stats = result.unwrap_or_default();
    let mut out = String::new();
    let mut head = |name: &str, help: &str, kind: &str| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        std::mem::take(&mut out)
    };
    let mut text = String::new();
    text += &head(
        "container_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        "counter",
    );
    let names = |s: &v1::ContainerStats| {
        let of = |name| label(s, name);
        format!(
            "container={:?},namespace={:?},pod={:?}",
            of(labels::CONTAINER_NAME),
            of(labels::POD_NAMESPACE),
            of(labels::POD_NAME)
        )
    };
    for s in &stats {
        let _ = writeln!(
            text,
            "container_cpu_usage_seconds_total{{{}}} {}",
            names(s),
            seconds(cpu(s))
        );
    }
    text += &head(
        "container_memory_working_set_bytes",
        "[STABLE] Current working set of the container in bytes",
        "gauge",
    );
    for s in &stats {
        let _ = writeln!(
            text,
            "container_memory_working_set_bytes{{{}}} {}",
            names(s),
            working_set(s)
        );
    }
    text += &head(
        "node_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        "counter",
    );
    let _ = writeln!(
        text,
        "node_cpu_usage_seconds_total {}",
        seconds(stats.iter().map(cpu).sum())
    );
    let available = Available::read(&server.context.root);
    text += &head(
        "node_memory_working_set_bytes",
        "[STABLE] Current working set of the node in bytes",
        "gauge",
    );
    let _ = writeln!(
        text,
        "node_memory_working_set_bytes {}",
        server.machine.memory.saturating_sub(available.memory)
    );
    text += &head(
        "resource_scrape_error",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
    );
    let _ = writeln!(text, "resource_scrape_error {failed}");
    text
}

fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// The agent's own figures.
pub async fn metrics(server: &Server) -> String {
    let containers = server
        .context
        .runtime
        .list_containers(v1::ContainerFilter::default())
        .await
        .unwrap_or_default();
    let mut states = std::collections::BTreeMap::<&str, usize>::new();
    for c in &containers {
        let state = match v1::ContainerState::try_from(c.state) {
            Ok(v1::ContainerState::ContainerCreated) => "created",
            Ok(v1::ContainerState::ContainerRunning) => "running",
            Ok(v1::ContainerState::ContainerExited) => "exited",
            _ => "unknown",
        };
        *states.entry(state).or_default() += 1;
    }
    let mut text = String::new();
    let _ = writeln!(
        text,
        "# HELP kubelet_node_name [ALPHA] The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge"
    );
    let _ = writeln!(text, "kubelet_node_name{{node={:?}}} 1", server.node);
    let _ = writeln!(
        text,
        "# HELP kubelet_running_containers [BETA] Number of containers currently running\n# TYPE kubelet_running_containers gauge"
    );
    for (state, count) in states {
        let _ = writeln!(text, "kubelet_running_containers{{container_state={state:?}}} {count}");
    }
    let _ = writeln!(
        text,
        "# HELP kubelet_running_pods [BETA] Number of pods that have a running pod sandbox\n# TYPE kubelet_running_pods gauge"
    );
    let _ = writeln!(text, "kubelet_running_pods {}", server.pods.list().len());
    text
}
