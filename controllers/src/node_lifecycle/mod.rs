//! Judges whether nodes are alive, and says so by conditions, taints and pod readiness.
//!
//! Watches: nodes, leases in kube-node-lease, pods. Writes: nodes/status, node taints, pods/status, events. Every five
//! seconds each node's last sign of life (lease or status) is compared with the grace period; a change of a node is
//! handled at once. [`decide`] is pure. Evicting pods from tainted nodes is [`crate::taint_eviction`]'s business.
//!
//! What stays true: ages are measured on our own clock, from when *we* saw a sign of life; NoExecute taints come no
//! faster than [`zones`] allows, and none are there while no node at all is ready: then it is more likely that we are the
//! ones who are cut off.

pub mod decide;
#[cfg(test)]
mod tests;
pub mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::json;
use steersman_runtime::client::{ApiError, Patch};
use steersman_runtime::events::EventType;
use steersman_runtime::informer::IndexId;
use steersman_runtime::{Event, Informer, ListOptions};
use steersman_types::Typed;
use steersman_types::api::coordination::v1::Lease;
use steersman_types::api::core::v1::{Node, ObjectReference, Pod, Taint};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::act::{Action, Executor};
use crate::context::{Context, Settings};
use crate::pods;
use decide::{Health, Pace, judge};
use zones::{Change, Zones};

const LEASES: &str = "kube-node-lease";

struct Lifecycle {
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    on_node: IndexId,
    executor: Executor,
    settings: Arc<Settings>,
}

/// What is remembered between rounds.
#[derive(Default)]
struct Memory {
    health: BTreeMap<String, Health>,
    /// Known nodes and their UIDs, for the registration events.
    known: BTreeMap<String, String>,
    zones: Zones,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let nodes = context.informers.of::<Node>();
        let leases = context.informers.of_with::<Lease>(ListOptions::in_namespace(LEASES));
        let pods = context.informers.of::<Pod>();
        let on_node = pods.add_index(|pod: &Pod| vec![pods::node(pod).to_owned()]);
        let executor = context.executor("node-controller");
        let settings = context.settings.clone();
        nodes.synced().await;
        leases.synced().await;
        pods.synced().await;
        let changed = Arc::new(Notify::new());
        let waking = changed.clone();
        nodes.on_event(move |event| {
            let relevant = match event {
                Event::Updated { old, new } => decide::facts(old) != decide::facts(new),
                _ => true,
            };
            if relevant {
                waking.notify_one();
            }
        });
        let period = settings.node_monitor_period;
        let this = Lifecycle {
            nodes,
            leases,
            pods,
            on_node,
            executor,
            settings,
        };
        let mut memory = Memory::default();
        loop {
            this.round(&mut memory).await;
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = changed.notified() => {}
                () = context.stop.cancelled() => return Ok(()),
            }
        }
    })
}

impl Lifecycle {
    async fn round(&self, memory: &mut Memory) {
        let nodes = self.nodes.list();
        self.announce(memory, &nodes).await;
        match memory
            .zones
            .look(nodes.iter().map(Arc::as_ref), &self.settings.eviction)
        {
            Change::AllLost => {
                info!("Controller detected that all Nodes are not-Ready. Entering master disruption mode");
            }
            Change::Back => {
                info!("Controller detected that some Nodes are Ready. Exiting master disruption mode");
                // What looked like silence may have been our own deafness.
                let now = Timestamp::now();
                memory.health.values_mut().for_each(|health| health.alive_at = now);
            }
            Change::Nothing => {}
        }
        for node in nodes {
            let name = node.metadata.name.clone().unwrap_or_default();
            if let Err(error) = self.one(memory, &node).await {
                // The next round tries again from what the caches then say.
                if !error.is_not_found() && !error.is_conflict() {
                    warn!(node = name, %error, "node lifecycle");
                }
            }
        }
    }

