//! The service proxy: makes Services work on a node by translating addresses with nftables.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | `KubeProxyConfiguration`, and what follows from it and from the Node |
//! | [`service`], [`endpoints`] | what a Service port is, and where its traffic may go |
//! | [`rules`] | one Service as chains, sets and map elements (pure) |
//! | [`table`], [`base`] | all of them, and the transaction that a change asks for (pure) |
//! | [`stale`] | which UDP connections a change has made stale (pure) |
//! | [`sync`] | the loop: informers in, transactions out |
//! | [`nft`] with [`batch`], [`conntrack`], [`kernel`] over [`netlink`], [`sysctl`] | the only places that touch the kernel |
//! | [`health`], [`health_ports`], [`metrics`] | what others may ask |
//!
//! The table is named `kube-proxy` in the families `ip` and `ip6`, as upstream's is; everything in it is ours.
//! What this program does not do: the iptables and IPVS modes, and network policy.

pub mod base;
pub mod batch;
pub mod config;
pub mod conntrack;
pub mod endpoints;
pub mod family;
pub mod flags;
pub mod health;
pub mod health_ports;
pub mod kernel;
pub mod metrics;
pub mod netlink;
pub mod nft;
pub mod rules;
pub mod service;
pub mod stale;
pub mod sync;
pub mod sysctl;
pub mod table;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use steersman_runtime::events::Recorder;
use steersman_runtime::informer::Informer;
use steersman_runtime::metrics::Metrics;
use steersman_runtime::serve::plain;
use steersman_runtime::{Client, ListOptions};
use steersman_types::api::core::v1::Node;
use tokio_util::sync::CancellationToken;

use config::Configuration;
use health::Health;
use health_ports::HealthPorts;
use metrics::ProxyMetrics;
use sync::{Sources, Sync};

/// Services of other proxies, and headless ones' slices, are not even asked for.
const NO_OTHER_PROXY: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// Runs the proxy until `stop`.
///
/// # Errors
/// One line: what keeps it from starting.
pub async fn run(configuration: Configuration, stop: CancellationToken) -> Result<(), String> {
    configuration.validate()?;
    let name = match configuration.hostname_override.trim() {
        "" => steersman_runtime::flags::hostname(),
        name => name.to_lowercase(),
    };
    let client = Client::from_kubeconfig(&configuration.client_connection.kubeconfig, "kube-proxy")
        .await
        .map_err(|e| e.to_string())?;
    sysctl::oom_score_adj(configuration.oom_score_adj.unwrap_or(-999));
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    sysctl::apply(&sysctl::conntrack(&configuration.conntrack, cores));

    let recorder = Recorder::new(client.clone(), "kube-proxy", &name);
    let sources = Sources {
        services: Informer::start(client.clone(), ListOptions::all().labels(NO_OTHER_PROXY)),
        slices: Informer::start(client.clone(), ListOptions::all().labels(NO_OTHER_PROXY)),
        cidrs: Informer::start(client.clone(), ListOptions::all()),
        node: Informer::<Node>::start(client, ListOptions::all().fields(&format!("metadata.name={name}"))),
    };
    let health = Arc::new(Health::default());
    let metrics = Metrics::new();
    let proxy_metrics = ProxyMetrics::new(&metrics);

    let shown = health.clone();
    serve(
        &configuration.healthz_bind_address,
        Arc::new(move |path| shown.answer(path, now())),
        &stop,
    )
    .await?;
    serve(
        &configuration.metrics_bind_address,
        Arc::new(move |path| metrics_answer(&metrics, path)),
        &stop,
    )
    .await?;

    let ports = HealthPorts::new(health.clone(), recorder);
    let sync = Sync::new(sources, configuration, &name, health, ports, proxy_metrics)?;
    sync.run(stop).await;
    Ok(())
}

async fn serve(address: &str, handler: Arc<plain::Handler>, stop: &CancellationToken) -> Result<(), String> {
    let Some(address) = config::bind_address(address) else {
        return Ok(());
    };
    let started = plain::start(address, handler, stop.clone()).await;
    started
        .map(|_| ())
        .map_err(|e| format!("failed to listen on {address}: {e}"))
}

fn metrics_answer(metrics: &Metrics, path: &str) -> (StatusCode, &'static str, String) {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    match path {
        "/metrics" => (StatusCode::OK, TEXT, metrics.encode()),
        "/healthz" => (StatusCode::OK, TEXT, "ok".to_owned()),
        "/proxyMode" => (StatusCode::OK, TEXT, "nftables".to_owned()),
        _ => (StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned()),
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}
