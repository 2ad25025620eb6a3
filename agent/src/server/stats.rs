//! Figures in Prometheus' text: `/metrics`, `/metrics/resource`, `/metrics/cadvisor`, `/metrics/probes`.

use steersman_cri::v1;

use super::Server;
use super::page::Page;
use crate::stats::types::{PodStats, Summary};

const NANOS: f64 = 1e9;
const MICROS: f64 = 1e6;

#[allow(clippy::cast_precision_loss)]
fn float(n: u64) -> f64 {
    n as f64
}

fn seconds(nanos: u64) -> f64 {
    float(nanos) / NANOS
}

/// What metrics-server reads.
pub async fn resource(server: &Server) -> String {
    let mut page = Page::default();
    page.family(
        "resource_scrape_error",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
    );
    // The older name of the same.
    page.family(
        "scrape_error",
        "[ALPHA] 1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
    );
    match server.figures.summary(false).await {
        Ok(summary) => {
            page.add("resource_scrape_error", &[], 0.0, None);
            page.add("scrape_error", &[], 0.0, None);
            resource_page(&mut page, &summary);
        }
        Err(e) => {
            tracing::error!(error = %e, "Error getting summary for resourceMetric prometheus endpoint");
            page.add("resource_scrape_error", &[], 1.0, None);
            page.add("scrape_error", &[], 1.0, None);
        }
    }
    page.text()
}

fn resource_page(page: &mut Page, summary: &Summary) {
    for (name, help, kind) in [
        (
            "node_cpu_usage_seconds_total",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            "counter",
        ),
        (
            "node_memory_working_set_bytes",
            "[STABLE] Current working set of the node in bytes",
            "gauge",
        ),
        (
            "node_swap_usage_bytes",
            "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
            "gauge",
        ),
        (
            "container_cpu_usage_seconds_total",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            "counter",
        ),
        (
            "container_memory_working_set_bytes",
            "[STABLE] Current working set of the container in bytes",
            "gauge",
        ),
        (
            "container_swap_usage_bytes",
            "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
            "gauge",
        ),
        (
            "container_swap_limit_bytes",
            "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
            "gauge",
        ),
        (
            "container_start_time_seconds",
            "[STABLE] Start time of the container since unix epoch in seconds",
            "gauge",
        ),
        (
            "pod_cpu_usage_seconds_total",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            "counter",
        ),
        (
            "pod_memory_working_set_bytes",
            "[STABLE] Current working set of the pod in bytes",
            "gauge",
        ),
        (
            "pod_swap_usage_bytes",
            "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
            "gauge",
        ),
    ] {
        page.family(name, help, kind);
    }
    let node = &summary.node;
    if let Some((cpu, used)) = node.cpu.and_then(|c| Some((c, c.usage_core_nano_seconds?))) {
        page.add("node_cpu_usage_seconds_total", &[], seconds(used), Some(cpu.time));
    }
    if let Some((memory, used)) = node.memory.and_then(|m| Some((m, m.working_set_bytes?))) {
        page.add("node_memory_working_set_bytes", &[], float(used), Some(memory.time));
    }
    if let Some((swap, used)) = node.swap.and_then(|s| Some((s, s.swap_usage_bytes?))) {
        page.add("node_swap_usage_bytes", &[], float(used), Some(swap.time));
    }
    for pod in &summary.pods {
        pod_page(page, pod);
    }
}

