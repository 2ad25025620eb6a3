//! What a controller gets when it starts, and how the program knows it.

use std::fmt::Debug;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steersman_runtime::events::Recorder;
use steersman_runtime::metrics::Metrics;
use steersman_runtime::queue_metrics::QueueMetrics;
use steersman_runtime::{Client, Informers, WorkQueue};
use tokio_util::sync::CancellationToken;

use crate::Start;
use crate::act::Executor;

/// One line of [`crate::ALL`].
pub struct Controller {
    /// Upstream's name, as in `--controllers`.
    pub name: &'static str,
    /// Upstream's older name, accepted there as well.
    pub alias: &'static str,
    /// In kube-system; whose rights the controller has with `--use-service-account-credentials`. Empty: the program's own.
    pub service_account: &'static str,
    pub start: Start,
    /// Whether `--controllers=*` means it as well.
    pub on: bool,
}

impl Controller {
    #[must_use]
    pub const fn new(name: &'static str, alias: &'static str, service_account: &'static str, start: Start) -> Self {
        Self {
            name,
            alias,
            service_account,
            start,
            on: true,
        }
    }

    /// Runs only when `--controllers` names it.
    #[must_use]
    pub const fn off(self) -> Self {
        Self { on: false, ..self }
    }
}

/// How fast pods are moved away from nodes that fell silent.
#[derive(Clone, Debug)]
pub struct Eviction {
    /// `--node-eviction-rate`: nodes per second and zone.
    pub rate: f64,
    /// `--secondary-node-eviction-rate`: the same in a zone in trouble.
    pub secondary_rate: f64,
    /// `--large-cluster-size-threshold`: with no more nodes than that, a zone in trouble is left alone.
    pub large_cluster: usize,
    /// `--unhealthy-zone-threshold`: the part of not ready nodes that means trouble.
    pub unhealthy_zone_threshold: f64,
}

impl Default for Eviction {
    fn default() -> Self {
        Self {
            rate: 0.1,
            secondary_rate: 0.01,
            large_cluster: 50,
            unhealthy_zone_threshold: 0.55,
        }
    }
}

/// Settings of single controllers; the flags fill it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--root-ca-file`: content, for kube-root-ca.crt.
    pub root_ca: Option<String>,
    /// `--service-account-private-key-file`: signs the tokens kept in Secrets.
    pub token_key: Option<Arc<steersman_auth::token::SigningKey>>,
    /// `--cluster-signing-cert-file` and `--cluster-signing-key-file`.
    pub signing: Option<(PathBuf, PathBuf)>,
    /// `--cluster-signing-duration`.
    pub signing_duration: Duration,
    /// `--node-monitor-period`.
    pub node_monitor_period: Duration,
    /// `--node-monitor-grace-period`.
    pub node_monitor_grace: Duration,
    /// `--node-startup-grace-period`.
    pub node_startup_grace: Duration,
    pub eviction: Eviction,
    /// `--cluster-cidr`, cut for nodes; empty without `--allocate-node-cidrs`.
    pub pod_ranges: Vec<crate::node_ipam::Pool>,
    /// `--terminated-pod-gc-threshold`.
    pub terminated_pod_threshold: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root_ca: None,
            token_key: None,
            signing: None,
            signing_duration: Duration::from_secs(365 * 24 * 3600),
            node_monitor_period: Duration::from_secs(5),
            node_monitor_grace: Duration::from_secs(50),
            node_startup_grace: Duration::from_secs(60),
            eviction: Eviction::default(),
            pod_ranges: Vec::new(),
            terminated_pod_threshold: 12500,
        }
    }
}

/// Everything a controller may use. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Shared caches; filled with the program's own identity.
    pub informers: Informers,
    /// With this controller's identity.
    pub client: Client,
    pub settings: Arc<Settings>,
    /// For what a controller counts besides its queues.
    pub metrics: Metrics,
    pub queues: QueueMetrics,
    /// Upstream's name for this controller's queue.
    pub queue_name: &'static str,
    /// Cancelled when the program stops or loses its lease.
    pub stop: CancellationToken,
}

/// What upstream calls the queue of a controller, in metrics.
#[must_use]
pub fn queue_name(controller: &str) -> &'static str {
    let known = [
        ("bootstrap-signer-controller", "bootstrap_signer_queue"),
        ("certificatesigningrequest-approving-controller", "certificate"),
        ("certificatesigningrequest-signing-controller", "certificate"),
        ("clusterrole-aggregation-controller", "ClusterRoleAggregator"),
        ("cronjob-controller", "cronjob"),
        ("daemonset-controller", "daemonset"),
        ("deployment-controller", "deployment"),
        ("disruption-controller", "disruption"),
        ("endpoints-controller", "endpoint"),
        ("endpointslice-controller", "endpoint_slice"),
        ("endpointslice-mirroring-controller", "endpoint_slice_mirroring"),
        ("garbage-collector-controller", "garbage_collector_attempt_to_delete"),
        ("job-controller", "job"),
        ("namespace-controller", "namespace"),
        ("node-ipam-controller", "node_ipam"),
        ("replicaset-controller", "replicaset"),
        ("replicationcontroller-controller", "replicationmanager"),
        ("resourcequota-controller", "resourcequota_primary"),
        ("root-ca-certificate-publisher-controller", "root_ca_cert_publisher"),
        ("serviceaccount-controller", "serviceaccount"),
        ("serviceaccount-token-controller", "serviceaccount_tokens_secret"),
        ("statefulset-controller", "statefulset"),
        ("taint-eviction-controller", "noexec_taint_pod"),
        ("token-cleaner-controller", "token_cleaner"),
        ("ttl-after-finished-controller", "ttl_jobs_to_delete"),
    ];
    let found = known.iter().find(|(name, _)| *name == controller);
    found.map_or("other", |(_, queue)| queue)
}

impl Context {
    /// The controller's work queue; it ends with the program.
    #[must_use]
    pub fn queue<K: Clone + Eq + Hash + Debug + Send + 'static>(&self) -> WorkQueue<K> {
        self.queue_named(self.queue_name)
    }

    /// Another one, that shows under this name.
    #[must_use]
    pub fn queue_named<K: Clone + Eq + Hash + Debug + Send + 'static>(&self, name: &'static str) -> WorkQueue<K> {
        let queue = WorkQueue::named(name, &self.queues);
        let (stop, stopping) = (self.stop.clone(), queue.clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            stopping.stop();
        });
        queue
    }

    /// An executor that signs its events as `component`.
    #[must_use]
    pub fn executor(&self, component: &str) -> Executor {
        Executor::new(self.client.clone(), Recorder::new(self.client.clone(), component, ""))
    }
}
