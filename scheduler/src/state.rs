//! Queue and cache together, as informer events change them.
//!
//! Every method is a short, synchronous change under one lock ([`crate::run`] holds it), so informer handlers never
//! block. Which pods are this scheduler's business is decided here and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use steersman_runtime::Event;
use steersman_types::Typed;
use steersman_types::api::core::v1::{Namespace, Node, Pod};
use steersman_types::api::policy::v1::PodDisruptionBudget;
use tokio::time::Instant;

use crate::decide::Unschedulable;
use crate::event::{ClusterEvent, node_changes, pending_pod_changes};
use crate::plugins::Plugin;
use crate::pod::{PodInfo, PodKey, is_finished, node_of};
use crate::queue::{Backoff, Counts, History, Queue};
use crate::resources;
use crate::snapshot::{Budget, Cache, Snapshot};

/// What the scheduler knows and has to do.
#[derive(Debug)]
pub struct State {
    schedulers: Vec<String>,
    queue: Queue,
    cache: Cache,
    /// Pods that some gate holds back.
    gated: BTreeSet<PodKey>,
}

/// How much there is of everything, for metrics.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub waiting: Counts,
    pub gated: usize,
    pub nodes: usize,
    pub pods: usize,
    pub assumed: usize,
    /// Unschedulable pods by plugin that refused them and scheduler.
    pub refused: BTreeMap<(&'static str, String), usize>,
    /// By queue and event.
    pub incoming: BTreeMap<(&'static str, &'static str), u64>,
}

impl State {
    #[must_use]
    pub fn new(schedulers: Vec<String>, plugins: &'static [Plugin], backoff: Backoff) -> Self {
        Self {
            schedulers,
            queue: Queue::new(plugins, backoff),
            cache: Cache::default(),
            gated: BTreeSet::new(),
        }
    }

    /// A change of a node, as its informer tells it.
    pub fn on_node(&mut self, event: &Event<Node>, now: Instant) {
        match event {
            Event::Added(node) => {
                self.cache.set_node(node.clone());
                self.queue.wake(ClusterEvent::NodeAdded, now);
            }
            Event::Updated { old, new } => {
                self.cache.set_node(new.clone());
                for change in node_changes(old, new) {
                    self.queue.wake(change, now);
                }
            }
            Event::Deleted(node) => {
                self.cache
                    .remove_node(node.metadata().name.as_deref().unwrap_or_default());
                self.queue.wake(ClusterEvent::NodeGone, now);
            }
        }
    }

    /// A change of a namespace: its labels matter to affinities that select namespaces.
    pub fn on_namespace(&mut self, event: &Event<Namespace>, now: Instant) {
        let meta = &event.object().metadata;
        let name = meta.name.as_deref().unwrap_or_default();
        let gone = matches!(event, Event::Deleted(_));
        let labels = (!gone).then(|| meta.labels.clone().unwrap_or_default());
        self.cache.set_namespace(name, labels);
        if event.old().is_some_and(|old| old.metadata.labels != meta.labels) {
            self.queue.wake(ClusterEvent::NamespaceLabels, now);
        }
    }

