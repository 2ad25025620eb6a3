//! The cluster's controllers: each turns what is wanted into what is there, one small step at a time.
//!
//! Every controller has the same shape: *observe* (read the caches into plain data), *decide* (a pure function of that
//! data: no clock, no client, no await), *act* (the shared [`act::Executor`] carries the plan out). Each runs with its own
//! identity and queue; [`ALL`] lists them, one line each. `kube-controller-manager` is [`app::run`] behind a `main`.
//!
//! To add a controller: a file (or folder) with `start`, an `observe` that reads caches, a `decide` that is a function of
//! plain data with a property test, and one line in [`ALL`]; its service account must be in the bootstrap policy.
//!
//! What stays true: a key is reconciled by one worker at a time and only from caches that show the controller's own last
//! writes ([`own`]); a plan made twice from the same data is the same plan; a second run after an executed plan plans
//! nothing. What this crate does not do: serve the API, or know where objects are stored.

pub mod act;
pub mod app;
pub mod bootstrap;
pub mod context;
pub mod cronjob;
pub mod csr;
pub mod daemonset;
pub mod deployment;
pub mod discovery;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod fleet;
pub mod garbage;
pub mod history;
pub mod job;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod nodes;
pub mod own;
pub mod owners;
pub mod pod_gc;
pub mod pods;
pub mod replicaset;
pub mod resource_quota;
pub mod role_aggregation;
pub mod root_ca;
pub mod serviceaccount;
pub mod statefulset;
pub mod taint_eviction;
pub mod templates;
pub mod token_secrets;
pub mod tokens;
pub mod ttl_after_finished;

pub(crate) use steersman_runtime::labels;

use context::{Context, Controller};

/// Every controller, in the order in which they start: name, older name, service account, start.
#[rustfmt::skip]
pub static ALL: &[Controller] = &[
    Controller::new("serviceaccount-token-controller", "serviceaccount-token", "", token_secrets::start),
    Controller::new("bootstrap-signer-controller", "bootstrapsigner", "bootstrap-signer", bootstrap::start_signer).off(),
    Controller::new("certificatesigningrequest-approving-controller", "csrapproving", "certificate-controller", csr::approve::start),
    Controller::new("certificatesigningrequest-signing-controller", "csrsigning", "certificate-controller", csr::sign::start),
    Controller::new("clusterrole-aggregation-controller", "clusterrole-aggregation", "clusterrole-aggregation-controller", role_aggregation::start),
    Controller::new("daemonset-controller", "daemonset", "daemon-set-controller", daemonset::start),
    Controller::new("cronjob-controller", "cronjob", "cronjob-controller", cronjob::start),
    Controller::new("deployment-controller", "deployment", "deployment-controller", deployment::start),
    Controller::new("disruption-controller", "disruption", "disruption-controller", disruption::start),
    Controller::new("endpoints-controller", "endpoint", "endpoint-controller", endpoints::start),
    Controller::new("endpointslice-controller", "endpointslice", "endpointslice-controller", endpointslice::start),
    Controller::new("endpointslice-mirroring-controller", "endpointslicemirroring", "endpointslicemirroring-controller", endpointslice_mirroring::start),
    Controller::new("garbage-collector-controller", "garbagecollector", "generic-garbage-collector", garbage::start),
    Controller::new("job-controller", "job", "job-controller", job::start),
    Controller::new("namespace-controller", "namespace", "namespace-controller", namespace::start),
    Controller::new("node-ipam-controller", "nodeipam", "node-controller", node_ipam::start),
    Controller::new("node-lifecycle-controller", "nodelifecycle", "node-controller", node_lifecycle::start),
    Controller::new("pod-garbage-collector-controller", "podgc", "pod-garbage-collector", pod_gc::start),
    Controller::new("replicaset-controller", "replicaset", "replicaset-controller", replicaset::start),
    Controller::new("replicationcontroller-controller", "replicationcontroller", "replication-controller", replicaset::start_replication),
    Controller::new("resourcequota-controller", "resourcequota", "resourcequota-controller", resource_quota::start),
    Controller::new("root-ca-certificate-publisher-controller", "root-ca-cert-publisher", "root-ca-cert-publisher", root_ca::start),
    Controller::new("serviceaccount-controller", "serviceaccount", "service-account-controller", serviceaccount::start),
    Controller::new("statefulset-controller", "statefulset", "statefulset-controller", statefulset::start),
    Controller::new("taint-eviction-controller", "taint-eviction-controller", "node-controller", taint_eviction::start),
    Controller::new("ttl-after-finished-controller", "ttl-after-finished", "ttl-after-finished-controller", ttl_after_finished::start),
    Controller::new("token-cleaner-controller", "tokencleaner", "token-cleaner", bootstrap::start_cleaner).off(),
];

/// What a controller's start gets: see [`Context`].
pub type Start = fn(Context) -> futures::future::BoxFuture<'static, anyhow::Result<()>>;
