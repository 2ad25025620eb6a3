use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use steersman_types::Typed;
use steersman_types::api::core::v1::{Node, Pod};

use super::*;
use crate::snapshot::Cache;

fn profile() -> Profile {
    crate::profiles::Config::default().profiles.remove(0)
}

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
    let text = match decide(&profile(), pod, snapshot, 0, 0) {
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
    let Placement::Node { next_start, .. } = decide(&profile(), &pod("p", json!({})), &snapshot, 250, 7) else {
        panic!("placed");
    };
    assert_eq!(next_start, (250 + enough(300, 0)) % 300);
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
            if let Placement::Node { name, .. } = decide(&profile(), &pod, &cache.snapshot(), i, random) {
                cache.assume(&pod, &name);
            }
        }
        for node in cache.snapshot().nodes.iter() {
            prop_assert!(node.requested.milli_cpu <= node.allocatable.milli_cpu);
            prop_assert!(node.pods.len() as i64 <= node.allowed_pods);
        }
    }

    #[test]
    fn whoever_is_refused_is_refused_for_a_reason(milli in 1u32..6000, cordoned in any::<bool>()) {
        let nodes = vec![node("a", json!({"spec": {"unschedulable": cordoned}})), node("b", json!({}))];
        if let Placement::Unschedulable(why) = decide(&profile(), &pod("p", cpu(&format!("{milli}m"))), &snapshot(nodes, vec![]), 0, 0) {
            prop_assert!(!why.rejected_by.is_empty());
            prop_assert!(why.reasons.values().sum::<usize>() >= why.nodes);
        }
    }
}

fn labelled(name: &str, app: &str, spec: Value) -> PodInfo {
    let mut object = json!({"metadata": {"namespace": "d", "name": name, "uid": name, "labels": {"app": app}}, "spec": {"containers": [{"name": "c"}]}});
    merge(&mut object["spec"], spec);
    PodInfo::new(Arc::new(Pod::from_value(&object).unwrap()))
}

fn zoned(name: &str, zone: &str) -> Arc<Node> {
    node(
        name,
        json!({"metadata": {"labels": {"zone": zone, "kubernetes.io/hostname": name}}}),
    )
}

fn affinity(kind: &str, app: &str) -> Value {
    let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}});
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

fn on(mut spec: Value, node: &str) -> Value {
    spec["nodeName"] = json!(node);
    spec
}

#[test]
fn pods_that_want_others_near_or_away_get_it() {
    let nodes = || vec![zoned("a", "x"), zoned("b", "y")];
    let db = || labelled("db", "db", on(json!({}), "b"));
    let near = labelled("p", "web", affinity("podAffinity", "db"));
    check(&near, &snapshot(nodes(), vec![db()]), "b");
    let apart = labelled("p", "web", affinity("podAntiAffinity", "db"));
    check(&apart, &snapshot(nodes(), vec![db()]), "a");
    // The pod that is there does not want the new one.
    let shy = labelled("shy", "shy", on(affinity("podAntiAffinity", "web"), "a"));
    check(
        &labelled("p", "web", json!({})),
        &snapshot(nodes(), vec![shy.clone()]),
        "b",
    );
    check(
        &labelled("p", "web", json!({})),
        &snapshot(vec![zoned("a", "x")], vec![shy]),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    check(
        &near,
        &snapshot(nodes(), vec![]),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
    );
    // The first of a series may start anywhere.
    let first = labelled("p", "web", affinity("podAffinity", "web"));
    assert!(matches!(
        decide(&profile(), &first, &snapshot(nodes(), vec![]), 0, 0),
        Placement::Node { .. }
    ));
}

#[test]
fn a_wish_to_be_near_decides_between_nodes_that_fit() {
    let wish = |kind: &str| {
        let term = json!({"weight": 100, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}});
        labelled(
            "p",
            "web",
            json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}}),
        )
    };
    let there = || {
        snapshot(
            vec![zoned("a", "x"), zoned("b", "y")],
            vec![labelled("db", "db", on(json!({}), "b"))],
        )
    };
    check(&wish("podAffinity"), &there(), "b");
    check(&wish("podAntiAffinity"), &there(), "a");
}

