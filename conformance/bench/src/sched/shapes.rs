//! The shapes of upstream's scheduler_perf, at its size of 500 nodes and some at 5000: what is created, and what a right
//! answer looks like.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One workload: nodes, pods that are there before, pods whose scheduling is measured.
pub struct Shape {
    /// As scheduler_perf calls it.
    pub name: &'static str,
    pub nodes: usize,
    /// Nodes are given these in turn.
    pub zones: &'static [&'static str],
    pub before: usize,
    pub measured: usize,
    /// Whether the pods that are there before find a node.
    pub before_fit: bool,
    pub before_pod: fn() -> Value,
    pub measured_pod: fn() -> Value,
    /// A pod that a scheduler which knows the shape's constraint finds unschedulable: one that ignores it is no faster.
    pub refused_pod: Option<fn() -> Value>,
    /// Of a result that is right; gets the bound pods, of both kinds.
    pub holds: fn(&Placed) -> bool,
}

/// Where pods ended: name of the node and of its zone.
#[derive(Debug, Default)]
pub struct Placed {
    pub measured: Vec<(String, String)>,
    pub before: Vec<(String, String)>,
}

impl Placed {
    fn most_on_one_node(&self) -> usize {
        let mut count = BTreeMap::<&str, usize>::new();
        for (node, _) in self.measured.iter().chain(&self.before) {
            *count.entry(node).or_default() += 1;
        }
        count.into_values().max().unwrap_or_default()
    }
}

/// Namespaces of the pods before and of the measured ones.
pub const NAMESPACES: [&str; 2] = ["sched-0", "sched-1"];
/// Whose value is 10.
pub const PRIORITY: &str = "bench-high";

fn pod(cpu: &str, labels: &Value, more: Value) -> Value {
    let resources = json!({"cpu": cpu, "memory": "500Mi"});
    let mut spec = json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10.2",
        "ports": [{"containerPort": 80}], "resources": {"limits": resources, "requests": resources}}]});
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "pod-", "labels": labels}, "spec": spec})
}

fn plain() -> Value {
    pod("100m", &json!({}), json!({}))
}

fn node_affinity() -> Value {
    let term = json!({"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone1", "zone2"]}]});
    pod(
        "100m",
        &json!({}),
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}),
    )
}

fn term(color: &str, topology: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": topology, "namespaces": NAMESPACES})
}

fn required(kind: &str, color: &str, topology: &str) -> Value {
    let terms = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term(color, topology)]});
    pod("100m", &json!({"color": color}), json!({"affinity": {kind: terms}}))
}

fn preferred(kind: &str, color: &str) -> Value {
    let terms = json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term(color, "kubernetes.io/hostname")}]});
    pod("100m", &json!({"color": color}), json!({"affinity": {kind: terms}}))
}

fn spread(when: &str) -> Value {
    let constraint = json!({"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"color": "blue"}}});
    pod(
        "100m",
        &json!({"color": "blue"}),
        json!({"topologySpreadConstraints": [constraint]}),
    )
}

/// Wants to be where no pod is.
fn lonely() -> Value {
    let terms = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term("none", "kubernetes.io/hostname")]});
    pod(
        "100m",
        &json!({"color": "other"}),
        json!({"affinity": {"podAffinity": terms}}),
    )
}

/// Wants to be spread over what no node has.
fn nowhere() -> Value {
    let constraint = json!({"maxSkew": 1, "topologyKey": "example.com/nothing", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"color": "other"}}});
    pod(
        "100m",
        &json!({"color": "other"}),
        json!({"topologySpreadConstraints": [constraint]}),
    )
}

fn always(_: &Placed) -> bool {
    true
}

fn skew_at_most_five(placed: &Placed) -> bool {
    let mut count: BTreeMap<&str, usize> = MOONS.iter().map(|moon| (*moon, 0)).collect();
    for (_, zone) in &placed.measured {
        *count.entry(zone).or_default() += 1;
    }
    let (least, most) = (count.values().min(), count.values().max());
    least.zip(most).is_some_and(|(least, most)| most - least <= 5)
}

const MOONS: &[&str] = &["moon-1", "moon-2", "moon-3"];

