//! What small plugins add to pods, nodes, claims and priority classes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{World, pod, request, run};
use crate::Operation::{Create, Update};
use crate::Request;

#[tokio::test]
async fn a_new_node_is_tainted_once() {
    let chain = World::default().chain(&["TaintNodesByCondition"]);
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let other = json!({"key": "a", "effect": "NoSchedule"});
    for (given, want) in [
        (Value::Null, json!([taint])),
        (json!([other]), json!([other, taint])),
        (json!([taint]), json!([taint])),
    ] {
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": given}});
        let request = Request {
            object: Some(node),
            ..request(Create, "", "nodes", "", "n")
        };
        assert_eq!(
            run(&chain, request).await.map(|n| n["spec"]["taints"].clone()),
            Ok(want)
        );
    }
}

#[tokio::test]
async fn pods_tolerate_failing_nodes_for_five_minutes_unless_they_say_otherwise() {
    let chain = World::default().chain(&["DefaultTolerationSeconds"]);
    let ours = |taint: &str| {
        json!({"key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute",
               "tolerationSeconds": 300})
    };
    let own = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 1});
    let everything = json!({"operator": "Exists"});
    for (given, want) in [
        (Value::Null, json!([ours("not-ready"), ours("unreachable")])),
        (json!([own]), json!([own, ours("unreachable")])),
        (json!([everything]), json!([everything])),
    ] {
        let got = run(&chain, pod(json!({"tolerations": given}))).await;
        assert_eq!(got.map(|p| p["spec"]["tolerations"].clone()), Ok(want));
    }
}

fn class(name: &str, value: i64, default: bool) -> Value {
    json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"})
}

#[tokio::test]
async fn a_class_name_becomes_a_number_and_the_number_is_not_the_users_to_choose() {
    let mut world = World::default();
    world.put("scheduling.k8s.io", "priorityclasses", class("high", 1000, false));
    let chain = world.chain(&["Priority"]);
    let spec = |spec: Value| run(&chain, pod(spec));
    let plain = spec(json!({})).await.expect("admitted");
    assert_eq!(
        plain["spec"],
        json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"})
    );
    let high = spec(json!({"priorityClassName": "high"})).await.expect("admitted");
    assert_eq!(
        high["spec"],
        json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"})
    );
    for (given, want) in [
        (
            json!({"priorityClassName": "none"}),
            "no PriorityClass with name none was found",
        ),
        (
            json!({"priority": 7}),
            "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 \
             from the given PriorityClass name",
        ),
        (
            json!({"priorityClassName": "high", "preemptionPolicy": "PreemptLowerPriority"}),
            "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority \
             admission controller computed Never from the given PriorityClass name",
        ),
    ] {
        assert_eq!(spec(given).await, Err(format!("pods \"p\" is forbidden: {want}")));
    }
    let old = json!({"spec": {"priority": 5, "preemptionPolicy": "Never"}});
    let update = Request {
        operation: Update,
        old: Some(Arc::new(old)),
        object: Some(json!({"spec": {}})),
        ..pod(json!({}))
    };
    assert_eq!(
        run(&chain, update).await,
        Ok(json!({"spec": {"priority": 5, "preemptionPolicy": "Never"}}))
    );
}

#[tokio::test]
async fn there_is_one_default_class_and_it_applies() {
    let mut world = World::default();
    world.put("scheduling.k8s.io", "priorityclasses", class("usual", 10, true));
    let chain = world.chain(&["Priority"]);
    let plain = run(&chain, pod(json!({}))).await.expect("admitted");
    assert_eq!(
        plain["spec"],
        json!({"priorityClassName": "usual", "priority": 10, "preemptionPolicy": "Never"})
    );
    let write = |operation, name: &str| Request {
        object: Some(class(name, 1, true)),
        ..request(operation, "scheduling.k8s.io", "priorityclasses", "", name)
    };
    let want = "priorityclasses.scheduling.k8s.io \"second\" is forbidden: PriorityClass usual is already marked as \
                default. Only one default can exist";
    assert_eq!(run(&chain, write(Create, "second")).await, Err(want.into()));
    assert_eq!(run(&chain, write(Update, "second")).await, Err(want.into()));
    assert!(run(&chain, write(Update, "usual")).await.is_ok());
}

#[tokio::test]
async fn the_newest_default_class_fills_in() {
    let mut world = World::default();
    let storage = |name: &str, made: &str, default: &str| {
        json!({"metadata": {"name": name, "creationTimestamp": made,
               "annotations": {"storageclass.kubernetes.io/is-default-class": default}}})
    };
    for (name, made, default) in [
        ("old", "2026-01-01T00:00:00Z", "true"),
        ("b", "2026-02-01T00:00:00Z", "true"),
        ("a", "2026-02-01T00:00:00Z", "true"),
        ("newest", "2026-03-01T00:00:00Z", "false"),
    ] {
        world.put("storage.k8s.io", "storageclasses", storage(name, made, default));
    }
    let chain = world.chain(&["DefaultStorageClass"]);
    for (spec, want) in [
        (json!({}), json!("a")),
        (json!({"storageClassName": ""}), json!("")),
        (Value::Null, json!("a")),
    ] {
        let claim = json!({"metadata": {}, "spec": spec});
        let create = Request {
            object: Some(claim),
            ..request(Create, "", "persistentvolumeclaims", "ns", "c")
        };
        assert_eq!(
            run(&chain, create).await.map(|c| c["spec"]["storageClassName"].clone()),
            Ok(want)
        );
    }
}

#[tokio::test]
async fn a_runtime_class_adds_its_overhead_and_its_place() {
    let mut world = World::default();
    world.put(
        "node.k8s.io",
        "runtimeclasses",
        json!({"metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "250m"}},
               "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}}),
    );
    let chain = world.chain(&["RuntimeClass"]);
    let own = json!({"key": "vm", "operator": "Equal", "value": "x"});
    let spec = json!({"runtimeClassName": "vm", "nodeSelector": {"disk": "ssd"}, "tolerations": [own]});
    let got = run(&chain, pod(spec)).await.expect("admitted");
    assert_eq!(
        got["spec"],
        json!({"runtimeClassName": "vm", "overhead": {"cpu": "250m"}, "nodeSelector": {"disk": "ssd", "vm": "yes"},
               "tolerations": [{"key": "vm", "operator": "Exists"}]})
    );
    for (spec, want) in [
        (
            json!({"runtimeClassName": "none"}),
            "pod rejected: RuntimeClass \"none\" not found",
        ),
        (
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
        ),
    ] {
        assert_eq!(
            run(&chain, pod(spec)).await,
            Err(format!("pods \"p\" is forbidden: {want}"))
        );
    }
    let same = json!({"runtimeClassName": "vm", "overhead": {"cpu": "0.25"}});
    assert!(run(&chain, pod(same)).await.is_ok());
}
