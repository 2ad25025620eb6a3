//! Judges whether nodes are alive, and says so by conditions, taints and pod readiness.
//!
//! Watches: nodes, leases in kube-node-lease, pods. Writes: nodes/status, node taints and labels, pods/status, events.
//! Every five seconds each node's last sign of life (lease or status) is compared with the grace period; a change of a node
//! is handled at once, and so is the very moment in which a grace period ends. [`decide`] is pure. Evicting pods from
//! tainted nodes is [`crate::taint_eviction`]'s business.
//!
//! A round: judge all nodes and write down who is silent, look at the zones as they are after that, then taint. So nodes
//! that fall silent together are seen together, before the first of them is emptied.
//!
//! What stays true: ages are measured on our own clock, from when *we* saw a sign of life, and start anew after we slept
//! ourselves; NoExecute taints come no faster than [`zones`] allows, the node that has been down longest first, and none
//! are there while no node at all is ready: then it is more likely that we are the ones who are cut off.

pub mod decide;
mod metrics;
#[cfg(test)]
mod tests;
pub mod zones;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::json;
use steersman_runtime::client::{ApiError, Patch};
use steersman_runtime::events::EventType;
use steersman_runtime::informer::IndexId;
use steersman_runtime::{Event, Informer, ListOptions};
use steersman_types::Typed;
use steersman_types::api::coordination::v1::Lease;
use steersman_types::api::core::v1::{Node, NodeStatus, ObjectReference, Pod, Taint};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::act::{Action, Executor};
use crate::context::{Context, Settings};
use crate::pods;
use decide::{Health, Pace, Renewal, judge};
use metrics::Figures;
use zones::{Change, Zones};

const LEASES: &str = "kube-node-lease";
/// Writes under way at once (upstream: `UpdateWorkerSize`).
const WRITES: usize = 8;
/// Rounds follow each other no faster: what happens in between is handled together.
const LEAST: Duration = Duration::from_millis(50);
/// A round that begins so much later than it should finds out nothing about nodes: it was us who were not there.
const ASLEEP: Duration = Duration::from_secs(5);

struct Lifecycle {
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    on_node: IndexId,
    executor: Executor,
    settings: Arc<Settings>,
    /// By node: the last renewal of its lease, as the watch told it.
    heard: Arc<Mutex<HashMap<String, Renewal>>>,
}

/// What is remembered between rounds.
struct Memory {
    health: BTreeMap<String, Health>,
    /// Known nodes and their UIDs, for the registration events.
    known: BTreeMap<String, String>,
    zones: Zones,
    figures: Figures,
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
        let heard: Arc<Mutex<HashMap<String, Renewal>>> = Arc::default();
        let hearing = heard.clone();
        leases.on_event(move |event| {
            let lease = event.object();
            let name = lease.metadata.name.clone().unwrap_or_default();
            match event {
                Event::Deleted(_) => drop(hearing.lock().remove(&name)),
                Event::Updated { old, new } if decide::renewed(old) != decide::renewed(new) => {
                    if let Some(renewed) = decide::renewed(new) {
                        let seen = Timestamp::now();
                        hearing.lock().insert(name, Renewal { renewed, seen });
                    }
                }
                _ => {}
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
            heard,
        };
        let mut memory = Memory {
            health: BTreeMap::new(),
            known: BTreeMap::new(),
            zones: Zones::default(),
            figures: Figures::new(&context.metrics),
        };
        loop {
            let begun = Instant::now();
            let pause = this.round(&mut memory).await.clamp(LEAST.min(period), period);
            memory.figures.round(begun.elapsed());
            let begun = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = changed.notified() => tokio::time::sleep(LEAST.min(period)).await,
                () = context.stop.cancelled() => return Ok(()),
            }
            if begun.elapsed() > pause + ASLEEP {
                warn!("slept through node signals; every node's silence counts from now");
                memory.forgive(Timestamp::now());
            }
        }
    })
}

