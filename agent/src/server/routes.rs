//! Path to handler.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use steersman_types::Typed;

use super::streams::Session;
use super::{Body, Server, logs, query, stats, streams, text, with_type};
use crate::pod;

/// Answers one admitted request.
pub async fn route(server: &Arc<Server>, request: Request<Incoming>, path: &str) -> Response<Body> {
    let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(query::decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "log"] if read => text(StatusCode::OK, "ok"),
        ["healthz", "syncloop"] if read => syncloop(server),
        ["pods"] if read => super::json(&pods(server)),
        ["runningpods"] if read => super::json(&running(server).await),
        ["configz"] if read => super::json(&json!({"kubeletconfig": configz(server)})),
        ["metrics"] if read => metrics(&stats::metrics(server).await),
        ["metrics", "resource"] if read => metrics(&stats::resource(server).await),
        ["metrics", "cadvisor"] if read => metrics(&stats::cadvisor(server).await),
        ["metrics", "probes"] if read => metrics(&stats::probes(server)),
        ["stats", "summary"] | ["stats"] if read => summary(server).await,
        ["containerLogs", namespace, name, container] if read => {
            logs::serve(
                server,
                namespace,
                name,
                container,
                request.uri().query().unwrap_or_default(),
            )
            .await
        }
        ["exec" | "attach" | "portForward" | "run", namespace, name, rest @ ..] => {
            let kind = match parts[0] {
                "exec" => Session::Exec,
                "attach" => Session::Attach,
                "portForward" => Session::PortForward,
                _ => Session::Run,
            };
            streams::serve(server, request, kind, namespace, name, rest).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn metrics(body: &str) -> Response<Body> {
    with_type(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        Bytes::copy_from_slice(body.as_bytes()),
    )
}

async fn summary(server: &Server) -> Response<Body> {
    match server.figures.summary(true).await {
        Ok(summary) => super::json(&serde_json::to_value(&summary).unwrap_or_default()),
        Err(e) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("failed to list pod stats: {e}"),
        ),
    }
}

/// Healthy while the runtime is listed regularly.
fn syncloop(server: &Server) -> Response<Body> {
    if server.pods.relisted(std::time::Duration::from_secs(120)) {
        text(StatusCode::OK, "ok")
    } else {
        text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "sync Loop took longer than expected\n",
        )
    }
}

fn list(items: Vec<Value>) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

fn pods(server: &Server) -> Value {
    list(server.pods.list().iter().map(|p| p.to_value()).collect())
}

/// Pods with a running container, as the runtime knows them.
async fn running(server: &Server) -> Value {
    let containers = server
        .context
        .runtime
        .list_containers(steersman_cri::v1::ContainerFilter::default())
        .await;
    let live = steersman_cri::v1::ContainerState::ContainerRunning as i32;
    let uids: std::collections::HashSet<String> = containers
        .unwrap_or_default()
        .into_iter()
        .filter(|c| c.state == live)
        .filter_map(|c| c.labels.get(crate::runtime::labels::POD_UID).cloned())
        .collect();
    let all = server.pods.list();
    list(
        all.iter()
            .filter(|p| uids.contains(pod::uid(p)))
            .map(|p| p.to_value())
            .collect(),
    )
}

/// The settings that others ask for.
fn configz(server: &Server) -> Value {
    let c = &server.config;
    json!({
        "port": c.port, "maxPods": c.max_pods, "podPidsLimit": c.pod_pids_limit, "clusterDomain": c.cluster_domain,
        "clusterDNS": c.cluster_dns, "cgroupDriver": c.cgroup_driver, "cgroupRoot": c.cgroup_root,
        "evictionHard": c.eviction_hard, "evictionSoft": c.eviction_soft,
        "evictionPressureTransitionPeriod": go_text(c.eviction_pressure_transition_period),
        "staticPodPath": c.static_pod_path, "staticPodURL": c.static_pod_url, "rotateCertificates": c.rotate_certificates,
        "serverTLSBootstrap": c.server_tls_bootstrap, "kubeReserved": c.kube_reserved, "systemReserved": c.system_reserved,
        "serializeImagePulls": c.serialize_image_pulls, "containerLogMaxSize": c.container_log_max_size,
        "containerLogMaxFiles": c.container_log_max_files, "resolvConf": c.resolv_conf,
        "containerRuntimeEndpoint": c.container_runtime_endpoint,
    })
}

/// A duration as Go prints it, in whole seconds.
fn go_text(d: std::time::Duration) -> String {
    let (h, m, s) = (d.as_secs() / 3600, d.as_secs() / 60 % 60, d.as_secs() % 60);
    match (h, m) {
        (0, 0) => format!("{s}s"),
        (0, _) => format!("{m}m{s}s"),
        _ => format!("{h}h{m}m{s}s"),
    }
}