    async fn announce(&self, memory: &mut Memory, nodes: &[Arc<Node>]) {
        let now: BTreeMap<String, String> = nodes
            .iter()
            .map(|n| {
                (
                    n.metadata.name.clone().unwrap_or_default(),
                    n.metadata.uid.clone().unwrap_or_default(),
                )
            })
            .collect();
        let mut notes = Vec::new();
        for (name, uid) in now.iter().filter(|(name, _)| !memory.known.contains_key(*name)) {
            let text = format!("Node {name} event: Registered Node {name} in Controller");
            notes.push(note(name, uid, "RegisteredNode", text));
        }
        for (name, uid) in memory.known.iter().filter(|(name, _)| !now.contains_key(*name)) {
            let text = format!("Node {name} event: Removing Node {name} from Controller");
            notes.push(note(name, uid, "RemovingNode", text));
        }
        let names: BTreeSet<&String> = now.keys().collect();
        memory.health.retain(|name, _| names.contains(name));
        memory.known = now;
        let _ = self.executor.run(notes).await;
    }

    async fn one(&self, memory: &mut Memory, node: &Arc<Node>) -> Result<(), ApiError> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let lease = self.leases.get(LEASES, &name);
        let now = Timestamp::now();
        let verdict = judge(node, lease.as_deref(), memory.health.get(&name), now, &self.settings);
        memory.health.insert(name.clone(), verdict.health);
        let mut current = node.as_ref().clone();
        if let Some(status) = verdict.silent {
            current.status = Some(status);
            let written = self.executor.one(Action::update_status(&current)).await?;
            info!(node = name, "node is silent: its conditions are now Unknown");
            current = Node::from_value(&written.object).unwrap_or(current);
            if decide::is_ready(node) {
                let text = format!("Node {name} status is now: NodeNotReady");
                let uid = node.metadata.uid.clone().unwrap_or_default();
                self.executor.one(self::note(&name, &uid, "NodeNotReady", text)).await?;
            }
        }
        let zone = zones::of(&current);
        let pace = if memory.zones.all_lost() {
            Pace::Stop
        } else if memory.zones.may_evict(&zone, Instant::now()) {
            Pace::Go
        } else {
            Pace::Wait
        };
        if let Some(taints) = decide::taints(&current, pace, now) {
            self.write_taints(&current, &taints).await?;
            if decide::evicts(&taints) && !decide::evicts(current.spec.iter().flat_map(|s| s.taints.iter().flatten())) {
                memory.zones.evicted(&zone, Instant::now());
            }
        }
        if decide::ready_status(&current) == Some("Unknown") {
            self.mark_pods(&name).await?;
        }
        Ok(())
    }

    async fn write_taints(&self, node: &Node, taints: &[Taint]) -> Result<(), ApiError> {
        let mut wanted = Node::default();
        wanted.spec.get_or_insert_default().taints = Some(taints.to_vec());
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": wanted.to_value()["spec"]["taints"]},
        });
        self.executor
            .one(Action::patch(node, None, Patch::Merge(patch)))
            .await
            .map(drop)
    }

    /// Nobody else can say that the pods of a silent node do not serve.
    async fn mark_pods(&self, node: &str) -> Result<(), ApiError> {
        for pod in self
            .pods
            .by_index(self.on_node, node)
            .iter()
            .filter(|pod| pods::is_ready(pod))
        {
            let Some(updated) = decide::not_ready(pod, Timestamp::now()) else {
                continue;
            };
            match self.executor.one(Action::update_status(&updated)).await {
                Err(error) if error.is_not_found() || error.is_conflict() => continue,
                written => written?,
            };
            let about = steersman_runtime::events::reference(pod.as_ref());
            let note = Action::event(
                about,
                EventType::Warning,
                "NodeNotReady",
                "Node is not ready".to_owned(),
            );
            self.executor.one(note).await?;
        }
        Ok(())
    }
}

fn note(name: &str, uid: &str, reason: &'static str, message: String) -> Action {
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    };
    Action::event(about, EventType::Normal, reason, message)
}
