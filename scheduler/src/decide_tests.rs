use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use steersman_types::Typed;
use steersman_types::api::core::v1::{Node, Pod};

use super::*;
use crate::plugins::ALL;
use crate::snapshot::Cache;

fn node(name: &str, extra: Value) -> Arc<Node> {
    let mut object = json!({"metadata": {"name": name}, "spec": {}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
    merge(&mut object, extra);
    Arc::new(Node::from_value(&object).unwrap())
}

fn pod(name: &str, spec: Value) -> PodInfo {
    let mut object =
        json!({"metadata": {"namespace": "d", "name": name, "uid": name}, "spec": {"containers": [{"name": "c"}]}});
    merge(&mut object["spec"], spec);
    PodInfo::new(Arc::new(Pod::from_value(&object).unwrap()))
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn cpu(amount: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
}

fn snapshot(nodes: Vec<Arc<Node>>, pods: Vec<PodInfo>) -> Snapshot {
    let mut cache = Cache::default();
    for node in nodes {
        cache.set_node(node);
    }
    for pod in pods {
        cache.set_pod(&pod.pod);
    }
    cache.snapshot()
}

fn check(pod: &PodInfo, snapshot: &Snapshot, expected: &str) {
    let text = match decide(ALL, pod, snapshot, 0, 0) {
        Placement::Node { name, .. } => name,
        Placement::Unschedulable(why) => why.message(),
    };
    assert_eq!(text, expected);
}

#[test]
fn messages_are_upstreams_word_for_word() {
    check(
        &pod("p", json!({})),
        &snapshot(vec![], vec![]),
        "no nodes available to schedule pods",
    );
    check(
        &pod("p", cpu("3")),
        &snapshot(vec![node("a", json!({})), node("b", json!({}))], vec![]),
        "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
    );
    let cordoned = json!({"spec": {"unschedulable": true}});
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    check(
        &pod("p", cpu("1")),
        &snapshot(
            vec![node("a", cordoned), node("b", tainted), node("c", json!({}))],
            vec![pod(
                "full",
                json!({"nodeName": "c", "containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}),
            )],
        ),
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.",
    );
    check(
        &pod("p", json!({"nodeSelector": {"disk": "ssd"}})),
        &snapshot(vec![node("a", json!({}))], vec![]),
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let mut held = port.clone();
    held["nodeName"] = json!("a");
    check(
        &pod("p", port),
        &snapshot(vec![node("a", json!({}))], vec![pod("q", held)]),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
}

#[test]
fn the_emptier_node_is_preferred() {
    let busy = pod(
        "q",
        json!({"nodeName": "a", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}),
    );
    let snapshot = snapshot(vec![node("a", json!({})), node("b", json!({}))], vec![busy]);
    check(&pod("p", cpu("500m")), &snapshot, "b");
}

#[test]
fn a_preferred_affinity_outweighs_an_emptier_node() {
    let term = json!({"weight": 100, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x"]}]}});
    let wish = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let zone = json!({"metadata": {"labels": {"zone": "x"}}});
    let busy = pod(
        "q",
        json!({"nodeName": "a", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}),
    );
    check(
        &pod("p", wish),
        &snapshot(vec![node("a", zone), node("b", json!({}))], vec![busy]),
        "a",
    );
}

#[test]
fn large_clusters_are_sampled_and_every_node_gets_its_turn() {
    let nodes: Vec<_> = (0..300).map(|i| node(&format!("n{i:03}"), json!({}))).collect();
    let snapshot = snapshot(nodes, vec![]);
    let Placement::Node { next_start, .. } = decide(ALL, &pod("p", json!({})), &snapshot, 250, 7) else {
        panic!("placed");
    };
    assert_eq!(next_start, (250 + enough(300)) % 300);
}

proptest! {
    #[test]
    fn no_node_is_ever_overcommitted(requests in prop::collection::vec((1u32..1500, any::<u64>()), 0..40)) {
        let mut cache = Cache::default();
        for name in ["a", "b", "c"] {
            cache.set_node(node(name, json!({})));
        }
        for (i, (milli, random)) in requests.into_iter().enumerate() {
            let pod = pod(&format!("p{i}"), cpu(&format!("{milli}m")));
            if let Placement::Node { name, .. } = decide(ALL, &pod, &cache.snapshot(), i, random) {
                cache.assume(&pod, &name);
            }
        }
        for node in cache.snapshot().nodes {
            prop_assert!(node.requested.milli_cpu <= node.allocatable.milli_cpu);
            prop_assert!(node.pods.len() as i64 <= node.allowed_pods);
        }
    }

    #[test]
    fn whoever_is_refused_is_refused_for_a_reason(milli in 1u32..6000, cordoned in any::<bool>()) {
        let nodes = vec![node("a", json!({"spec": {"unschedulable": cordoned}})), node("b", json!({}))];
        if let Placement::Unschedulable(why) = decide(ALL, &pod("p", cpu(&format!("{milli}m"))), &snapshot(nodes, vec![]), 0, 0) {
            prop_assert!(!why.rejected_by.is_empty());
            prop_assert!(why.reasons.values().sum::<usize>() >= why.nodes);
        }
    }
}
