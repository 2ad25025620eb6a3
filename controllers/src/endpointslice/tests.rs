//! Slices under arbitrary pods and histories, and single cases in words.

use super::decide::*;
use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use steersman_types::Typed;

fn service() -> Arc<Service> {
    let value = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "svc"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]},
    });
    Arc::new(Service::from_value(&value).unwrap())
}

#[derive(Clone, Debug)]
struct Spec {
    id: u16,
    port: i32,
    ready: bool,
    terminating: bool,
    finished: bool,
    ip: bool,
    node: bool,
}

const READY: Spec = Spec {
    id: 1,
    port: 8080,
    ready: true,
    terminating: false,
    finished: false,
    ip: true,
    node: true,
};

fn pod(spec: &Spec) -> Arc<Pod> {
    let mut value = json!({
        "metadata": {"name": format!("p{}", spec.id), "namespace": "ns", "uid": format!("u{}", spec.id)},
        "spec": {"nodeName": if spec.node { "n1" } else { "unknown" },
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": spec.port, "protocol": "TCP"}]}]},
        "status": {"phase": if spec.finished { "Failed" } else { "Running" },
            "conditions": [{"type": "Ready", "status": if spec.ready { "True" } else { "False" }}]},
    });
    if spec.ip {
        value["status"]["podIPs"] = json!([{"ip": format!("10.1.{}.{}", spec.id / 250, spec.id % 250)}]);
    }
    if spec.terminating {
        value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    Arc::new(Pod::from_value(&value).unwrap())
}

fn observed(specs: &[Spec], slices: Vec<Arc<EndpointSlice>>) -> Observed {
    Observed {
        service: service(),
        pods: specs.iter().map(pod).collect(),
        nodes: [("n1".to_owned(), Some("zone-a".to_owned()))].into(),
        slices,
        trigger: None,
    }
}

/// Carries a plan out on slices in memory.
fn apply(slices: &[Arc<EndpointSlice>], plan: &Plan, names: &mut u32) -> Vec<Arc<EndpointSlice>> {
    let mut by_name: BTreeMap<String, Arc<EndpointSlice>> = slices
        .iter()
        .map(|s| (s.metadata.name.clone().unwrap(), s.clone()))
        .collect();
    for action in &plan.actions {
        match action {
            Action::Create { object, .. } => {
                let mut slice = EndpointSlice::from_value(object).unwrap();
                *names += 1;
                let name = format!("web-{names}");
                slice.metadata.name = Some(name.clone());
                by_name.insert(name, Arc::new(slice));
            }
            Action::Update { object, .. } => {
                let slice = EndpointSlice::from_value(object).unwrap();
                by_name.insert(slice.metadata.name.clone().unwrap(), Arc::new(slice));
            }
            Action::Delete { name, .. } => {
                by_name.remove(name);
            }
            other => panic!("{other:?}"),
        }
    }
    by_name.into_values().collect()
}

fn specs(max: usize) -> impl Strategy<Value = Vec<Spec>> {
    let one = (
        0u16..400,
        prop::bool::weighted(0.9),
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.95),
    );
    proptest::collection::vec(one, 0..max).prop_map(|all| {
        let unique: BTreeMap<u16, Spec> = all
            .into_iter()
            .map(|(id, usual, ready, terminating, finished, ip, node)| {
                (
                    id,
                    Spec {
                        id,
                        port: if usual { 8080 } else { 9090 },
                        ready,
                        terminating,
                        finished,
                        ip,
                        node,
                    },
                )
            })
            .collect();
        unique.into_values().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_pod_is_in_exactly_one_slice_of_at_most_a_hundred_and_a_second_run_does_nothing(
        first in specs(300), second in specs(300),
    ) {
        let mut slices = Vec::new();
        let mut names = 0;
        for specs in [first, second] {
            let plan = decide(&observed(&specs, slices.clone()));
            slices = apply(&slices, &plan, &mut names);
            let mut found = BTreeSet::new();
            for slice in &slices {
                let endpoints = slice.endpoints.as_deref().unwrap_or_default();
                prop_assert!(endpoints.len() <= MAX_ENDPOINTS);
                for endpoint in endpoints {
                    prop_assert!(found.insert(endpoint.target_ref.clone().unwrap().name.unwrap()), "twice");
                }
            }
            let expected: BTreeSet<String> =
                specs.iter().filter(|s| s.ip && !s.finished && s.node).map(|s| format!("p{}", s.id)).collect();
            prop_assert_eq!(found, expected);
            prop_assert!(!slices.is_empty());
            prop_assert!(decide(&observed(&specs, slices.clone())).actions.is_empty());
        }
    }

    #[test]
    fn one_pod_more_writes_one_slice(specs in specs(300)) {
        let mut names = 0;
        let slices = apply(&[], &decide(&observed(&specs, Vec::new())), &mut names);
        let mut more = specs;
        more.push(Spec { id: 500, ..READY });
        let plan = decide(&observed(&more, slices));
        // The placeholder of an empty Service may go at the same time.
        let writes = plan.actions.iter().filter(|a| !matches!(a, Action::Delete { .. })).count();
        prop_assert_eq!(writes, 1);
    }
}

#[test]
fn conditions_follow_readiness_and_termination() {
    let terminating = Spec {
        terminating: true,
        ..READY
    };
    let mut names = 0;
    let slices = apply(&[], &decide(&observed(&[terminating], Vec::new())), &mut names);
    let endpoint = &slices[0].endpoints.as_ref().unwrap()[0];
    let conditions = endpoint.conditions.clone().unwrap();
    assert_eq!(
        (conditions.ready, conditions.serving, conditions.terminating),
        (Some(false), Some(true), Some(true))
    );
    assert_eq!(
        (endpoint.zone.as_deref(), endpoint.node_name.as_deref()),
        (Some("zone-a"), Some("n1"))
    );
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
}

#[test]
fn a_service_without_pods_has_one_empty_slice_and_keeps_it() {
    let mut names = 0;
    let slices = apply(&[], &decide(&observed(&[], Vec::new())), &mut names);
    assert_eq!(slices.len(), 1);
    assert!(decide(&observed(&[], slices)).actions.is_empty());
}
