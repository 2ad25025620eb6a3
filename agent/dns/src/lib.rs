//! Cluster DNS: names for Services and pods, straight from the API server's watch.
//!
//! | module | what |
//! |---|---|
//! | [`source`] | look-ups by name and by address, over informers |
//! | [`records`] | which records a name has: the Kubernetes DNS specification 1.1 (pure) |
//! | [`answer`] | from the bytes of a query to the bytes of the answer (pure) |
//! | [`forward`] | asking others about names outside, if any are configured |
//! | [`server`] | UDP and TCP |
//!
//! The program is an ordinary client of the API server and needs to list and watch Services and EndpointSlices, nothing
//! else. What it does not do: zone transfers, DNSSEC, caching for upstream servers.

pub mod answer;
pub mod forward;
pub mod metrics;
pub mod records;
pub mod server;
pub mod source;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use hickory_proto::rr::Name;
use http::StatusCode;
use steersman_runtime::flags::LoggingFlags;
use steersman_runtime::informer::Informer;
use steersman_runtime::metrics::Metrics;
use steersman_runtime::serve::plain;
use steersman_runtime::{Client, ListOptions};
use tokio_util::sync::CancellationToken;

use forward::{Forwarder, Route};
use metrics::DnsMetrics;
use server::Server;
use source::Cluster;

/// Answers DNS queries for the cluster's Services and pods.
#[derive(Parser, Clone, Debug)]
#[command(name = "cluster-dns", disable_version_flag = true)]
pub struct Flags {
    /// Path to a kubeconfig that may list and watch Services and EndpointSlices.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Addresses to answer on, over UDP and TCP.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "0.0.0.0:53",
        value_name = "ADDRESS:PORT"
    )]
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain.
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN", value_parser = domain)]
    pub cluster_domain: Name,
    /// Servers to ask about names outside the cluster; without any, such names do not exist.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS[:PORT]", value_parser = upstream)]
    pub upstream: Vec<SocketAddr>,
    /// Servers to ask about the names of one domain; may be repeated.
    #[arg(long, value_name = "DOMAIN=ADDRESS[:PORT][,…]", value_parser = stub)]
    pub stub_domain: Vec<(Name, Vec<SocketAddr>)>,
    /// Where /health, /ready and /metrics are served; empty switches them off.
    #[arg(long, default_value = "127.0.0.1:8181", value_name = "ADDRESS:PORT")]
    pub health_bind_address: String,
    #[command(flatten)]
    pub logging: LoggingFlags,
}

fn domain(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text.to_ascii_lowercase()).map_err(|e| e.to_string())?;
    name.set_fqdn(true);
    if name.is_root() {
        Err("the root is no cluster domain".to_owned())
    } else {
        Ok(name)
    }
}

fn upstream(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    bare.or_else(|_| text.parse())
        .map_err(|_| "must be an IP address, with or without port".to_owned())
}

fn stub(text: &str) -> Result<(Name, Vec<SocketAddr>), String> {
    let (name, servers) = text.split_once('=').ok_or("must be a domain, =, and addresses")?;
    let servers: Result<Vec<SocketAddr>, String> = servers.split(',').map(upstream).collect();
    Ok((domain(name)?, servers?))
}

/// Serves until `stop`.
///
/// # Errors
/// One line: what keeps it from starting.
pub async fn run(flags: Flags, stop: CancellationToken) -> Result<(), String> {
    let client = Client::from_kubeconfig(&flags.kubeconfig, "cluster-dns")
        .await
        .map_err(|e| e.to_string())?;
    let cluster = Cluster::new(
        Informer::start(client.clone(), ListOptions::all()),
        Informer::start(client, ListOptions::all()),
    );
    let metrics = Metrics::new();
    let routes = flags
        .stub_domain
        .into_iter()
        .map(|(domain, servers)| Route::new(domain, servers));
    let routes = routes.chain([Route::new(Name::root(), flags.upstream)]).collect();
    let server = Arc::new(Server::new(
        cluster,
        flags.cluster_domain,
        Forwarder::new(routes),
        DnsMetrics::new(&metrics),
    ));
    if !flags.health_bind_address.is_empty() {
        let address: SocketAddr = flags.health_bind_address.parse().map_err(|_| {
            format!(
                "invalid argument {:?} for \"--health-bind-address\" flag",
                flags.health_bind_address
            )
        })?;
        let shown = server.clone();
        plain::start(
            address,
            Arc::new(move |path| health(&shown, &metrics, path)),
            stop.clone(),
        )
        .await
        .map_err(|e| format!("failed to listen on {address}: {e}"))?;
    }
    for address in flags.listen {
        let bound = server
            .listen(address, &stop)
            .await
            .map_err(|e| format!("failed to listen on {address}: {e}"))?;
        tracing::info!(address = %bound, "Serving");
    }
    stop.cancelled().await;
    Ok(())
}

fn health(server: &Server, metrics: &Metrics, path: &str) -> (StatusCode, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
    match path {
        "/health" => (StatusCode::OK, TEXT, "OK".to_owned()),
        "/ready" if server.cluster.synced() => (StatusCode::OK, TEXT, "OK".to_owned()),
        "/ready" => (
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            "waiting for the first lists".to_owned(),
        ),
        "/metrics" => (
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            metrics.encode(),
        ),
        _ => (StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned()),
    }
}
