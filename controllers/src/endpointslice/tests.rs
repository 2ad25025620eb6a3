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
        shares: None,
        told: Told::new(),
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
            Action::Event(_) => {}
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

#[test]
fn a_new_slice_takes_the_place_of_the_one_that_goes() {
    let mut names = 0;
    let slices = apply(&[], &decide(&observed(&[], Vec::new())), &mut names);
    let plan = decide(&observed(&[READY], slices.clone()));
    assert!(
        matches!(plan.actions.as_slice(), [Action::Update { .. }]),
        "{:?}",
        plan.actions
    );
    let after = apply(&slices, &plan, &mut names);
    assert_eq!(after[0].metadata.name, slices[0].metadata.name);
    assert_eq!(after[0].endpoints.as_ref().map(Vec::len), Some(1));
}

/// As `observed`, for a Service with annotations and a field.
fn wanting(annotations: serde_json::Value, distribution: Option<&str>, seen: Observed) -> Observed {
    let mut value = seen.service.to_value();
    value["metadata"]["annotations"] = annotations;
    if let Some(distribution) = distribution {
        value["spec"]["trafficDistribution"] = distribution.into();
    }
    Observed {
        service: Arc::new(Service::from_value(&value).unwrap()),
        ..seen
    }
}

/// Pods `p0..`, each on a node of the zone that is named at its place.
fn in_zones(zones: &[&str], slices: Vec<Arc<EndpointSlice>>) -> Observed {
    let mut seen = observed(&[], slices);
    for (i, zone) in zones.iter().enumerate() {
        let mut value = pod(&Spec {
            id: u16::try_from(i).unwrap(),
            ..READY
        })
        .to_value();
        value["spec"]["nodeName"] = format!("n-{zone}").into();
        seen.pods.push(Arc::new(Pod::from_value(&value).unwrap()));
        seen.nodes
            .insert(format!("n-{zone}"), Some((*zone).to_owned()).filter(|z| !z.is_empty()));
    }
    seen
}

fn nodes(all: &[(&str, &str, bool)]) -> Vec<Arc<Node>> {
    let node = |(zone, cpu, ready): &(&str, &str, bool)| {
        let mut value = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": zone}},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": if *ready { "True" } else { "False" }}]}});
        if cpu.is_empty() {
            value["status"]["allocatable"] = json!({});
        }
        Arc::new(Node::from_value(&value).unwrap())
    };
    all.iter().map(node).collect()
}

/// `ZONE>HINT[@NODE]` of every endpoint, in the order of pods.
fn hinted(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
    let mut all: Vec<(String, String)> = Vec::new();
    for endpoint in slices.iter().flat_map(|s| s.endpoints.iter().flatten()) {
        let hints = endpoint.hints.clone().unwrap_or_default();
        let zones: Vec<String> = hints.for_zones.into_iter().flatten().map(|z| z.name).collect();
        let nodes: Vec<String> = hints
            .for_nodes
            .into_iter()
            .flatten()
            .map(|n| format!("@{}", n.name))
            .collect();
        let name = endpoint.target_ref.clone().unwrap().name.unwrap();
        let text = format!(
            "{}>{}{}",
            endpoint.zone.clone().unwrap_or_default(),
            zones.join("+"),
            nodes.concat()
        );
        all.push((name, text));
    }
    all.sort();
    all.into_iter().map(|(_, text)| text).collect()
}

fn events(plan: &Plan) -> Vec<String> {
    let text = |action: &Action| match action {
        Action::Event(note) => Some(format!("{}: {}", note.reason, note.message)),
        _ => None,
    };
    plan.actions.iter().filter_map(text).collect()
}

#[test]
fn traffic_distribution_keeps_endpoints_for_their_zone_or_node_and_goes_with_the_field() {
    let mut names = 0;
    let mut slices = Vec::new();
    for (distribution, expected) in [
        (Some("PreferSameZone"), ["a>a", "b>b"]),
        (Some("PreferClose"), ["a>a", "b>b"]),
        (Some("PreferSameNode"), ["a>a@n-a", "b>b@n-b"]),
        (None, ["a>", "b>"]),
    ] {
        let look = |slices| wanting(json!({}), distribution, in_zones(&["a", "b"], slices));
        slices = apply(&slices, &decide(&look(slices.clone())), &mut names);
        assert_eq!(hinted(&slices), expected, "{distribution:?}");
        assert!(decide(&look(slices.clone())).actions.is_empty());
    }
}