fn pod_page(page: &mut Page, pod: &PodStats) {
    let (name, namespace) = (pod.pod_ref.name.as_str(), pod.pod_ref.namespace.as_str());
    for c in &pod.containers {
        let labels = [("container", c.name.as_str()), ("namespace", namespace), ("pod", name)];
        let started = c.start_time.as_nanosecond();
        #[allow(clippy::cast_precision_loss)]
        if started > 0 {
            page.add("container_start_time_seconds", &labels, started as f64 / NANOS, None);
        }
        if let Some((cpu, used)) = c.cpu.and_then(|c| Some((c, c.usage_core_nano_seconds?))) {
            let at = Some(cpu.time);
            page.add("container_cpu_usage_seconds_total", &labels, seconds(used), at);
        }
        if let Some((memory, used)) = c.memory.and_then(|m| Some((m, m.working_set_bytes?))) {
            let at = Some(memory.time);
            page.add("container_memory_working_set_bytes", &labels, float(used), at);
        }
        if let Some(swap) = c.swap {
            let at = Some(swap.time);
            let used = swap.swap_usage_bytes;
            if let Some(used) = used {
                page.add("container_swap_usage_bytes", &labels, float(used), at);
            }
            if let Some(free) = swap.swap_available_bytes {
                let limit = free.saturating_add(used.unwrap_or(0));
                page.add("container_swap_limit_bytes", &labels, float(limit), at);
            }
        }
    }
    let labels = [("namespace", namespace), ("pod", name)];
    if let Some((cpu, used)) = pod.cpu.and_then(|c| Some((c, c.usage_core_nano_seconds?))) {
        page.add("pod_cpu_usage_seconds_total", &labels, seconds(used), Some(cpu.time));
    }
    if let Some((memory, used)) = pod.memory.and_then(|m| Some((m, m.working_set_bytes?))) {
        page.add("pod_memory_working_set_bytes", &labels, float(used), Some(memory.time));
    }
    if let Some((swap, used)) = pod.swap.and_then(|s| Some((s, s.swap_usage_bytes?))) {
        page.add("pod_swap_usage_bytes", &labels, float(used), Some(swap.time));
    }
}

/// The most used of what upstream's built-in container monitor tells, under its names.
pub async fn cadvisor(server: &Server) -> String {
    let mut page = Page::default();
    for (name, help, kind) in [
        (
            "container_cpu_usage_seconds_total",
            "Cumulative cpu time consumed in seconds.",
            "counter",
        ),
        (
            "container_fs_usage_bytes",
            "Number of bytes that are consumed by the container on this filesystem.",
            "gauge",
        ),
        (
            "container_memory_failures_total",
            "Cumulative count of memory allocation failures.",
            "counter",
        ),
        ("container_memory_rss", "Size of RSS in bytes.", "gauge"),
        (
            "container_memory_usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            "gauge",
        ),
        (
            "container_memory_working_set_bytes",
            "Current working set in bytes.",
            "gauge",
        ),
        (
            "container_network_receive_bytes_total",
            "Cumulative count of bytes received",
            "counter",
        ),
        (
            "container_network_receive_errors_total",
            "Cumulative count of errors encountered while receiving",
            "counter",
        ),
        (
            "container_network_transmit_bytes_total",
            "Cumulative count of bytes transmitted",
            "counter",
        ),
        (
            "container_network_transmit_errors_total",
            "Cumulative count of errors encountered while transmitting",
            "counter",
        ),
        (
            "container_pressure_cpu_stalled_seconds_total",
            "Total time duration no tasks in the container could make progress due to CPU congestion.",
            "counter",
        ),
        (
            "container_pressure_cpu_waiting_seconds_total",
            "Total time duration tasks in the container have waited due to CPU congestion.",
            "counter",
        ),
        (
            "container_pressure_io_stalled_seconds_total",
            "Total time duration no tasks in the container could make progress due to IO congestion.",
            "counter",
        ),
        (
            "container_pressure_io_waiting_seconds_total",
            "Total time duration tasks in the container have waited due to IO congestion.",
            "counter",
        ),
        (
            "container_pressure_memory_stalled_seconds_total",
            "Total time duration no tasks in the container could make progress due to memory congestion.",
            "counter",
        ),
        (
            "container_pressure_memory_waiting_seconds_total",
            "Total time duration tasks in the container have waited due to memory congestion.",
            "counter",
        ),
        (
            "container_processes",
            "Number of processes running inside the container.",
            "gauge",
        ),
        (
            "container_scrape_error",
            "1 if there was an error while getting container metrics, 0 otherwise",
            "gauge",
        ),
        (
            "container_start_time_seconds",
            "Start time of the container since unix epoch in seconds.",
            "gauge",
        ),
        ("machine_cpu_cores", "Number of logical CPU cores.", "gauge"),
        (
            "machine_memory_bytes",
            "Amount of memory installed on the machine.",
            "gauge",
        ),
    ] {
        page.family(name, help, kind);
    }
    let summary = server.figures.summary(true).await;
    page.add(
        "container_scrape_error",
        &[],
        f64::from(u8::from(summary.is_err())),
        None,
    );
    let machine = [
        ("boot_id", server.machine.boot_id.as_str()),
        ("machine_id", server.machine.machine_id.as_str()),
        ("system_uuid", server.machine.system_uuid.as_str()),
    ];
    let whole = |n: i64| float(u64::try_from(n).unwrap_or(0));
    page.add("machine_cpu_cores", &machine, whole(server.machine.cpus), None);
    page.add("machine_memory_bytes", &machine, whole(server.machine.memory), None);
    let Ok(summary) = summary else { return page.text() };
    let containers = server
        .context
        .runtime
        .list_containers(v1::ContainerFilter::default())
        .await;
    let containers = containers.unwrap_or_default();
    let of = |pod: &PodStats, name: &str| {
        containers.iter().find(|c| {
            c.state == v1::ContainerState::ContainerRunning as i32
                && c.labels.get(crate::runtime::labels::POD_UID) == Some(&pod.pod_ref.uid)
                && c.metadata.as_ref().is_some_and(|m| m.name == name)
        })
    };
    for pod in &summary.pods {
        let group = format!("/kubepods/pod{}", pod.pod_ref.uid);
        // The pod as a whole has no container and no image.
        whole_pod(&mut page, pod, &group);
        for c in &pod.containers {
            let Some(instance) = of(pod, &c.name) else { continue };
            let id = format!("{group}/{}", instance.id);
            let labels = [
                ("container", c.name.as_str()),
                ("id", id.as_str()),
                ("image", instance.image.as_ref().map_or("", |i| i.image.as_str())),
                ("name", instance.id.as_str()),
                ("namespace", pod.pod_ref.namespace.as_str()),
                ("pod", pod.pod_ref.name.as_str()),
            ];
            usage(&mut page, &labels, c.cpu, c.memory, c.io);
            if let Some(used) = c.rootfs.and_then(|f| f.used_bytes) {
                page.add("container_fs_usage_bytes", &labels, float(used), None);
            }
            #[allow(clippy::cast_precision_loss)]
            let started = c.start_time.as_second() as f64;
            page.add("container_start_time_seconds", &labels, started, None);
        }
    }
    page.text()
}

