//! Registers the node and keeps its status true.
//!
//! Looks every few seconds (`nodeStatusUpdateFrequency`), writes when something changed or the last write is long ago
//! (`nodeStatusReportFrequency`). Until the node is ready for the first time it looks much more often. When the API server
//! shows the node as silent (the node lifecycle controller had not heard of it for too long), it contradicts at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;
use steersman_cri::{Runtime, v1};
use steersman_runtime::client::{ApiError, Patch};
use steersman_runtime::events::{EventType, Recorder};
use steersman_runtime::{Client, Event, Informer, ListOptions};
use steersman_types::api::core::v1::{Node, NodeSpec, NodeStatus, ObjectReference, Taint};
use steersman_types::jiff::Timestamp;
use tokio::sync::Notify;

use super::machine::{Available, Machine};
use super::patch::change;
use super::status::{NodeSeen, status};
use crate::config::KubeletConfiguration;
use crate::eviction::Pressure;

/// Before the first ready status, at the start of the agent.
const EAGER: Duration = Duration::from_millis(100);
const EAGER_FOR: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(200);
/// A runtime that has not answered for so long is down. Upstream's `maxWaitForContainerRuntime`.
const RUNTIME_DOWN: Duration = Duration::from_secs(30);
/// Upstream waits up to 7 s; a cluster that starts is served sooner by asking more often.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Tells why the node should not be ready besides the runtime's own conditions; empty when all is well.
pub type Health = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// See the module.
pub struct NodeUpdater {
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub recorder: Recorder,
    pub config: Arc<KubeletConfiguration>,
    pub name: String,
    pub addresses: Vec<String>,
    pub machine: Machine,
    pub root: std::path::PathBuf,
    pub labels: BTreeMap<String, String>,
    pub health: Health,
    pub pressure: Arc<Pressure>,
    /// Told once the object exists.
    pub registered: Arc<Notify>,
    /// What the runtime said last.
    pub known: Mutex<Option<Known>>,
}

/// The runtime's answers.
#[derive(Clone)]
pub struct Known {
    at: Instant,
    version: String,
    status: v1::StatusResponse,
    images: Vec<v1::Image>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            at: Instant::now(),
            version: String::new(),
            status: v1::StatusResponse::default(),
            images: Vec::new(),
        }
    }
}

/// What became of a look.
struct Once {
    ready: bool,
    /// The API holds what was seen.
    wrote: bool,
}

impl NodeUpdater {
    /// Runs forever.
    pub async fn run(mut self) {
        // A request that hangs must not cost the node its readiness.
        self.client = self.client.with_timeout(self.config.node_status_update_frequency);
        if self.config.register_node {
            self.register().await;
        }
        let silenced = Arc::new(Notify::new());
        let own: Informer<Node> = Informer::start(
            self.client.clone(),
            ListOptions::all().fields(&format!("metadata.name={}", self.name)),
        );
        let waking = silenced.clone();
        own.on_event(move |event| {
            if !matches!(event, Event::Deleted(_)) && is_silenced(event.object()) {
                waking.notify_one();
            }
        });
        self.registered.notify_waiters();
        self.registered.notify_one();
        let mut reported: Option<Instant> = None;
        let begun = Instant::now();
        let mut was_ready = false;
        loop {
            match self.once(reported).await {
                Ok(done) => {
                    was_ready = was_ready || done.ready;
                    if done.wrote {
                        reported = Some(Instant::now());
                    }
                }
                Err(e) => tracing::warn!(error = %e, "Error updating node status, will retry"),
            }
            let eager = !was_ready && begun.elapsed() < EAGER_FOR;
            let pause = if eager {
                EAGER
            } else {
                self.config.node_status_update_frequency
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The node got short of something, or is not any more.
                () = self.pressure.changed.notified() => {}
                () = silenced.notified() => {}
            }
        }
    }

    /// Looks once and writes if necessary. The API's object is read each time: others add to its capacity.
    async fn once(&self, reported: Option<Instant>) -> Result<Once, ApiError> {
        let seen = self.look().await;
        let old = self
            .client
            .get::<Node>(None, &self.name)
            .await?
            .status
            .unwrap_or_default();
        let new = status(&seen, &self.config, &old);
        let ready = is_ready(&new);
        let late = reported.is_none_or(|at| at.elapsed() >= self.config.node_status_report_frequency);
        let Some(change) = change(&old, &new).filter(|c| c.matters || late) else {
            return Ok(Once { ready, wrote: late });
        };
        let body = Patch::Strategic(json!({ "status": change.patch }));
        self.client
            .patch::<Node>(&body, None, &self.name, Some("status"))
            .await?;
        self.tell(&old, &new);
        Ok(Once { ready, wrote: true })
    }

    async fn look(&self) -> NodeSeen {
        let mut problems = (self.health)();
        self.ask_runtime().await;
        let known = self.known.lock().clone();
        match &known {
            Some(known) if known.at.elapsed() < RUNTIME_DOWN => problems.extend(runtime_problems(&known.status)),
            _ => problems.push("container runtime is down".into()),
        }
        let known = known.unwrap_or_default();
        NodeSeen {
            now: Timestamp::now(),
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            machine: self.machine.clone(),
            available: Available::read(&self.root),
            runtime_version: known.version,
            problems,
            images: known.images,
            supplemental_groups_policy: known.status.features.as_ref().map(|f| f.supplemental_groups_policy),
            handlers: known.status.runtime_handlers,
            short_of: self.pressure.now(),
        }
    }

