//! The controller manager's flags: upstream's names, each read by something.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgAction, Parser};
use steersman_auth::token::SigningKey;
use steersman_runtime::flags::{LeaderFlags, LoggingFlags, ServingFlags, duration};

use crate::context::{Controller, Eviction, Settings};
use crate::node_ipam::{Cidr, Pool};

/// Upstream's controllers that are not written yet: `--controllers` may name them, so that command lines can be shared.
pub(super) const ELSEWHERE: &[&str] = &[
    "certificatesigningrequest-cleaner-controller",
    "csrcleaner",
    "ephemeral-volume-controller",
    "ephemeral-volume",
    "horizontal-pod-autoscaler-controller",
    "horizontalpodautoscaling",
    "persistent-volume-attach-detach-controller",
    "persistentvolume-attach-detach-controller",
    "attachdetach",
    "persistentvolume-binder-controller",
    "persistentvolume-binder",
    "persistentvolume-expander-controller",
    "persistentvolume-expander",
    "ttl-controller",
    "ttl",
];

/// The Kubernetes controller manager runs the control loops that move the cluster's current state towards the desired one.
#[derive(Parser, Clone, Debug)]
#[command(name = "kube-controller-manager", version = "v1.36.2")]
pub struct Flags {
    /// Path to kubeconfig file with authorization and master location information.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Controllers to enable: '*' enables all on-by-default ones, 'foo' enables foo, '-foo' disables it.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "*",
        allow_hyphen_values = true,
        value_name = "NAMES"
    )]
    pub controllers: Vec<String>,
    /// Use individual service account credentials for each controller.
    #[arg(long, default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub use_service_account_credentials: bool,
    /// File with the CA that is published as kube-root-ca.crt in every namespace.
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,
    /// File with the CA certificate that signs certificate requests.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// File with the key of --cluster-signing-cert-file.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// The longest life of signed certificates.
    #[arg(long, default_value = "8760h", value_parser = duration, value_name = "DURATION")]
    pub cluster_signing_duration: Duration,
    /// File with a PEM-encoded private RSA or ECDSA key that signs the service account tokens kept in Secrets.
    #[arg(long, value_name = "FILE")]
    pub service_account_private_key_file: Option<PathBuf>,
    /// How often the state of nodes is judged.
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "DURATION")]
    pub node_monitor_period: Duration,
    /// How long a running node may be silent before it is marked unhealthy.
    #[arg(long, default_value = "50s", value_parser = duration, value_name = "DURATION")]
    pub node_monitor_grace_period: Duration,
    /// How long a starting node may be silent before it is marked unhealthy.
    #[arg(long, default_value = "1m0s", value_parser = duration, value_name = "DURATION")]
    pub node_startup_grace_period: Duration,
    /// Number of nodes per second on which pods are deleted in case of node failure when a zone is healthy.
    #[arg(long, default_value_t = 0.1, value_name = "RATE")]
    pub node_eviction_rate: f64,
    /// The same when a zone is unhealthy; 0 when the cluster is smaller than --large-cluster-size-threshold.
    #[arg(long, default_value_t = 0.01, value_name = "RATE")]
    pub secondary_node_eviction_rate: f64,
    /// Number of nodes from which eviction logic treats the cluster as large.
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    pub large_cluster_size_threshold: usize,
    /// Fraction of nodes in a zone which needs to be not ready (minimum 3) for the zone to be treated as unhealthy.
    #[arg(long, default_value_t = 0.55, value_name = "FRACTION")]
    pub unhealthy_zone_threshold: f64,
    /// Number of terminated pods that can exist before the terminated pod garbage collector starts deleting them; 0: none are.
    #[arg(long, default_value_t = 12500, value_name = "COUNT")]
    pub terminated_pod_gc_threshold: i32,
    /// CIDR range of pods; of use only with --allocate-node-cidrs.
    #[arg(long, default_value = "", value_name = "CIDR")]
    pub cluster_cidr: String,
    /// Mask size for node cidr in cluster: IPv4.
    #[arg(long, alias = "node-cidr-mask-size", default_value_t = 24, value_name = "BITS")]
    pub node_cidr_mask_size_ipv4: u8,
    /// Mask size for node cidr in cluster: IPv6.
    #[arg(long, default_value_t = 64, value_name = "BITS")]
    pub node_cidr_mask_size_ipv6: u8,
    /// CIDR range of services; of use only with --allocate-node-cidrs.
    #[arg(long, default_value = "", value_name = "CIDR")]
    pub service_cluster_ip_range: String,
    /// Assign pod CIDRs to nodes.
    #[arg(long, default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub allocate_node_cidrs: bool,
    /// Directory with flex volume plugins; of use only to the attach-detach controller, which does not exist yet.
    #[arg(
        long,
        default_value = "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/",
        value_name = "DIR"
    )]
    pub flex_volume_plugin_dir: String,
    #[command(flatten)]
    pub serving: ServingFlags,
    #[command(flatten)]
    pub leader: LeaderFlags,
    #[command(flatten)]
    pub logging: LoggingFlags,
}

