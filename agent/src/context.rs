//! What every pod's worker shares: made once at start, handed down as one `Arc`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steersman_cri::Runtime;
use steersman_types::api::core::v1::{Pod, PodStatus, Service};
use steersman_types::jiff::Timestamp;

use crate::allocations::Allocations;
use crate::cgroups::Cgroups;
use crate::dns::DnsSettings;
use crate::env::Allocatable;
use crate::events::Sink;
use crate::eviction::Pressure;
use crate::images::Images;
use crate::probes::counts::Probed;
use crate::runtime::resources::NodeLimits;
use crate::sources::Objects;
use crate::turns::Turns;
use crate::volumes::Volumes;

/// The writes that a worker makes to the API.
#[async_trait]
pub trait PodApi: Send + Sync + 'static {
    /// Writes the difference between `old` and `new` as the pod's status.
    async fn write_status(&self, pod: &Pod, old: &PodStatus, new: &PodStatus) -> Result<(), WriteError>;
    /// Removes the object for good: the pod has ended on the node. Gone already is success.
    async fn delete(&self, pod: &Pod) -> Result<(), WriteError>;
    /// The runtime handler of a RuntimeClass.
    async fn runtime_handler(&self, class: &str) -> Result<String, String>;
}

/// Why a write did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is no such pod any more, or another one of that name.
    #[error("the pod is gone")]
    Gone,
    /// To be tried again.
    #[error("{0}")]
    Failed(String),
}

/// The node as workers see it.
pub struct Context {
    pub runtime: Arc<dyn Runtime>,
    pub api: Arc<dyn PodApi>,
    pub sink: Sink,
    pub objects: Arc<dyn Objects>,
    pub services: Box<dyn Fn() -> Vec<Arc<Service>> + Send + Sync>,
    pub volumes: Volumes,
    pub images: Images,
    pub turns: Turns,
    pub cgroups: Cgroups,
    pub dns: DnsSettings,
    pub node: NodeLimits,
    pub allocatable: Allocatable,
    pub allocations: Allocations,
    /// Of what the node has too little.
    pub pressure: Arc<Pressure>,
    pub probed: Arc<Probed>,
    /// The node's addresses, primary first.
    pub host_ips: Vec<String>,
    pub cluster_domain: String,
    /// `--root-dir`.
    pub root: PathBuf,
    /// `/var/log/pods`.
    pub pod_logs: PathBuf,
    /// `/var/log/containers`.
    pub container_logs: PathBuf,
    pub seccomp_default: bool,
    pub max_backoff_seconds: i64,
    /// How often a pod is looked at though nothing happened; volumes are refreshed then.
    pub sync_period: Duration,
}

impl Context {
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Where localhost seccomp profiles lie.
    #[must_use]
    pub fn seccomp_root(&self) -> PathBuf {
        self.root.join("seccomp")
    }
}