    /// Keeps what the runtime answers. While it does not, what it said last counts: a restart of the runtime changes
    /// nothing about the node.
    async fn ask_runtime(&self) {
        let (version, status, images) = tokio::join!(
            self.runtime.version(),
            self.runtime.status(),
            self.runtime.list_images()
        );
        if let (Ok(version), Ok(status), Ok(images)) = (version, status, images) {
            *self.known.lock() = Some(Known {
                at: Instant::now(),
                version: format!("{}://{}", version.runtime_name, version.runtime_version),
                status,
                images,
            });
        }
    }

    async fn register(&self) {
        let mut pause = RETRY;
        loop {
            match self.try_register().await {
                Ok(()) => return,
                Err(e) => tracing::error!(node = %self.name, error = %e, "Unable to register node with API server"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn try_register(&self) -> Result<(), ApiError> {
        let seen = self.look().await;
        let node = self.object(&seen);
        match self.client.create(&node).await {
            Ok(_) => {
                tracing::info!(node = %self.name, "Successfully registered node");
                self.tell(&NodeStatus::default(), &node.status.clone().unwrap_or_default());
                return Ok(());
            }
            Err(e) if e.is_already_exists() => {}
            Err(e) => return Err(e),
        }
        let existing = self.client.get::<Node>(None, &self.name).await?;
        tracing::info!(node = %self.name, "Node was previously registered");
        let labels = missing(existing.metadata.labels.as_ref(), node.metadata.labels.as_ref());
        let annotations = missing(
            existing.metadata.annotations.as_ref(),
            node.metadata.annotations.as_ref(),
        );
        if !labels.is_empty() || !annotations.is_empty() {
            let body = Patch::Strategic(json!({"metadata": {"labels": labels, "annotations": annotations}}));
            self.client.patch::<Node>(&body, None, &self.name, None).await?;
        }
        Ok(())
    }

    /// The node as it is first registered.
    fn object(&self, seen: &NodeSeen) -> Node {
        let mut node = Node {
            spec: Some(NodeSpec {
                provider_id: Some(self.config.provider_id.clone()).filter(|p| !p.is_empty()),
                taints: Some(self.config.register_with_taints.clone()).filter(|t: &Vec<Taint>| !t.is_empty()),
                ..NodeSpec::default()
            }),
            status: Some(status(seen, &self.config, &NodeStatus::default())),
            ..Node::default()
        };
        node.metadata.name = Some(self.name.clone());
        let arch = self.machine.architecture.as_str();
        let own = [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ];
        let own = own.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        node.metadata.labels = Some(self.labels.clone().into_iter().chain(own).collect());
        let attach = "volumes.kubernetes.io/controller-managed-attach-detach".to_owned();
        node.metadata.annotations = Some(BTreeMap::from([(attach, "true".to_owned())]));
        node
    }

    /// Events about conditions that changed.
    fn tell(&self, old: &NodeStatus, new: &NodeStatus) {
        for c in new.conditions.iter().flatten() {
            let before = old
                .conditions
                .iter()
                .flatten()
                .find(|o| o.type_ == c.type_)
                .map(|o| o.status.as_str());
            if before == Some(c.status.as_str()) {
                continue;
            }
            let event = match (c.type_.as_str(), c.status.as_str()) {
                ("Ready", "True") => "NodeReady",
                ("Ready", _) => "NodeNotReady",
                ("MemoryPressure", "True") => "NodeHasInsufficientMemory",
                ("MemoryPressure", _) => "NodeHasSufficientMemory",
                ("DiskPressure", "True") => "NodeHasDiskPressure",
                ("DiskPressure", _) => "NodeHasNoDiskPressure",
                ("PIDPressure", "True") => "NodeHasInsufficientPID",
                _ => "NodeHasSufficientPID",
            };
            let message = format!("Node {} status is now: {event}", self.name);
            self.recorder
                .event(&reference(&self.name), EventType::Normal, event, &message);
        }
    }
}

/// The node in events about it; its name stands for the uid, as upstream has it.
#[must_use]
pub fn reference(node: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        api_version: Some("v1".into()),
        name: Some(node.into()),
        uid: Some(node.into()),
        ..ObjectReference::default()
    }
}

/// Whether somebody says in our name that nothing is known of the node; we never say that ourselves.
fn is_silenced(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Ready" && c.status == "Unknown")
}

fn is_ready(status: &NodeStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What the runtime itself says is not working.
fn runtime_problems(answer: &v1::StatusResponse) -> Vec<String> {
    let conditions = answer
        .status
        .as_ref()
        .map(|s| s.conditions.as_slice())
        .unwrap_or_default();
    let mut problems = Vec::new();
    for (kind, what) in [
        ("RuntimeReady", "container runtime not ready"),
        ("NetworkReady", "container runtime network not ready"),
    ] {
        match conditions.iter().find(|c| c.r#type == kind) {
            Some(c) if c.status => {}
            Some(c) => problems.push(format!(
                "{what}: {kind}=false reason:{} message:{}",
                c.reason, c.message
            )),
            None => problems.push(format!("{what}: {kind} condition is not set")),
        }
    }
    problems
}

fn missing(
    have: Option<&BTreeMap<String, String>>,
    want: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let want = want.into_iter().flatten();
    want.filter(|(k, v)| have.and_then(|h| h.get(*k)) != Some(v))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}