    /// A change of a PodDisruptionBudget: preemption spares its pods if it can.
    pub fn on_budget(&mut self, event: &Event<PodDisruptionBudget>) {
        let budget = event.object();
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        let (namespace, name) = (text(&budget.metadata.namespace), text(&budget.metadata.name));
        let status = budget.status.as_ref();
        let here = !matches!(event, Event::Deleted(_));
        let known = here.then(|| Budget {
            namespace: namespace.clone(),
            selector: budget.spec.as_ref().and_then(|s| s.selector.clone()),
            allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0),
            disrupted: status
                .and_then(|s| s.disrupted_pods.as_ref())
                .map(|d| d.keys().cloned().collect())
                .unwrap_or_default(),
        });
        self.cache.set_budget(&namespace, &name, known);
    }

    /// A change of a pod, as its informer tells it.
    pub fn on_pod(&mut self, event: &Event<Pod>, now: Instant) {
        match event {
            Event::Deleted(pod) => {
                let key = PodKey::of(pod);
                self.gated.remove(&key);
                self.queue.remove(&key);
                self.cache.remove_pod(&key);
                self.cache.forget_nomination(&key);
                if !node_of(pod).is_empty() {
                    self.queue.wake(ClusterEvent::AssignedPodGone, now);
                }
            }
            Event::Added(new) => self.set_pod(None, new, now),
            Event::Updated { old, new } => self.set_pod(Some(old), new, now),
        }
    }

    fn set_pod(&mut self, old: Option<&Arc<Pod>>, new: &Arc<Pod>, now: Instant) {
        let key = PodKey::of(new);
        if self.is_mine(new) && is_gated(new) {
            self.gated.insert(key.clone());
        } else {
            self.gated.remove(&key);
        }
        if !node_of(new).is_empty() {
            self.queue.remove(&key);
            self.cache.forget_nomination(&key);
            self.cache.set_pod(new);
            if old.is_none_or(|old| node_of(old).is_empty()) {
                self.queue.wake(ClusterEvent::AssignedPodAdded, now);
            } else if old.is_some_and(|old| old.metadata().labels != new.metadata().labels) {
                self.queue.wake(ClusterEvent::AssignedPodLabels, now);
            }
            let frees = old.is_some_and(|old| {
                (is_finished(new) && !is_finished(old)) || resources::requests(old) != resources::requests(new)
            });
            if frees {
                self.queue.wake(ClusterEvent::AssignedPodGone, now);
            }
        } else if self.is_mine(new) && !is_gated(new) {
            if !self.cache.is_placed(&key) {
                let changes = old.map(|old| pending_pod_changes(old, new)).unwrap_or_default();
                self.queue.set(new.clone(), &changes, now);
                let info = Arc::new(PodInfo::new(new.clone()));
                let had = old.is_some_and(|old| nominated(old).is_some());
                // What this scheduler has promised and the watch does not show yet stays.
                if !info.nominated().is_empty() || had {
                    self.cache.nominate(&info, info.nominated());
                }
            }
        } else {
            self.queue.remove(&key);
            self.cache.forget_nomination(&key);
        }
    }

    /// Pods that name this scheduler, are not being deleted and have not finished.
    fn is_mine(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        let name = spec.scheduler_name.as_deref().unwrap_or_default();
        self.schedulers.iter().any(|own| own == name)
            && pod.metadata().deletion_timestamp.is_none()
            && !is_finished(pod)
    }

    /// The next pod to decide on, with the cluster as it is now.
    pub fn pop(&mut self, now: Instant) -> Option<(Arc<PodInfo>, Snapshot)> {
        let pod = self.queue.pop(now)?;
        Some((pod, self.cache.snapshot()))
    }

    /// What a pod that was popped has gone through.
    #[must_use]
    pub fn history(&self, key: &PodKey) -> Option<History> {
        self.queue.history(key)
    }

    /// When to call [`Self::pop`] again if nothing happens before.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.next_due()
    }

    /// A node was chosen; the pod counts there from now on. `false` if the pod went away while it was being decided on.
    pub fn assume(&mut self, pod: &PodInfo, node: &str) -> bool {
        let waiting = self.queue.contains(&pod.key);
        if waiting {
            self.cache.forget_nomination(&pod.key);
            self.cache.assume(pod, node);
        }
        waiting
    }

    /// Room is being made for a waiting pod on `node` (empty: not any more). The pods of lower priority to which the node
    /// was promised before; they must look elsewhere.
    pub fn nominate(&mut self, pod: &Arc<PodInfo>, node: &str) -> Vec<Arc<PodInfo>> {
        if !self.queue.contains(&pod.key) {
            return Vec::new();
        }
        let promised = self.cache.snapshot().nominated;
        let others = promised.get(node).into_iter().flatten();
        let lower: Vec<_> = others.filter(|p| p.priority < pod.priority).cloned().collect();
        for other in &lower {
            self.cache.nominate(other, "");
        }
        self.cache.nominate(pod, node);
        lower
    }

    /// Nobody's pod after all.
    pub fn dismiss(&mut self, key: &PodKey) {
        self.queue.remove(key);
        self.cache.forget_nomination(key);
    }

    /// No node was found.
    pub fn failed(&mut self, key: &PodKey, why: &Unschedulable, now: Instant) {
        self.queue.failed(key, why, now);
    }

    /// Binding failed: what was assumed is free again, and the pod is tried again later.
    pub fn binding_failed(&mut self, key: &PodKey, now: Instant) {
        self.cache.forget(key);
        self.queue.errored(key, now);
        self.queue.wake(ClusterEvent::AssignedPodGone, now);
    }

    #[must_use]
    pub fn seen(&self) -> Seen {
        let (nodes, pods, assumed) = self.cache.counts();
        Seen {
            waiting: self.queue.counts(),
            gated: self.gated.len(),
            nodes,
            pods,
            assumed,
            refused: self.queue.refused(),
            incoming: self.queue.incoming().clone(),
        }
    }
}

