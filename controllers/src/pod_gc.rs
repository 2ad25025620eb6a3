//! Removes pods that nobody else will: finished ones beyond a number, those of nodes that are gone, those that are
//! terminating without ever having had a node, and those that are terminating on a node declared out of service.
//!
//! Watches: pods, nodes. Writes: pods/status (phase Failed, since no kubelet is there to say so), deletions without grace.
//! Every 20 seconds, and when a node's absence has lasted long enough. [`decide`] is pure. What stays true: a node counts as gone only when it has been missing for 40
//! seconds and the server itself says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::json;
use steersman_runtime::client::{ApiError, DeleteOptions, Patch, Resource};
use steersman_runtime::{Event, Informer};
use steersman_types::Time;
use steersman_types::api::core::v1::{Node, Pod};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::node_lifecycle::decide::is_ready;
use crate::pods;

const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be missing from the cache before the server is asked.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Nodes that are deleted one after the other are looked at together.
const TOGETHER: Duration = Duration::from_secs(1);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

struct Collector {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    executor: Executor,
    /// Finished pods that may stay; 0 for all.
    threshold: usize,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let this = Collector {
            pods: context.informers.of::<Pod>(),
            nodes: context.informers.of::<Node>(),
            executor: context.executor("pod-garbage-collector"),
            threshold: context.settings.terminated_pod_threshold,
        };
        this.pods.synced().await;
        this.nodes.synced().await;
        let vanished = Arc::new(Notify::new());
        let waking = vanished.clone();
        this.nodes.on_event(move |event| {
            if matches!(event, Event::Deleted(_)) {
                waking.notify_one();
            }
        });
        let mut missing = BTreeMap::new();
        loop {
            this.round(&mut missing).await;
            let now = Instant::now();
            let due = missing
                .values()
                .map(|since| *since + QUARANTINE)
                .filter(|at| *at > now)
                .min();
            let pause = due.map_or(PERIOD, |at| at.duration_since(now).min(PERIOD));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = vanished.notified() => tokio::time::sleep(TOGETHER).await,
                () = context.stop.cancelled() => return Ok(()),
            }
        }
    })
}

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Terminated,
    OutOfService,
    Orphaned,
    Unscheduled,
}

/// What goes, and why; a pod at most once. `gone` are nodes known not to exist.
#[must_use]
pub fn decide(
    pods: &[Arc<Pod>],
    nodes: &[Arc<Node>],
    gone: &BTreeSet<String>,
    threshold: usize,
) -> Vec<(Reason, Arc<Pod>)> {
    let mut plan: Vec<(Reason, Arc<Pod>)> = Vec::new();
    let mut finished: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pods::is_finished(pod)).collect();
    if threshold > 0 && finished.len() > threshold {
        // Evicted pods first: those of controllers that count theirs should stay longer.
        finished.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (!is_evicted(pod), created, pod.metadata.name.clone())
        });
        let surplus = finished.len() - threshold;
        plan.extend(
            finished
                .into_iter()
                .take(surplus)
                .map(|pod| (Reason::Terminated, pod.clone())),
        );
    }
    let out: BTreeSet<&str> = nodes
        .iter()
        .filter(|node| !is_ready(node) && is_out_of_service(node))
        .filter_map(|node| node.metadata.name.as_deref())
        .collect();
    for pod in pods {
        let node = pods::node(pod);
        let reason = if pods::is_terminating(pod) && out.contains(node) {
            Reason::OutOfService
        } else if gone.contains(node) {
            Reason::Orphaned
        } else if pods::is_terminating(pod) && node.is_empty() {
            Reason::Unscheduled
        } else {
            continue;
        };
        if !plan.iter().any(|(_, known)| Arc::ptr_eq(known, pod)) {
            plan.push((reason, pod.clone()));
        }
    }
    plan
}

