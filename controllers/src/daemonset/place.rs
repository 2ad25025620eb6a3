//! On which nodes a DaemonSet's pods belong, and the pod for one node. Pure.

use steersman_types::api::apps::v1::DaemonSet;
use steersman_types::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::{fleet, nodes};

/// Label with the hash of the revision that a pod was made from.
pub const HASH: &str = "controller-revision-hash";
/// Label with the deprecated number of the template.
const GENERATION: &str = "pod-template-generation";
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const NAME: &str = "metadata.name";

/// Taints of a node in trouble that daemons endure, and their effects.
const ENDURED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// One more for those that use the node's own network.
const NO_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a node is to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// A pod should be there.
    pub run: bool,
    /// A pod that is there already may stay.
    pub stay: bool,
}

/// Adds what every daemon tolerates.
pub fn endure(spec: &mut PodSpec) {
    let network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in ENDURED.into_iter().chain(network.then_some(NO_NETWORK)) {
        let wanted = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        let same = |t: &&mut Toleration| {
            t.key == wanted.key
                && t.effect == wanted.effect
                && t.operator == wanted.operator
                && t.value.as_deref().unwrap_or_default().is_empty()
        };
        match tolerations.iter_mut().find(same) {
            Some(there) => *there = wanted,
            None => tolerations.push(wanted),
        }
    }
}

/// The template's pod spec with the tolerations that its pods will have; made once and compared with every node.
#[must_use]
pub fn probe(set: &DaemonSet) -> PodSpec {
    let mut spec = set
        .spec
        .as_ref()
        .and_then(|s| s.template.spec.clone())
        .unwrap_or_default();
    endure(&mut spec);
    spec
}

/// Whether pods with this spec (see [`probe`]) belong on the node.
#[must_use]
pub fn fit(spec: &PodSpec, node: &Node) -> Fit {
    let no = Fit {
        run: false,
        stay: false,
    };
    let bound = spec.node_name.as_deref().unwrap_or_default();
    if !bound.is_empty() && node.metadata.name.as_deref() != Some(bound) || !nodes::attracted(node, spec) {
        return no;
    }
    if !nodes::repelled(node, spec, &["NoSchedule", "NoExecute"]) {
        return Fit { run: true, stay: true };
    }
    Fit {
        run: false,
        stay: !nodes::repelled(node, spec, &["NoExecute"]),
    }
}

/// The deprecated number of the template, when the set still has one.
fn generation(set: &DaemonSet) -> Option<i64> {
    set.metadata
        .annotations
        .as_ref()?
        .get(TEMPLATE_GENERATION)?
        .parse()
        .ok()
}

/// Whether the pod was made from the revision with this hash.
#[must_use]
pub fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let label = |key: &str| {
        pod.metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(key))
            .map(String::as_str)
    };
    let by_hash = !hash.is_empty() && label(HASH) == Some(hash);
    by_hash || generation(set).is_some_and(|number| label(GENERATION) == Some(number.to_string().as_str()))
}

/// The pod for one node: the default scheduler brings it there because its affinity names the node.
#[must_use]
pub fn pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = fleet::pod_from_template(&template, set);
    let labels = pod.metadata.labels.get_or_insert_default();
    if let Some(number) = generation(set) {
        labels.insert(GENERATION.to_owned(), number.to_string());
    }
    labels.insert(HASH.to_owned(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    endure(spec);
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let affinity = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![NodeSelectorRequirement {
                key: NAME.to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
        }],
    });
    pod
}

/// The node that a pod is on, or will be; `None` for a pod that names none.
#[must_use]
pub fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields = required
        .node_selector_terms
        .iter()
        .flat_map(|t| t.match_fields.iter().flatten());
    let named = fields.find(|r| r.key == NAME && r.operator == "In")?;
    match named.values.as_deref()? {
        [node] => Some(node),
        _ => None,
    }
}