impl Flags {
    /// # Errors
    /// When a file is missing or a value not supported; one line.
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        let pod_ranges = if self.allocate_node_cidrs {
            self.pod_ranges()?
        } else {
            Vec::new()
        };
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("open {}", path.display()));
        let root_ca = self
            .root_ca_file
            .as_ref()
            .map(read)
            .transpose()
            .context("error reading root-ca-file")?;
        let token_key = self.service_account_private_key_file.as_ref().map(|path| {
            let key = SigningKey::from_pem(read(path)?.as_bytes())?;
            anyhow::Ok(Arc::new(key))
        });
        let token_key = token_key
            .transpose()
            .context("error reading key for service account token controller")?;
        let signing = self
            .cluster_signing_cert_file
            .clone()
            .zip(self.cluster_signing_key_file.clone());
        if let Some(files) = &signing {
            // The signer reads them for each request; here it is only found out that they can be used.
            crate::csr::sign::authority(files).context("error reading CA cert and key files")?;
        }
        Ok(Settings {
            root_ca,
            token_key,
            signing,
            signing_duration: self.cluster_signing_duration,
            node_monitor_period: self.node_monitor_period,
            node_monitor_grace: self.node_monitor_grace_period,
            node_startup_grace: self.node_startup_grace_period,
            eviction: Eviction {
                rate: self.node_eviction_rate,
                secondary_rate: self.secondary_node_eviction_rate,
                large_cluster: self.large_cluster_size_threshold,
                unhealthy_zone_threshold: self.unhealthy_zone_threshold,
            },
            pod_ranges,
            terminated_pod_threshold: usize::try_from(self.terminated_pod_gc_threshold).unwrap_or(0),
        })
    }

    fn pod_ranges(&self) -> anyhow::Result<Vec<Pool>> {
        let parse = |text: &str| -> anyhow::Result<Vec<Cidr>> {
            let parts = text.split(',').filter(|part| !part.is_empty());
            parts.map(|part| part.parse().map_err(anyhow::Error::msg)).collect()
        };
        let services = parse(&self.service_cluster_ip_range)?;
        let ranges = parse(&self.cluster_cidr)?;
        if ranges.is_empty() {
            anyhow::bail!("--cluster-cidr is required with --allocate-node-cidrs");
        }
        let (v4, v6) = (self.node_cidr_mask_size_ipv4, self.node_cidr_mask_size_ipv6);
        let pools = ranges.into_iter().map(|range| Pool::new(range, v4, v6, &services));
        pools.map(|pool| pool.map_err(anyhow::Error::msg)).collect()
    }

    /// # Errors
    /// When `--controllers` names one that does not exist.
    pub(super) fn enabled(&self) -> anyhow::Result<Vec<&'static Controller>> {
        super::selected(&self.controllers).map_err(anyhow::Error::msg)
    }
}