fn is_evicted(pod: &Pod) -> bool {
    let reason = pod.status.as_ref().and_then(|s| s.reason.as_deref());
    pods::phase(pod) == "Failed" && reason == Some("Evicted")
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Nodes that pods name and nobody knows, in `missing` since when; those that have been so for long enough are returned.
pub fn quarantine(
    pods: &[Arc<Pod>],
    nodes: &[Arc<Node>],
    missing: &mut BTreeMap<String, Instant>,
    now: Instant,
) -> Vec<String> {
    let known: BTreeSet<&str> = nodes.iter().filter_map(|n| n.metadata.name.as_deref()).collect();
    let named: BTreeSet<&str> = pods
        .iter()
        .map(|pod| pods::node(pod))
        .filter(|node| !node.is_empty() && !known.contains(node))
        .collect();
    missing.retain(|node, _| named.contains(node.as_str()));
    for node in named {
        missing.entry(node.to_owned()).or_insert(now);
    }
    let long = missing
        .iter()
        .filter(|(_, since)| now.duration_since(**since) >= QUARANTINE);
    long.map(|(node, _)| node.clone()).collect()
}

impl Collector {
    async fn round(&self, missing: &mut BTreeMap<String, Instant>) {
        let (pods, nodes) = (self.pods.list(), self.nodes.list());
        let mut gone = BTreeSet::new();
        for node in quarantine(&pods, &nodes, missing, Instant::now()) {
            match self.executor.client().get::<Node>(None, &node).await {
                Err(error) if error.is_not_found() => {
                    gone.insert(node);
                }
                Err(error) => warn!(node, %error, "Error while getting node"),
                Ok(_) => {}
            }
        }
        for (reason, pod) in decide(&pods, &nodes, &gone, self.threshold) {
            match self.remove(reason, &pod).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => {
                    warn!(pod = %steersman_runtime::Key::of(pod.as_ref()), %error, ?reason, "Failed to delete pod");
                }
                _ => {}
            }
        }
    }

    async fn remove(&self, reason: Reason, pod: &Pod) -> Result<(), ApiError> {
        info!(pod = %steersman_runtime::Key::of(pod), ?reason, "PodGC is force deleting Pod");
        if !pods::is_finished(pod) {
            let generation = pod.metadata.generation;
            let mut status = json!({"phase": "Failed", "observedGeneration": generation});
            if reason == Reason::Orphaned {
                status["conditions"] = json!([{
                    "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                    "message": "PodGC: node no longer exists", "lastTransitionTime": Time(Timestamp::now()),
                    "observedGeneration": generation,
                }]);
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            self.executor
                .one(Action::patch(pod, Some("status"), Patch::Strategic(patch)))
                .await?;
        }
        let action = Action::Delete {
            resource: Resource::of::<Pod>(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            options: DeleteOptions {
                grace_period_seconds: Some(0),
                uid: pod.metadata.uid.clone(),
                ..DeleteOptions::default()
            },
        };
        self.executor.one(action).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use steersman_types::Typed;

    fn pod(i: usize, phase: &str, node: &str, terminating: bool, evicted: bool) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": format!("p{i}"), "namespace": "ns", "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", i % 60)},
            "spec": {"containers": []}, "status": {"phase": phase},
        });
        if !node.is_empty() {
            value["spec"]["nodeName"] = node.into();
        }
        if terminating {
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        if evicted {
            value["status"]["reason"] = "Evicted".into();
        }
        Arc::new(Pod::from_value(&value).unwrap())
    }

    fn node(name: &str, ready: bool, out: bool) -> Arc<Node> {
        let status = if ready { "True" } else { "Unknown" };
        let mut value = json!({"metadata": {"name": name}, "spec": {}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        if out {
            value["spec"]["taints"] = json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]);
        }
        Arc::new(Node::from_value(&value).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_must_be_missing_for_forty_seconds_without_a_break() {
        let (pods, mut missing, start) = ([pod(0, "Running", "n", false, false)], BTreeMap::new(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(quarantine(&pods, &[], &mut missing, at(0)).is_empty());
        assert!(quarantine(&pods, &[], &mut missing, at(39)).is_empty());
        assert_eq!(quarantine(&pods, &[], &mut missing, at(40)), ["n"]);
        assert!(quarantine(&pods, &[node("n", true, false)], &mut missing, at(60)).is_empty());
        assert!(quarantine(&pods, &[], &mut missing, at(80)).is_empty());
    }

    #[test]
    fn evicted_pods_go_before_older_finished_ones() {
        let pods = [
            pod(0, "Succeeded", "n", false, false),
            pod(1, "Failed", "n", false, true),
            pod(2, "Failed", "n", false, false),
        ];
        let names: Vec<_> = decide(&pods, &[], &BTreeSet::new(), 1)
            .into_iter()
            .filter_map(|(_, pod)| pod.metadata.name.clone())
            .collect();
        assert_eq!(names, ["p1", "p0"]);
        assert!(decide(&pods, &[], &BTreeSet::new(), 0).is_empty());
    }

    proptest! {
        #[test]
        fn only_pods_that_nobody_else_ends_go(
            specs in proptest::collection::vec((0usize..4, 0usize..4, any::<bool>()), 0..20), threshold in 0usize..4,
        ) {
            let nodes = [node("up", true, true), node("down", false, false), node("out", false, true)];
            let places = ["", "up", "down", "out"];
            let pods: Vec<_> = specs.iter().enumerate().map(|(i, (phase, place, going))| {
                pod(i, ["Pending", "Running", "Failed", "Succeeded"][*phase], places[*place], *going, false)
            }).collect();
            let gone = BTreeSet::from(["down".to_owned()]);
            let plan = decide(&pods, &nodes, &gone, threshold);
            for (reason, pod) in &plan {
                let node = pods::node(pod);
                let right = match reason {
                    Reason::Terminated => pods::is_finished(pod),
                    Reason::OutOfService => node == "out" && pods::is_terminating(pod),
                    Reason::Orphaned => node == "down",
                    Reason::Unscheduled => node.is_empty() && pods::is_terminating(pod),
                };
                prop_assert!(right);
            }
            let names: BTreeSet<_> = plan.iter().map(|(_, pod)| pod.metadata.name.clone()).collect();
            prop_assert_eq!(names.len(), plan.len(), "a pod twice");
            let finished = specs.iter().filter(|(phase, ..)| *phase >= 2).count();
            let cut = plan.iter().filter(|(reason, _)| *reason == Reason::Terminated).count();
            prop_assert_eq!(cut, if threshold == 0 { 0 } else { finished.saturating_sub(threshold) });
        }
    }
}
