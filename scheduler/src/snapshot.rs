//! The scheduler's picture of the cluster: nodes, and what the pods on them hold.
//!
//! [`Cache`] follows the informers and remembers pods that were *assumed*: placed by this scheduler, but not yet seen
//! bound by a watch. A [`Snapshot`] is what one scheduling decision reads: cheap (a list of shared nodes), immutable.
//! No clock, no client.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use steersman_schema::quantity::Quantity;
use steersman_types::Typed;
use steersman_types::api::core::v1::{Node, Pod};

use crate::pod::{HostPort, PodInfo, PodKey, is_finished};
use crate::resources::Resources;
use crate::selector::Labels;

/// A node and the sum of what is on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub name: String,
    /// `None` while pods are known for a node that is not (or no longer) there: such a node gets no pods.
    pub node: Option<Arc<Node>>,
    pub pods: BTreeMap<PodKey, Arc<PodInfo>>,
    pub allocatable: Resources,
    /// Most pods that the node takes.
    pub allowed_pods: i64,
    pub requested: Resources,
    pub non_zero_milli_cpu: i64,
    pub non_zero_memory: i64,
    pub host_ports: Vec<HostPort>,
    /// How many of its pods have an opinion about other pods.
    pub opinionated: usize,
    /// Bytes of each image that the node holds, by every name it goes by.
    pub images: HashMap<String, i64>,
}

impl NodeInfo {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: None,
            pods: BTreeMap::new(),
            allocatable: Resources::default(),
            allowed_pods: 0,
            requested: Resources::default(),
            non_zero_milli_cpu: 0,
            non_zero_memory: 0,
            host_ports: Vec::new(),
            opinionated: 0,
            images: HashMap::new(),
        }
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref());
        self.allocatable = allocatable.map(Resources::from_map).unwrap_or_default();
        self.allowed_pods = allocatable
            .and_then(|a| a.get("pods"))
            .and_then(|q| Quantity::parse(&q.0).ok())
            .map_or(0, |q| q.value());
        self.images.clear();
        for image in status.and_then(|s| s.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                self.images.insert(name.clone(), image.size_bytes.unwrap_or_default());
            }
        }
        self.node = Some(node);
    }

    /// The value of one of its labels.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.label_pair(key).map(|(_, value)| value)
    }

    /// One of its labels, key and value.
    #[must_use]
    pub fn label_pair(&self, key: &str) -> Option<(&str, &str)> {
        let labels = self.node.as_ref()?.metadata().labels.as_ref()?;
        labels
            .get_key_value(key)
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.key);
        self.opinionated += usize::from(pod.terms.any());
        self.requested.add(&pod.requests.exact);
        self.non_zero_milli_cpu += pod.requests.non_zero_milli_cpu;
        self.non_zero_memory += pod.requests.non_zero_memory;
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods.insert(pod.key.clone(), pod);
    }

    pub(crate) fn remove(&mut self, key: &PodKey) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        self.opinionated -= usize::from(pod.terms.any());
        self.requested.subtract(&pod.requests.exact);
        self.non_zero_milli_cpu -= pod.requests.non_zero_milli_cpu;
        self.non_zero_memory -= pod.requests.non_zero_memory;
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|p| p == port) {
                self.host_ports.swap_remove(at);
            }
        }
        Some(pod)
    }

    fn is_empty(&self) -> bool {
        self.node.is_none() && self.pods.is_empty()
    }
}

/// Labels of namespaces, by name.
pub type Namespaces = BTreeMap<String, Labels>;

/// How many more pods a PodDisruptionBudget lets go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Budget {
    pub namespace: String,
    pub selector: Option<steersman_types::LabelSelector>,
    pub allowed: i32,
    /// Pods that were let go already.
    pub disrupted: BTreeSet<String>,
}

/// What one decision sees.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Nodes that exist, sorted by name.
    pub nodes: Vec<Arc<NodeInfo>>,
    pub namespaces: Arc<Namespaces>,
    /// By node: waiting pods for which room was made there.
    pub nominated: Arc<BTreeMap<String, Vec<Arc<PodInfo>>>>,
    pub budgets: Arc<Vec<Budget>>,
}