/// Whether some gate holds the pod back.
fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

fn nominated(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    status.nominated_node_name.as_deref().filter(|n| !n.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Placement, decide};
    use crate::plugins::ALL;
    use serde_json::{Value, json};

    fn pod(name: &str, extra: Value) -> Arc<Pod> {
        let mut spec = json!({"schedulerName": "default-scheduler", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        for (key, value) in extra.as_object().cloned().unwrap_or_default() {
            spec[key] = value;
        }
        Arc::new(
            Pod::from_value(&json!({"metadata": {"namespace": "d", "name": name, "uid": name}, "spec": spec})).unwrap(),
        )
    }

    fn node(cpu: &str) -> Arc<Node> {
        let object =
            json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}});
        Arc::new(Node::from_value(&object).unwrap())
    }

    /// Pops and decides once; the node's name, or nothing.
    fn step(state: &mut State, now: Instant) -> Option<String> {
        let (pod, snapshot) = state.pop(now)?;
        match decide(&crate::profiles::Config::default().profiles[0], &pod, &snapshot, 0, 0) {
            Placement::Node { name, .. } => state.assume(&pod, &name).then_some(name),
            Placement::Unschedulable(why) => {
                state.failed(&pod.key, &why, now);
                None
            }
        }
    }

    #[test]
    fn a_pod_that_does_not_fit_is_placed_once_another_leaves() {
        let (mut state, mut now) = (
            State::new(vec!["default-scheduler".into()], ALL, Backoff::default()),
            Instant::now(),
        );
        state.on_node(&Event::Added(node("1")), now);
        let running = pod("a", json!({"nodeName": "n"}));
        state.on_pod(&Event::Added(running.clone()), now);
        state.on_pod(&Event::Added(pod("b", json!({}))), now);
        assert_eq!(step(&mut state, now), None);
        now += std::time::Duration::from_secs(5);
        state.on_pod(&Event::Deleted(running), now);
        assert_eq!(step(&mut state, now).as_deref(), Some("n"));
    }

    #[test]
    fn a_pending_pod_is_placed_when_the_first_node_arrives() {
        let (mut state, mut now) = (
            State::new(vec!["default-scheduler".into()], ALL, Backoff::default()),
            Instant::now(),
        );
        state.on_pod(&Event::Added(pod("a", json!({}))), now);
        assert_eq!(step(&mut state, now), None);
        now += std::time::Duration::from_secs(2);
        state.on_node(&Event::Added(node("1")), now);
        assert_eq!(step(&mut state, now).as_deref(), Some("n"));
    }

    #[test]
    fn pods_of_others_gated_or_going_are_left_alone() {
        let (mut state, now) = (
            State::new(vec!["default-scheduler".into()], ALL, Backoff::default()),
            Instant::now(),
        );
        state.on_pod(&Event::Added(pod("a", json!({"schedulerName": "other"}))), now);
        state.on_pod(
            &Event::Added(pod("b", json!({"schedulingGates": [{"name": "x"}]}))),
            now,
        );
        let mut going = (*pod("c", json!({}))).clone();
        going.metadata.deletion_timestamp = Some(steersman_types::Time(steersman_types::jiff::Timestamp::UNIX_EPOCH));
        state.on_pod(&Event::Added(Arc::new(going)), now);
        assert!(state.pop(now).is_none());
        assert_eq!(state.seen().gated, 1);
        state.on_pod(&Event::Added(pod("b", json!({}))), now);
        assert_eq!((state.seen().gated, state.seen().waiting.active), (0, 1));
    }

    #[test]
    fn a_failed_binding_frees_the_node_and_tries_again() {
        let (mut state, mut now) = (
            State::new(vec!["default-scheduler".into()], ALL, Backoff::default()),
            Instant::now(),
        );
        state.on_node(&Event::Added(node("1")), now);
        let a = pod("a", json!({}));
        state.on_pod(&Event::Added(a.clone()), now);
        assert_eq!(step(&mut state, now).as_deref(), Some("n"));
        state.binding_failed(&PodKey::of(&a), now);
        now += std::time::Duration::from_secs(1);
        assert_eq!(step(&mut state, now).as_deref(), Some("n"));
    }
}