impl Memory {
    /// Every node's silence counts from now.
    fn forgive(&mut self, now: Timestamp) {
        self.health.values_mut().for_each(|health| health.alive_at = now);
    }
}

fn name(node: &Node) -> String {
    node.metadata.name.clone().unwrap_or_default()
}

/// The next round tries again from what the caches then say.
fn complain(node: &str, error: &ApiError) {
    if !error.is_not_found() && !error.is_conflict() {
        warn!(node, %error, "node lifecycle");
    }
}

impl Lifecycle {
    /// One look at all nodes; how long nothing needs to be looked at again.
    async fn round(&self, memory: &mut Memory) -> Duration {
        let nodes = self.nodes.list();
        self.announce(memory, &nodes).await;
        let (nodes, due) = self.listen(memory, nodes).await;
        let now = Instant::now();
        match memory
            .zones
            .look(nodes.iter().map(Arc::as_ref), &self.settings.eviction, now)
        {
            Change::AllLost => {
                info!("Controller detected that all Nodes are not-Ready. Entering master disruption mode");
            }
            Change::Back => {
                info!("Controller detected that some Nodes are Ready. Exiting master disruption mode");
                // What looked like silence may have been our own deafness.
                memory.forgive(Timestamp::now());
            }
            Change::Nothing => {}
        }
        memory.figures.look(&memory.zones);
        let next_taint = self.taint(memory, &nodes).await;
        self.mark_pods(&nodes).await;
        let due = due.map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
        let pauses = [due, next_taint.map(|at| at.saturating_duration_since(Instant::now()))];
        pauses.into_iter().flatten().min().unwrap_or(Duration::MAX)
    }

    /// Writes down which nodes have been silent for too long. The nodes as they are then, and when the next one may be
    /// found silent.
    async fn listen(&self, memory: &mut Memory, nodes: Vec<Arc<Node>>) -> (Vec<Arc<Node>>, Option<Timestamp>) {
        let now = Timestamp::now();
        let mut due: Option<Timestamp> = None;
        let mut judged = Vec::with_capacity(nodes.len());
        for node in nodes {
            let name = name(&node);
            let lease = self.leases.get(LEASES, &name);
            let heard = self.heard.lock().get(&name).copied();
            let known = memory.health.get(&name);
            let verdict = judge(&node, lease.as_deref(), heard, known, now, &self.settings);
            memory.health.insert(name, verdict.health);
            // Past the moment itself, since silence must be longer than the grace period.
            let at = verdict
                .due
                .map(|at| at.saturating_add(SignedDuration::from_millis(1)).unwrap_or(at));
            due = due.into_iter().chain(at).min();
            judged.push((node, verdict.silent));
        }
        let writes = judged
            .into_iter()
            .map(|(node, silent)| self.written(node, silent).boxed());
        (together(writes.collect()).await, due)
    }

    /// The node as it is after its status, if there is a new one, has been written.
    async fn written(&self, node: Arc<Node>, silent: Option<NodeStatus>) -> Arc<Node> {
        let Some(status) = silent else { return node };
        let mut changed = node.as_ref().clone();
        changed.status = Some(status);
        match self.silence(&node, &changed).await {
            Ok(node) => Arc::new(node),
            Err(error) => {
                complain(&name(&node), &error);
                node
            }
        }
    }

    async fn silence(&self, node: &Node, silent: &Node) -> Result<Node, ApiError> {
        let name = name(node);
        let written = self.executor.one(Action::update_status(silent)).await?;
        info!(node = name, "node is silent: its conditions are now Unknown");
        if decide::is_ready(node) {
            let text = format!("Node {name} status is now: NodeNotReady");
            let uid = node.metadata.uid.clone().unwrap_or_default();
            self.executor.one(note(&name, &uid, "NodeNotReady", text)).await?;
        }
        Ok(Node::from_value(&written.object).unwrap_or_else(|_| silent.clone()))
    }