#[test]
fn zones_get_endpoints_by_their_size_and_events_say_when_that_ends() {
    let auto = json!({"service.kubernetes.io/topology-mode": "Auto"});
    let mut names = 0;
    let shares = hints::shares(&nodes(&[("a", "4", true), ("b", "4", true), ("c", "1", false)])).map(Arc::new);
    let look = |zones: &[&str], slices, told, shares: Option<Arc<hints::Shares>>| Observed {
        told,
        shares,
        ..wanting(auto.clone(), None, in_zones(zones, slices))
    };
    let plan = decide(&look(&["a", "a", "a", "b"], Vec::new(), Told::new(), shares.clone()));
    assert_eq!(
        events(&plan),
        ["TopologyAwareHintsEnabled: Topology Aware Hints has been enabled, addressType: IPv4"]
    );
    let slices = apply(&[], &plan, &mut names);
    assert_eq!(hinted(&slices), ["a>b", "a>a", "a>a", "b>b"]);
    let again = decide(&look(
        &["a", "a", "a", "b"],
        slices.clone(),
        plan.told.clone(),
        shares.clone(),
    ));
    assert!(again.actions.is_empty(), "{:?}", again.actions);
    // Fewer endpoints than zones.
    let few = decide(&look(&["a"], slices.clone(), plan.told.clone(), shares.clone()));
    assert_eq!(
        events(&few),
        ["TopologyAwareHintsDisabled: Insufficient number of endpoints (1 endpoints, 2 zones), addressType: IPv4"]
    );
    assert_eq!(hinted(&apply(&slices, &few, &mut names)), ["a>"]);
    // A pod of no zone, and nodes that do not say enough.
    let zoneless = decide(&look(&["a", "a", "b", ""], slices.clone(), plan.told.clone(), shares));
    assert_eq!(
        events(&zoneless),
        ["TopologyAwareHintsDisabled: One or more endpoints do not have a zone specified, addressType: IPv4"]
    );
    let unknown = decide(&look(&["a", "a", "a", "b"], slices.clone(), plan.told.clone(), None));
    assert_eq!(hinted(&apply(&slices, &unknown, &mut names)), ["a>", "a>", "a>", "b>"]);
    // Without the annotation.
    let off = decide(&Observed {
        told: plan.told,
        ..in_zones(&["a", "a", "a", "b"], slices)
    });
    assert_eq!(
        events(&off),
        ["TopologyAwareHintsDisabled: Topology Aware Hints has been disabled, addressType: IPv4"]
    );
    assert!(off.told.is_empty());
}

#[test]
fn shares_need_two_zones_and_every_ready_node_s_size() {
    assert!(hints::shares(&nodes(&[("a", "4", true)])).is_none());
    assert!(hints::shares(&nodes(&[("a", "4", true), ("b", "", true)])).is_none());
    assert!(hints::shares(&nodes(&[("a", "4", true), ("", "4", true), ("b", "1", true)])).is_none());
    assert!(hints::shares(&nodes(&[("a", "4", true), ("b", "500m", true), ("", "", false)])).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    #[allow(clippy::cast_precision_loss)] // numbers of endpoints
    fn hints_by_size_are_complete_fair_and_stable(
        zones in proptest::collection::vec(0usize..3, 1..250), cpus in proptest::collection::vec(1u32..20, 2..4),
    ) {
        let names_of = ["a", "b", "c"];
        let nodes_text: Vec<(String, String)> =
            cpus.iter().enumerate().map(|(i, cpu)| (names_of[i].to_owned(), cpu.to_string())).collect();
        let list: Vec<(&str, &str, bool)> = nodes_text.iter().map(|(z, c)| (z.as_str(), c.as_str(), true)).collect();
        let shares = hints::shares(&nodes(&list)).map(Arc::new);
        let zones: Vec<&str> = zones.iter().map(|z| names_of[z % cpus.len()]).collect();
        let look = |slices, told| Observed {
            told,
            shares: shares.clone(),
            ..wanting(json!({"service.kubernetes.io/topology-mode": "auto"}), None, in_zones(&zones, slices))
        };
        let mut names = 0;
        let plan = decide(&look(Vec::new(), Told::new()));
        let slices = apply(&[], &plan, &mut names);
        let found = hinted(&slices);
        let with = found.iter().filter(|text| !text.ends_with('>')).count();
        prop_assert!(with == 0 || with == zones.len(), "all or none");
        if with > 0 {
            let total: u32 = cpus.iter().sum();
            for (i, cpu) in cpus.iter().enumerate() {
                let has = found.iter().filter(|text| text.ends_with(&format!(">{}", names_of[i]))).count();
                let least = (zones.len() as f64 * f64::from(*cpu) / f64::from(total) / 1.2).floor();
                prop_assert!(has as f64 + 1.0 >= least, "{} has {has} of {least}", names_of[i]);
            }
        }
        prop_assert!(decide(&look(slices, plan.told)).actions.is_empty());
    }
}
