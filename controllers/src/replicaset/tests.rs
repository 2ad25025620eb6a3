//! Safety of the decision under arbitrary clusters, and the order of deletion case by case.

use super::decide::*;
use super::*;
use proptest::prelude::*;
use serde_json::json;
use steersman_types::Typed;

fn set(replicas: usize) -> Arc<ReplicaSet> {
    let value = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "set", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
    });
    Arc::new(ReplicaSet::from_value(&value).unwrap())
}

#[derive(Clone, Debug)]
struct Spec {
    owner: u8,
    selected: bool,
    phase: u8,
    terminating: bool,
    ready: bool,
    node: u8,
    cost: i8,
}

fn pod(i: usize, spec: &Spec) -> Arc<Pod> {
    let phase = ["Pending", "Running", "Failed", "Succeeded"][usize::from(spec.phase % 4)];
    let mut value = json!({
        "metadata": {"name": format!("p{i}"), "namespace": "ns", "uid": format!("u{i}"),
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": spec.cost.to_string()},
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": []},
        "status": {"phase": phase, "conditions": []},
    });
    if spec.node > 0 {
        value["spec"]["nodeName"] = format!("n{}", spec.node).into();
    }
    if spec.selected {
        value["metadata"]["labels"] = json!({"app": "web"});
    }
    if spec.owner < 2 {
        let uid = if spec.owner == 0 { "set" } else { "other" };
        value["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}]);
    }
    if spec.terminating {
        value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    if spec.ready {
        value["status"]["conditions"] =
            json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    }
    Arc::new(Pod::from_value(&value).unwrap())
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let one = (
        0u8..3,
        prop::bool::weighted(0.8),
        0u8..4,
        prop::bool::weighted(0.2),
        any::<bool>(),
        0u8..4,
        -2i8..2,
    );
    proptest::collection::vec(
        one.prop_map(|(owner, selected, phase, terminating, ready, node, cost)| Spec {
            owner,
            selected,
            phase,
            terminating,
            ready,
            node,
            cost,
        }),
        0..12,
    )
}

fn observed(replicas: usize, specs: &[Spec]) -> Observed {
    let pods = specs.iter().enumerate().map(|(i, s)| pod(i, s)).collect();
    let now = "2026-01-02T00:00:00Z".parse().unwrap();
    Observed {
        set: set(replicas),
        pods,
        related: Vec::new(),
        now,
    }
}

proptest! {
    #[test]
    fn the_plan_ends_at_the_wanted_number_and_touches_only_own_active_pods(replicas in 0usize..8, specs in specs()) {
        let seen = observed(replicas, &specs);
        let plan = decide(&seen);
        prop_assert_eq!(plan.active.len() + plan.create - plan.delete.len(), replicas);
        prop_assert!(plan.create == 0 || plan.delete.is_empty());
        for pod in &plan.delete {
            let i: usize = pod.metadata.name.as_deref().unwrap()[1..].parse().unwrap();
            prop_assert!(specs[i].owner != 1, "deletes another owner's pod");
            prop_assert!(specs[i].selected && !specs[i].terminating);
        }
    }

    #[test]
    fn after_the_plan_was_carried_out_the_next_one_is_empty(replicas in 0usize..8, specs in specs()) {
        let seen = observed(replicas, &specs);
        let plan = decide(&seen);
        let gone: Vec<_> = plan.delete.iter().chain(&plan.release).map(|p| p.metadata.uid.clone()).collect();
        let mut pods: Vec<Arc<Pod>> = seen.pods.iter().filter(|p| !gone.contains(&p.metadata.uid)).cloned().collect();
        for adopted in &plan.adopt {
            for slot in pods.iter_mut().filter(|p| p.metadata.uid == adopted.metadata.uid) {
                let mut owned = slot.as_ref().clone();
                owned.metadata.owner_references = Some(vec![owners::reference_to(seen.set.as_ref())]);
                *slot = Arc::new(owned);
            }
        }
        for i in 0..plan.create {
            pods.push(pod(100 + i, &Spec { owner: 0, selected: true, phase: 0, terminating: false, ready: false, node: 0, cost: 0 }));
        }
        let again = decide(&Observed { pods, ..seen });
        prop_assert!(again.adopt.is_empty() && again.release.is_empty() && again.create == 0 && again.delete.is_empty());
    }
}

fn deleted(specs: &[Spec]) -> String {
    let plan = decide(&observed(specs.len() - 1, specs));
    plan.delete.iter().filter_map(|p| p.metadata.name.clone()).collect()
}

const RUNNING: Spec = Spec {
    owner: 0,
    selected: true,
    phase: 1,
    terminating: false,
    ready: true,
    node: 1,
    cost: 0,
};

#[test]
fn unbound_pods_go_first_then_pending_then_unready_then_cheap_then_crowded() {
    assert_eq!(deleted(&[RUNNING, Spec { node: 0, ..RUNNING }]), "p1");
    assert_eq!(deleted(&[RUNNING, Spec { phase: 0, ..RUNNING }]), "p1");
    assert_eq!(
        deleted(&[
            RUNNING,
            Spec {
                ready: false,
                ..RUNNING
            }
        ]),
        "p1"
    );
    assert_eq!(deleted(&[RUNNING, Spec { cost: -1, ..RUNNING }]), "p1");
    assert_eq!(deleted(&[Spec { node: 2, ..RUNNING }, RUNNING, RUNNING]), "p1");
}

#[test]
fn a_failure_becomes_a_condition_once_and_goes_with_the_next_success() {
    let seen = observed(3, &[]);
    let plan = decide(&seen);
    let first = status(&seen, &plan, Some("quota")).unwrap();
    assert_eq!(
        first.conditions.as_ref().unwrap()[0].reason.as_deref(),
        Some("FailedCreate")
    );
    let mut set = seen.set.as_ref().clone();
    set.status = Some(first);
    let seen = Observed {
        set: Arc::new(set),
        ..seen
    };
    assert!(status(&seen, &plan, Some("quota again")).is_none());
    let last = status(&seen, &plan, None).unwrap();
    assert!(last.conditions.is_none_or(|c| c.is_empty()));
}

#[test]
fn a_replication_controller_is_seen_as_a_set_and_gets_its_status_back() {
    let value = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "rc", "generation": 3},
        "spec": {"replicas": 2, "selector": {"app": "web"}, "minReadySeconds": 4,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
        "status": {"replicas": 1, "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}]},
    });
    let controller = Arc::new(ReplicationController::from_value(&value).unwrap());
    let view = ReplicationController::view(&controller);
    assert_eq!((replicas(&view), view.metadata.uid.as_deref()), (2, Some("rc")));
    let seen = Observed {
        set: view,
        pods: Vec::new(),
        related: Vec::new(),
        now: "2026-01-02T00:00:00Z".parse().unwrap(),
    };
    let plan = decide(&seen);
    assert_eq!(plan.create, 2);
    let stored = controller.with_status(status(&seen, &plan, None).unwrap());
    let stored = stored.to_value();
    assert_eq!(stored["status"]["observedGeneration"], 3);
    assert!(stored["status"]["conditions"].as_array().is_none_or(Vec::is_empty));
}