    /// Gives nodes the taints and labels that they should have. When another node of those that wait may be emptied.
    async fn taint(&self, memory: &mut Memory, nodes: &[Arc<Node>]) -> Option<Instant> {
        let mut order: Vec<&Arc<Node>> = nodes.iter().collect();
        order.sort_by_cached_key(|node| (decide::down_since(node), name(node)));
        let (now, at) = (Timestamp::now(), Instant::now());
        let (mut writes, mut next) = (Vec::new(), None);
        // Zones in which a node is about to be emptied: their turn comes again when that has happened.
        let mut taken = BTreeSet::new();
        for node in order {
            let zone = zones::of(node);
            let may = !taken.contains(&zone) && memory.zones.may_evict(&zone, at);
            let pace = match (memory.zones.all_lost(), may) {
                (true, _) => Pace::Stop,
                (false, true) => Pace::Go,
                (false, false) => Pace::Wait,
            };
            let before = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
            let evicted = decide::evicts(before);
            let taints = decide::taints(node, pace, now);
            let evicts = !evicted && taints.as_ref().is_some_and(decide::evicts);
            if evicts {
                taken.insert(zone.clone());
            } else if pace == Pace::Wait && !evicted && decide::down_since(node).is_some() {
                next = next.into_iter().chain(memory.zones.next(&zone)).min();
            }
            let labels = decide::labels(node);
            if taints.is_some() || !labels.is_empty() {
                let zone = evicts.then_some(zone);
                let write = self.write(node, taints, labels);
                writes.push(async move { if write.await { zone } else { None } }.boxed());
            }
        }
        for zone in together(writes).await.into_iter().flatten() {
            memory.figures.evicted(&zone);
            memory.zones.evicted(&zone, Instant::now());
            next = next.into_iter().chain(memory.zones.next(&zone)).min();
        }
        next
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
        // A node that was registered anew owes nothing to the one before.
        let same = |name: &String| now.get(name).is_some_and(|uid| memory.known.get(name) == Some(uid));
        memory.health.retain(|name, _| same(name));
        memory.known = now;
        let _ = self.executor.run(notes).await;
    }

    /// Whether it was written.
    async fn write(&self, node: &Node, taints: Option<Vec<Taint>>, labels: BTreeMap<String, String>) -> bool {
        let mut patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}});
        if taints.is_some() {
            let mut wanted = Node::default();
            wanted.spec.get_or_insert_default().taints = taints;
            patch["spec"] = json!({"taints": wanted.to_value()["spec"]["taints"]});
        }
        if !labels.is_empty() {
            patch["metadata"]["labels"] = json!(labels);
        }
        let written = self.executor.one(Action::patch(node, None, Patch::Merge(patch))).await;
        written.inspect_err(|error| complain(&name(node), error)).is_ok()
    }

    /// Nobody else can say that the pods of a silent node do not serve.
    async fn mark_pods(&self, nodes: &[Arc<Node>]) {
        let silent = nodes
            .iter()
            .filter(|node| decide::ready_status(node) == Some("Unknown"));
        let pods: Vec<Arc<Pod>> = silent
            .flat_map(|node| self.pods.by_index(self.on_node, &name(node)))
            .filter(|pod| pods::is_ready(pod))
            .collect();
        together(pods.iter().map(|pod| self.mark(pod).boxed()).collect()).await;
    }

    async fn mark(&self, pod: &Pod) {
        let Some(updated) = decide::not_ready(pod, Timestamp::now()) else {
            return;
        };
        let about = steersman_runtime::events::reference(pod);
        let text = "Node is not ready".to_owned();
        let note = Action::event(about, EventType::Warning, "NodeNotReady", text);
        let (_, done) = self.executor.run(vec![Action::update_status(&updated), note]).await;
        // Somebody else knew better, or the pod is gone.
        if let Err(error) = done {
            complain(pods::node(pod), &error);
        }
    }
}

/// Runs writes side by side, but not too many at once; results in order.
async fn together<T>(writes: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    futures::stream::iter(writes).buffered(WRITES).collect().await
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