/// The scheduler's memory. Fed by informers, by assuming and by forgetting.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: BTreeMap<String, Arc<NodeInfo>>,
    /// Where each known pod stands.
    placed: HashMap<PodKey, Placed>,
    namespaces: Arc<Namespaces>,
    nominated: Arc<BTreeMap<String, Vec<Arc<PodInfo>>>>,
    budgets: BTreeMap<(String, String), Budget>,
    snapshot: Option<Snapshot>,
}

#[derive(Debug)]
struct Placed {
    node: String,
    assumed: bool,
}

impl Cache {
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata().name.clone().unwrap_or_default();
        self.node_mut(&name).set_node(node);
    }

    pub fn remove_node(&mut self, name: &str) {
        let info = self.node_mut(name);
        info.node = None;
        self.drop_if_empty(name);
    }

    /// A pod that a watch showed. Confirms an assumption, moves or removes as the object says. Pods that have finished
    /// hold nothing.
    pub fn set_pod(&mut self, pod: &Arc<Pod>) {
        let info = PodInfo::new(pod.clone());
        if info.node().is_empty() {
            // Not bound as far as this watch has come; an assumption made since stays.
            return;
        }
        if is_finished(pod) {
            self.remove_pod(&info.key);
            return;
        }
        self.place(info, false);
    }

    /// Forgets a pod that was deleted, has finished, or whose binding failed.
    pub fn remove_pod(&mut self, key: &PodKey) {
        if let Some(placed) = self.placed.remove(key) {
            self.node_mut(&placed.node).remove(key);
            self.drop_if_empty(&placed.node);
        }
    }

    /// Counts a pod on a node before its binding is known to have succeeded.
    pub fn assume(&mut self, pod: &PodInfo, node: &str) {
        let mut object = (*pod.pod).clone();
        if let Some(spec) = &mut object.spec {
            spec.node_name = Some(node.to_owned());
        }
        let info = PodInfo {
            pod: Arc::new(object),
            ..pod.clone()
        };
        self.place(info, true);
    }

    /// Takes an assumption back; nothing happens if the binding was seen in the meantime.
    pub fn forget(&mut self, key: &PodKey) {
        if self.placed.get(key).is_some_and(|p| p.assumed) {
            self.remove_pod(key);
        }
    }

    /// A namespace's labels; `None` when it is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        self.snapshot = None;
        let namespaces = Arc::make_mut(&mut self.namespaces);
        match labels {
            Some(labels) => namespaces.insert(name.to_owned(), labels),
            None => namespaces.remove(name),
        };
    }

    /// A PodDisruptionBudget; `None` when it is gone.
    pub fn set_budget(&mut self, namespace: &str, name: &str, budget: Option<Budget>) {
        self.snapshot = None;
        let key = (namespace.to_owned(), name.to_owned());
        match budget {
            Some(budget) => self.budgets.insert(key, budget),
            None => self.budgets.remove(&key),
        };
    }

    /// Room was made for a waiting pod on `node`; empty: not any more.
    pub fn nominate(&mut self, pod: &Arc<PodInfo>, node: &str) {
        let here = |pods: &Vec<Arc<PodInfo>>| pods.iter().any(|p| p.key == pod.key);
        if node.is_empty() && !self.nominated.values().any(here) {
            return;
        }
        self.snapshot = None;
        let nominated = Arc::make_mut(&mut self.nominated);
        nominated.retain(|_, pods| {
            pods.retain(|p| p.key != pod.key);
            !pods.is_empty()
        });
        if !node.is_empty() {
            nominated.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }

    /// The pod does not wait any more.
    pub fn forget_nomination(&mut self, key: &PodKey) {
        let known = self.nominated.values().flatten().find(|p| p.key == *key).cloned();
        if let Some(pod) = known {
            self.nominate(&pod, "");
        }
    }

    /// Whether the pod is bound or assumed to be.
    #[must_use]
    pub fn is_placed(&self, key: &PodKey) -> bool {
        self.placed.contains_key(key)
    }

    /// Nodes, pods on nodes, and how many of these are assumed.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let assumed = self.placed.values().filter(|p| p.assumed).count();
        (self.nodes.len(), self.placed.len(), assumed)
    }

    /// The current state, shared until the next change.
    pub fn snapshot(&mut self) -> Snapshot {
        if let Some(snapshot) = &self.snapshot {
            return snapshot.clone();
        }
        let snapshot = Snapshot {
            nodes: self.nodes.values().filter(|n| n.node.is_some()).cloned().collect(),
            namespaces: self.namespaces.clone(),
            nominated: self.nominated.clone(),
            budgets: Arc::new(self.budgets.values().cloned().collect()),
        };
        self.snapshot = Some(snapshot.clone());
        snapshot
    }

    fn place(&mut self, info: PodInfo, assumed: bool) {
        let node = info.node().to_owned();
        if self.placed.get(&info.key).is_some_and(|p| p.node != node) {
            self.remove_pod(&info.key);
        }
        self.placed.insert(
            info.key.clone(),
            Placed {
                node: node.clone(),
                assumed,
            },
        );
        self.node_mut(&node).add(Arc::new(info));
    }

    /// Gives a node to change. Snapshots that share it keep the old state.
    fn node_mut(&mut self, name: &str) -> &mut NodeInfo {
        self.snapshot = None;
        let node = self
            .nodes
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(NodeInfo::named(name)));
        Arc::make_mut(node)
    }

    fn drop_if_empty(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|n| n.is_empty()) {
            self.nodes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(uid: u8, node: Option<u8>, cpu: u8, phase: &str) -> Arc<Pod> {
        let spec = json!({"nodeName": node.map(|n| format!("n{n}")), "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu.to_string()}},
            "ports": [{"containerPort": 80, "hostPort": 8000 + u16::from(cpu)}]}]});
        Arc::new(Pod::from_value(&json!({"metadata": {"namespace": "d", "name": format!("p{uid}"), "uid": uid.to_string()}, "spec": spec, "status": {"phase": phase}})).unwrap())
    }

    fn node(name: u8) -> Arc<Node> {
        let status = json!({"allocatable": {"cpu": "4", "memory": "1Gi", "pods": "10"}});
        Arc::new(Node::from_value(&json!({"metadata": {"name": format!("n{name}")}, "status": status})).unwrap())
    }

    #[test]
    fn an_assumed_pod_counts_until_it_is_forgotten_and_stays_once_seen() {
        let mut cache = Cache::default();
        cache.set_node(node(1));
        let pending = PodInfo::new(pod(1, None, 2, "Pending"));
        cache.assume(&pending, "n1");
        assert_eq!(cache.snapshot().nodes[0].requested.milli_cpu, 2000);
        cache.set_pod(&pod(1, None, 2, "Pending"));
        assert_eq!(cache.snapshot().nodes[0].requested.milli_cpu, 2000);
        cache.set_pod(&pod(1, Some(1), 2, "Pending"));
        cache.forget(&pending.key);
        assert_eq!(cache.snapshot().nodes[0].requested.milli_cpu, 2000);
        cache.remove_pod(&pending.key);
        assert_eq!(cache.snapshot().nodes[0].requested, Resources::default());
    }

    #[test]
    fn a_snapshot_does_not_change_under_its_reader() {
        let mut cache = Cache::default();
        cache.set_node(node(1));
        let before = cache.snapshot();
        cache.set_pod(&pod(1, Some(1), 1, "Running"));
        assert!(before.nodes[0].pods.is_empty() && cache.snapshot().nodes[0].pods.len() == 1);
    }

    proptest! {
        #[test]
        fn sums_equal_a_recount_after_any_events(events in prop::collection::vec((0u8..6, 0u8..3, 1u8..4, 0u8..6), 0..60)) {
            let mut cache = Cache::default();
            for (uid, n, cpu, what) in events {
                match what {
                    0 => cache.set_node(node(n)),
                    1 => cache.remove_node(&format!("n{n}")),
                    2 => cache.remove_pod(&PodInfo::new(pod(uid, None, cpu, "")).key),
                    3 => cache.assume(&PodInfo::new(pod(uid, None, cpu, "")), &format!("n{n}")),
                    4 => cache.set_pod(&pod(uid, Some(n), cpu, "Succeeded")),
                    _ => cache.set_pod(&pod(uid, Some(n), cpu, "Running")),
                }
            }
            let mut seen = 0;
            for node in cache.nodes.values() {
                let sum: i64 = node.pods.values().map(|p| p.requests.exact.milli_cpu).sum();
                prop_assert_eq!(sum, node.requested.milli_cpu);
                prop_assert_eq!(node.pods.len(), node.host_ports.len());
                prop_assert!(node.pods.values().all(|p| p.node() == node.name));
                seen += node.pods.len();
            }
            prop_assert_eq!(seen, cache.placed.len());
        }
    }
}