fn whole_pod(page: &mut Page, pod: &PodStats, group: &str) {
    let (namespace, name) = (pod.pod_ref.namespace.as_str(), pod.pod_ref.name.as_str());
    let labels = [
        ("container", ""),
        ("id", group),
        ("image", ""),
        ("name", ""),
        ("namespace", namespace),
        ("pod", name),
    ];
    usage(page, &labels, pod.cpu, pod.memory, pod.io);
    if let Some(processes) = pod.processes {
        page.add("container_processes", &labels, float(processes.process_count), None);
    }
    for i in pod.network.iter().flat_map(|n| &n.interfaces) {
        let labels = [
            ("container", ""),
            ("id", group),
            ("image", ""),
            ("interface", i.name.as_str()),
            ("name", ""),
            ("namespace", namespace),
            ("pod", name),
        ];
        for (name, value) in [
            ("container_network_receive_bytes_total", i.rx_bytes),
            ("container_network_receive_errors_total", i.rx_errors),
            ("container_network_transmit_bytes_total", i.tx_bytes),
            ("container_network_transmit_errors_total", i.tx_errors),
        ] {
            if let Some(value) = value {
                page.add(name, &labels, float(value), None);
            }
        }
    }
}

fn usage(
    page: &mut Page,
    labels: &[(&str, &str)],
    cpu: Option<crate::stats::types::CpuStats>,
    memory: Option<crate::stats::types::MemoryStats>,
    io: Option<crate::stats::types::IoStats>,
) {
    let pressures = [
        (
            "container_pressure_cpu_stalled_seconds_total",
            "container_pressure_cpu_waiting_seconds_total",
            cpu.and_then(|c| Some((c.psi?, c.time))),
        ),
        (
            "container_pressure_io_stalled_seconds_total",
            "container_pressure_io_waiting_seconds_total",
            io.map(|i| (i.psi, i.time)),
        ),
        (
            "container_pressure_memory_stalled_seconds_total",
            "container_pressure_memory_waiting_seconds_total",
            memory.and_then(|m| Some((m.psi?, m.time))),
        ),
    ];
    for (stalled, waiting, known) in pressures {
        let Some((psi, at)) = known else { continue };
        page.add(stalled, labels, float(psi.full.total) / MICROS, Some(at));
        page.add(waiting, labels, float(psi.some.total) / MICROS, Some(at));
    }
    if let Some((cpu, used)) = cpu.and_then(|c| Some((c, c.usage_core_nano_seconds?))) {
        let mut labels = labels.to_vec();
        labels.insert(1, ("cpu", "total"));
        page.add(
            "container_cpu_usage_seconds_total",
            &labels,
            seconds(used),
            Some(cpu.time),
        );
    }
    let Some(memory) = memory else { return };
    for (name, value) in [
        ("container_memory_rss", memory.rss_bytes),
        ("container_memory_usage_bytes", memory.usage_bytes),
        ("container_memory_working_set_bytes", memory.working_set_bytes),
    ] {
        if let Some(value) = value {
            page.add(name, labels, float(value), Some(memory.time));
        }
    }
    for (kind, value) in [
        ("pgfault", memory.page_faults),
        ("pgmajfault", memory.major_page_faults),
    ] {
        if let Some(value) = value {
            let mut labels = labels.to_vec();
            labels.insert(1, ("failure_type", kind));
            page.add(
                "container_memory_failures_total",
                &labels,
                float(value),
                Some(memory.time),
            );
        }
    }
}

