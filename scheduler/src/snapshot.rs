//! The scheduler's picture of the cluster: nodes, and what the pods on them hold.
//!
//! [`Cache`] follows the informers and remembers pods that were *assumed*: placed by this scheduler, but not yet seen
//! bound by a watch. A [`Snapshot`] is what one scheduling decision reads: immutable, and free of cost as long as it is
//! dropped before the next change (the lists are the cache's own then; otherwise they are copied). No clock, no client.

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
    pub images: BTreeMap<String, i64>,
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
            images: BTreeMap::new(),
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
    pub nodes: Arc<Vec<Arc<NodeInfo>>>,
    /// How many pods on them have an opinion about other pods.
    pub opinionated: usize,
    /// How many of them hold an image, by every name it goes by.
    pub image_holders: Arc<HashMap<String, usize>>,
    pub namespaces: Arc<Namespaces>,
    /// By node: waiting pods for which room was made there.
    pub nominated: Arc<BTreeMap<String, Vec<Arc<PodInfo>>>>,
    pub budgets: Arc<Vec<Budget>>,
}

/// The scheduler's memory. Fed by informers, by assuming and by forgetting.
#[derive(Debug, Default)]
pub struct Cache {
    /// Nodes that exist, sorted by name.
    nodes: Arc<Vec<Arc<NodeInfo>>>,
    /// Nodes that do not, with the pods that are said to be there.
    ghosts: BTreeMap<String, NodeInfo>,
    /// Of existing nodes.
    opinionated: usize,
    image_holders: Arc<HashMap<String, usize>>,
    /// Where each known pod stands.
    placed: HashMap<PodKey, Placed>,
    namespaces: Arc<Namespaces>,
    nominated: Arc<BTreeMap<String, Vec<Arc<PodInfo>>>>,
    budgets: BTreeMap<(String, String), Budget>,
    listed_budgets: Arc<Vec<Budget>>,
}

#[derive(Debug)]
struct Placed {
    node: String,
    assumed: bool,
}

impl Cache {
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata().name.clone().unwrap_or_default();
        let nodes = Arc::make_mut(&mut self.nodes);
        let at = match position(nodes, &name) {
            Ok(at) => at,
            Err(at) => {
                let info = self.ghosts.remove(&name).unwrap_or_else(|| NodeInfo::named(&name));
                self.opinionated += info.opinionated;
                nodes.insert(at, Arc::new(info));
                at
            }
        };
        let info = Arc::make_mut(&mut nodes[at]);
        let before = std::mem::take(&mut info.images);
        info.set_node(node);
        if !before.keys().eq(info.images.keys()) {
            let holders = Arc::make_mut(&mut self.image_holders);
            before.keys().for_each(|image| forget_holder(holders, image));
            for image in info.images.keys() {
                *holders.entry(image.clone()).or_default() += 1;
            }
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        let nodes = Arc::make_mut(&mut self.nodes);
        let Ok(at) = position(nodes, name) else { return };
        let mut info = Arc::unwrap_or_clone(nodes.remove(at));
        self.opinionated -= info.opinionated;
        let holders = Arc::make_mut(&mut self.image_holders);
        info.images.keys().for_each(|image| forget_holder(holders, image));
        info.images.clear();
        info.node = None;
        if !info.pods.is_empty() {
            self.ghosts.insert(name.to_owned(), info);
        }
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
            self.change(&placed.node, |node| {
                node.remove(key);
            });
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
        let namespaces = Arc::make_mut(&mut self.namespaces);
        match labels {
            Some(labels) => namespaces.insert(name.to_owned(), labels),
            None => namespaces.remove(name),
        };
    }

    /// A PodDisruptionBudget; `None` when it is gone.
    pub fn set_budget(&mut self, namespace: &str, name: &str, budget: Option<Budget>) {
        let key = (namespace.to_owned(), name.to_owned());
        match budget {
            Some(budget) => self.budgets.insert(key, budget),
            None => self.budgets.remove(&key),
        };
        self.listed_budgets = Arc::new(self.budgets.values().cloned().collect());
    }

    /// Room was made for a waiting pod on `node`; empty: not any more.
    pub fn nominate(&mut self, pod: &Arc<PodInfo>, node: &str) {
        let here = |pods: &Vec<Arc<PodInfo>>| pods.iter().any(|p| p.key == pod.key);
        if node.is_empty() && !self.nominated.values().any(here) {
            return;
        }
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

    /// The current state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            nodes: self.nodes.clone(),
            opinionated: self.opinionated,
            image_holders: self.image_holders.clone(),
            namespaces: self.namespaces.clone(),
            nominated: self.nominated.clone(),
            budgets: self.listed_budgets.clone(),
        }
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
        self.change(&node, |node| node.add(Arc::new(info)));
    }

    /// Changes the pods of a node. Snapshots that share it keep the old state.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut NodeInfo)) {
        if let Ok(at) = position(&self.nodes, name) {
            let info = Arc::make_mut(&mut Arc::make_mut(&mut self.nodes)[at]);
            let before = info.opinionated;
            change(info);
            self.opinionated = self.opinionated + info.opinionated - before;
            return;
        }
        let ghost = self.ghosts.entry(name.to_owned());
        let ghost = ghost.or_insert_with(|| NodeInfo::named(name));
        change(ghost);
        if ghost.pods.is_empty() {
            self.ghosts.remove(name);
        }
    }
}

fn position(nodes: &[Arc<NodeInfo>], name: &str) -> Result<usize, usize> {
    nodes.binary_search_by(|node| node.name.as_str().cmp(name))
}

fn forget_holder(holders: &mut HashMap<String, usize>, image: &str) {
    if let Some(count) = holders.get_mut(image) {
        *count -= 1;
        if *count == 0 {
            holders.remove(image);
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
        let status = json!({"allocatable": {"cpu": "4", "memory": "1Gi", "pods": "10"},
            "images": [{"names": ["i:1", "i@sha256:x"], "sizeBytes": 5}]});
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
            prop_assert!(cache.nodes.is_sorted_by_key(|n| &n.name) && cache.nodes.iter().all(|n| n.node.is_some()));
            prop_assert!(cache.ghosts.values().all(|n| n.node.is_none() && !n.pods.is_empty()));
            prop_assert_eq!(cache.image_holders.get("i:1").copied().unwrap_or_default(), cache.nodes.len());
            for node in cache.nodes.iter().map(AsRef::as_ref).chain(cache.ghosts.values()) {
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