fn spread(when: &str, skew: u32) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": skew, "topologyKey": "zone", "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "web"}}}]})
}

#[test]
fn like_pods_are_spread_over_zones() {
    let web = |i: u32, node: &str| labelled(&format!("w{i}"), "web", on(json!({}), node));
    let full = || snapshot(vec![zoned("a", "x"), zoned("b", "y")], vec![web(1, "a"), web(2, "a")]);
    check(&labelled("p", "web", spread("DoNotSchedule", 1)), &full(), "b");
    check(&labelled("p", "web", spread("ScheduleAnyway", 1)), &full(), "b");
    let lopsided = || snapshot(vec![zoned("a", "x"), node("c", json!({}))], vec![web(1, "a")]);
    check(
        &labelled(
            "p",
            "web",
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "minDomains": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}),
        ),
        &lopsided(),
        "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match pod topology spread constraints (missing required label). no new claims to deallocate, preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
    );
}

fn ranked(name: &str, priority: i32, cpu_asked: &str, node: &str) -> PodInfo {
    let mut spec = cpu(cpu_asked);
    merge(&mut spec, json!({"priority": priority, "nodeName": node}));
    labelled(name, name, spec)
}

fn victims(pod: &PodInfo, snapshot: &Snapshot) -> (String, Vec<String>) {
    let Placement::Unschedulable(why) = decide(&profile(), pod, snapshot, 0, 0) else {
        panic!("fits");
    };
    let text = why.message();
    let Room::Found(room) = why.room else {
        panic!("no room: {text}")
    };
    (room.node, room.victims.iter().map(|p| p.key.name.clone()).collect())
}

#[test]
fn only_as_many_pods_of_lower_priority_as_needed_go_the_least_important_first() {
    let all = vec![
        ranked("low", 1, "500m", "a"),
        ranked("lower", 0, "500m", "a"),
        ranked("high", 100, "1", "a"),
        ranked("mid", 50, "2", "b"),
    ];
    let there = snapshot(vec![node("a", json!({})), node("b", json!({}))], all);
    let pod = |cpu_asked: &str| {
        let mut spec = cpu(cpu_asked);
        merge(&mut spec, json!({"priority": 90}));
        labelled("p", "p", spec)
    };
    assert_eq!(victims(&pod("500m"), &there), ("a".into(), vec!["lower".into()]));
    assert_eq!(
        victims(&pod("1"), &there),
        ("a".into(), vec!["low".into(), "lower".into()])
    );
    assert_eq!(victims(&pod("2"), &there), ("b".into(), vec!["mid".into()]));
    check(
        &pod("3"),
        &there,
        "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
    );
    let mut never = cpu("2");
    merge(&mut never, json!({"priority": 90, "preemptionPolicy": "Never"}));
    check(
        &labelled("p", "p", never),
        &there,
        "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
    );
}

#[test]
fn a_node_without_a_broken_budget_is_preferred() {
    let mut cache = Cache::default();
    for name in ["a", "b"] {
        cache.set_node(node(name, json!({})));
    }
    cache.set_pod(&ranked("guarded", 0, "2", "a").pod);
    cache.set_pod(&ranked("free", 10, "2", "b").pod);
    let selector = serde_json::from_value(json!({"matchLabels": {"app": "guarded"}})).unwrap();
    let budget = crate::snapshot::Budget {
        namespace: "d".into(),
        selector: Some(selector),
        ..Default::default()
    };
    let mut spec = cpu("2");
    merge(&mut spec, json!({"priority": 90}));
    let pod = labelled("p", "p", spec);
    assert_eq!(victims(&pod, &cache.snapshot()).0, "a");
    cache.set_budget("d", "b", Some(budget));
    assert_eq!(victims(&pod, &cache.snapshot()).0, "b");
}