/// The agent's own figures.
pub async fn metrics(server: &Server) -> String {
    let mut page = Page::default();
    for (name, help, kind) in [
        (
            "kubelet_node_name",
            "[ALPHA] The node's name. The count is always 1.",
            "gauge",
        ),
        (
            "kubelet_running_containers",
            "[BETA] Number of containers currently running",
            "gauge",
        ),
        (
            "kubelet_running_pods",
            "[BETA] Number of pods that have a running pod sandbox",
            "gauge",
        ),
        (
            "kubelet_evictions",
            "[ALPHA] Cumulative number of pod evictions by eviction signal",
            "counter",
        ),
        (
            "kubelet_mirror_pods",
            "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)",
            "gauge",
        ),
    ] {
        page.family(name, help, kind);
    }
    let containers = server
        .context
        .runtime
        .list_containers(v1::ContainerFilter::default())
        .await
        .unwrap_or_default();
    let mut states = std::collections::BTreeMap::<&str, u64>::new();
    for c in &containers {
        let state = match v1::ContainerState::try_from(c.state) {
            Ok(v1::ContainerState::ContainerCreated) => "created",
            Ok(v1::ContainerState::ContainerRunning) => "running",
            Ok(v1::ContainerState::ContainerExited) => "exited",
            _ => "unknown",
        };
        *states.entry(state).or_default() += 1;
    }
    for (state, count) in states {
        page.add(
            "kubelet_running_containers",
            &[("container_state", state)],
            float(count),
            None,
        );
    }
    page.add("kubelet_node_name", &[("node", &server.node)], 1.0, None);
    let pods = server.pods.list();
    let count = |n: usize| float(u64::try_from(n).unwrap_or(u64::MAX));
    page.add("kubelet_running_pods", &[], count(pods.len()), None);
    let statics = pods.iter().filter(|p| crate::pod::is_static(p)).count();
    page.add("kubelet_mirror_pods", &[], count(statics), None);
    for (signal, count) in server.context.pressure.evictions() {
        page.add("kubelet_evictions", &[("eviction_signal", &signal)], float(count), None);
    }
    page.text()
}

/// How often probes ran, and for how long.
#[must_use]
pub fn probes(server: &Server) -> String {
    let mut page = Page::default();
    page.family(
        "prober_probe_total",
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
        "counter",
    );
    page.family(
        "prober_probe_duration_seconds",
        "[ALPHA] Duration in seconds for a probe response.",
        "histogram",
    );
    server.context.probed.each(|probe, counts| {
        let of = |result: Option<&str>, uid: bool| {
            let mut labels = vec![
                ("container", probe.container.clone()),
                ("namespace", probe.namespace.clone()),
                ("pod", probe.pod.clone()),
            ];
            if uid {
                labels.push(("pod_uid", probe.uid.clone()));
            }
            labels.push(("probe_type", probe.kind.to_owned()));
            if let Some(result) = result {
                labels.push(("result", result.to_owned()));
            }
            labels
        };
        for (result, n) in &counts.results {
            let labels = of(Some(result), true);
            let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
            page.add("prober_probe_total", &labels, float(*n), None);
        }
        let labels = of(None, false);
        let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
        for (bound, n) in counts.buckets() {
            let bound = super::page::number(bound);
            let with_bound: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            page.add_part("prober_probe_duration_seconds", "_bucket", &with_bound, float(n), None);
        }
        page.add_part("prober_probe_duration_seconds", "_sum", &labels, counts.sum, None);
        page.add_part(
            "prober_probe_duration_seconds",
            "_count",
            &labels,
            float(counts.count),
            None,
        );
    });
    page.text()
}