pub const ALL: &[Shape] = &[
    Shape {
        name: "SchedulingBasic",
        nodes: 500,
        zones: &[],
        before: 500,
        measured: 1000,
        before_fit: true,
        before_pod: plain,
        measured_pod: plain,
        refused_pod: None,
        holds: always,
    },
    Shape {
        name: "SchedulingBasic, 5000 nodes",
        nodes: 5000,
        zones: &[],
        before: 1000,
        measured: 1000,
        before_fit: true,
        before_pod: plain,
        measured_pod: plain,
        refused_pod: None,
        holds: always,
    },
    Shape {
        name: "SchedulingNodeAffinity",
        nodes: 500,
        zones: &["zone1"],
        before: 500,
        measured: 1000,
        before_fit: true,
        before_pod: plain,
        measured_pod: node_affinity,
        refused_pod: None,
        holds: always,
    },
    Shape {
        name: "SchedulingPodAntiAffinity",
        nodes: 500,
        zones: &[],
        before: 100,
        measured: 400,
        before_fit: true,
        before_pod: || required("podAntiAffinity", "green", "kubernetes.io/hostname"),
        measured_pod: || required("podAntiAffinity", "green", "kubernetes.io/hostname"),
        refused_pod: Some(lonely),
        holds: |placed| placed.most_on_one_node() <= 1,
    },
    Shape {
        name: "SchedulingPodAffinity",
        nodes: 500,
        zones: &["zone1"],
        before: 500,
        measured: 1000,
        before_fit: true,
        before_pod: || required("podAffinity", "blue", "topology.kubernetes.io/zone"),
        measured_pod: || required("podAffinity", "blue", "topology.kubernetes.io/zone"),
        refused_pod: Some(lonely),
        holds: always,
    },
    Shape {
        name: "SchedulingPreferredPodAffinity",
        nodes: 500,
        zones: &[],
        before: 500,
        measured: 1000,
        before_fit: true,
        before_pod: || preferred("podAffinity", "red"),
        measured_pod: || preferred("podAffinity", "red"),
        refused_pod: Some(lonely),
        // Without the preference nothing brings two pods together.
        holds: |placed| placed.most_on_one_node() >= 10,
    },
    Shape {
        name: "SchedulingPreferredPodAntiAffinity",
        nodes: 500,
        zones: &[],
        before: 500,
        measured: 1000,
        before_fit: true,
        before_pod: || preferred("podAntiAffinity", "yellow"),
        measured_pod: || preferred("podAntiAffinity", "yellow"),
        refused_pod: Some(lonely),
        holds: |placed| placed.most_on_one_node() <= 6,
    },
    Shape {
        name: "TopologySpreading",
        nodes: 500,
        zones: MOONS,
        before: 1000,
        measured: 1000,
        before_fit: true,
        before_pod: plain,
        measured_pod: || spread("DoNotSchedule"),
        refused_pod: Some(nowhere),
        holds: skew_at_most_five,
    },
    Shape {
        name: "PreferredTopologySpreading",
        nodes: 500,
        zones: MOONS,
        before: 1000,
        measured: 1000,
        before_fit: true,
        before_pod: plain,
        measured_pod: || spread("ScheduleAnyway"),
        refused_pod: Some(nowhere),
        holds: always,
    },
    Shape {
        name: "PreemptionBasic",
        nodes: 500,
        zones: &[],
        before: 2000,
        measured: 500,
        before_fit: true,
        before_pod: || pod("900m", &json!({}), json!({})),
        measured_pod: || pod("3000m", &json!({}), json!({"priorityClassName": PRIORITY})),
        refused_pod: None,
        // A node has four cores: one of the new pods and one of the old.
        holds: |placed| placed.before.len() <= 500 && placed.most_on_one_node() <= 2,
    },
    Shape {
        name: "Unschedulable",
        nodes: 500,
        zones: &[],
        before: 200,
        measured: 1000,
        before_fit: false,
        before_pod: || pod("9", &json!({}), json!({"priorityClassName": PRIORITY})),
        measured_pod: plain,
        refused_pod: None,
        holds: always,
    },
    Shape {
        name: "SchedulingPodAntiAffinity, 5000 nodes",
        nodes: 5000,
        zones: &[],
        before: 1000,
        measured: 1000,
        before_fit: true,
        before_pod: || required("podAntiAffinity", "green", "kubernetes.io/hostname"),
        measured_pod: || required("podAntiAffinity", "green", "kubernetes.io/hostname"),
        refused_pod: Some(lonely),
        holds: |placed| placed.most_on_one_node() <= 1,
    },
    Shape {
        name: "TopologySpreading, 5000 nodes",
        nodes: 5000,
        zones: MOONS,
        before: 1000,
        measured: 1000,
        before_fit: true,
        before_pod: plain,
        measured_pod: || spread("DoNotSchedule"),
        refused_pod: Some(nowhere),
        holds: skew_at_most_five,
    },
    Shape {
        name: "SchedulingPreferredPodAffinity, 5000 nodes",
        nodes: 5000,
        zones: &[],
        before: 1000,
        measured: 1000,
        before_fit: true,
        before_pod: || preferred("podAffinity", "red"),
        measured_pod: || preferred("podAffinity", "red"),
        refused_pod: Some(lonely),
        holds: |placed| placed.most_on_one_node() >= 10,
    },
    Shape {
        name: "Unschedulable, 5000 nodes",
        nodes: 5000,
        zones: &[],
        before: 200,
        measured: 1000,
        before_fit: false,
        before_pod: || pod("9", &json!({}), json!({"priorityClassName": PRIORITY})),
        measured_pod: plain,
        refused_pod: None,
        holds: always,
    },
];

/// A node as scheduler_perf makes it.
pub fn node(i: usize, zones: &[&str]) -> Value {
    let name = format!("fake-{i}");
    let mut labels = json!({"kubernetes.io/hostname": name, "bench": "fake"});
    if let Some(zone) = zones.get(i % zones.len().max(1)) {
        labels["topology.kubernetes.io/zone"] = json!(zone);
    }
    let room = json!({"pods": "110", "cpu": "4", "memory": "32Gi"});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_pods_fit_the_nodes_that_are_there() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|s| s.before + s.measured <= s.nodes * 40));
    }

    #[test]
    fn a_skew_is_counted_over_every_zone() {
        let at = |zone: &str, n: usize| vec![("node".to_owned(), zone.to_owned()); n];
        let placed = |parts: [usize; 3]| Placed {
            measured: MOONS.iter().zip(parts).flat_map(|(zone, n)| at(zone, n)).collect(),
            before: Vec::new(),
        };
        assert!(skew_at_most_five(&placed([3, 5, 8])));
        assert!(!skew_at_most_five(&placed([0, 5, 6])));
    }
}