#[test]
fn room_that_was_made_for_a_pod_is_kept_for_it() {
    let mut cache = Cache::default();
    cache.set_node(node("a", json!({})));
    let pod = |name: &str, priority: i32| {
        let mut spec = cpu("2");
        merge(&mut spec, json!({"priority": priority}));
        Arc::new(labelled(name, name, spec))
    };
    cache.nominate(&pod("promised", 50), "a");
    let placed = |pod: &PodInfo, cache: &mut Cache| {
        matches!(decide(&profile(), pod, &cache.snapshot(), 0, 0), Placement::Node { .. })
    };
    assert!(!placed(&pod("other", 10), &mut cache));
    assert!(placed(&pod("promised", 50), &mut cache));
    assert!(placed(&pod("urgent", 90), &mut cache));
    cache.forget_nomination(&pod("promised", 50).key);
    assert!(placed(&pod("other", 10), &mut cache));
}

proptest! {
    #[test]
    fn victims_are_less_important_enough_and_all_needed(
        pods in prop::collection::vec((0i32..5, 1u32..1200, 0usize..3), 0..12), priority in 0i32..6, asked in 1u32..2500,
    ) {
        let mut cache = Cache::default();
        let names = ["a", "b", "c"];
        for name in names {
            cache.set_node(node(name, json!({})));
        }
        for (i, (priority, milli, at)) in pods.iter().enumerate() {
            let there: i64 = cache.snapshot().nodes[*at].requested.milli_cpu;
            if there + i64::from(*milli) <= 2000 {
                cache.set_pod(&ranked(&format!("p{i}"), *priority, &format!("{milli}m"), names[*at]).pod);
            }
        }
        let snapshot = cache.snapshot();
        let mut spec = cpu(&format!("{asked}m"));
        merge(&mut spec, json!({"priority": priority}));
        let pod = labelled("new", "new", spec);
        if let Placement::Unschedulable(why) = decide(&profile(), &pod, &snapshot, 0, 0)
            && let Room::Found(room) = why.room
        {
            let node = snapshot.nodes.iter().find(|n| n.name == room.node).unwrap();
            let free = |without: &[&Arc<PodInfo>]| {
                let gone: i64 = without.iter().map(|p| p.requests.exact.milli_cpu).sum();
                node.allocatable.milli_cpu - node.requested.milli_cpu + gone
            };
            let all: Vec<_> = room.victims.iter().collect();
            prop_assert!(!all.is_empty() && all.iter().all(|p| p.priority < priority));
            prop_assert!(free(&all) >= i64::from(asked));
            for spared in 0..all.len() {
                let rest: Vec<_> = all.iter().enumerate().filter(|(i, _)| *i != spared).map(|(_, p)| *p).collect();
                prop_assert!(free(&rest) < i64::from(asked), "{} need not go", all[spared].key);
            }
        }
    }

    #[test]
    fn hard_spreading_keeps_its_skew(count in 1usize..15, skew in 1u32..3) {
        let mut cache = Cache::default();
        for (name, zone) in [("a", "x"), ("b", "y"), ("c", "z")] {
            cache.set_node(zoned(name, zone));
        }
        for i in 0..count {
            let pod = labelled(&format!("w{i}"), "web", spread("DoNotSchedule", skew));
            match decide(&profile(), &pod, &cache.snapshot(), i, i as u64) {
                Placement::Node { name, .. } => cache.assume(&pod, &name),
                Placement::Unschedulable(why) => prop_assert!(false, "{}", why.message()),
            }
            let counts: Vec<usize> = cache.snapshot().nodes.iter().map(|n| n.pods.len()).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            prop_assert!(most - least <= skew as usize);
        }
    }
}
