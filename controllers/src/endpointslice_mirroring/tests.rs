//! Mirrors of arbitrary subsets, and what is not mirrored.

use super::decide::*;
use super::*;
use crate::act::Action;
use proptest::prelude::*;
use serde_json::{Value, json};
use steersman_types::Typed;

fn service(selector: &Value) -> Arc<Service> {
    let value = json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"selector": selector}});
    Arc::new(Service::from_value(&value).unwrap())
}

fn seen(subsets: &Value, slices: Vec<Arc<EndpointSlice>>) -> Observed {
    let value = json!({"metadata": {"name": "s", "namespace": "ns", "uid": "e", "labels": {"a": "b"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x", "k": "v"}}, "subsets": subsets});
    Observed {
        endpoints: Some(Arc::new(Endpoints::from_value(&value).unwrap())),
        service: Some(service(&Value::Null)),
        slices,
    }
}

fn apply(mut slices: Vec<Arc<EndpointSlice>>, actions: Vec<Action>) -> Vec<Arc<EndpointSlice>> {
    for action in actions {
        match action {
            Action::Create { mut object, .. } => {
                object["metadata"]["name"] = format!("s-{}", slices.len() + 100).into();
                slices.push(Arc::new(EndpointSlice::from_value(&object).unwrap()));
            }
            Action::Update { object, .. } => {
                let new = EndpointSlice::from_value(&object).unwrap();
                for slot in slices.iter_mut().filter(|s| s.metadata.name == new.metadata.name) {
                    *slot = Arc::new(new.clone());
                }
            }
            Action::Delete { name, .. } => slices.retain(|s| s.metadata.name.as_ref() != Some(&name)),
            Action::Event(_) => {}
            other @ Action::Patch { .. } => panic!("{other:?}"),
        }
    }
    slices
}

fn subsets() -> impl Strategy<Value = Vec<(u8, Vec<(u8, bool)>)>> {
    proptest::collection::vec((0u8..3, proptest::collection::vec((0u8..6, any::<bool>()), 0..5)), 0..4)
}

fn to_json(subsets: &[(u8, Vec<(u8, bool)>)]) -> Value {
    let one = |(port, addresses): &(u8, Vec<(u8, bool)>)| {
        let list = |ready: bool| -> Vec<Value> {
            let of = addresses.iter().filter(|(_, r)| *r == ready);
            of.map(|(ip, _)| {
                if *ip == 5 {
                    json!({"ip": "fd00::1"})
                } else {
                    json!({"ip": format!("10.0.0.{ip}")})
                }
            })
            .collect()
        };
        json!({"ports": [{"name": "p", "port": 80 + port, "protocol": "TCP"}], "addresses": list(true), "notReadyAddresses": list(false)})
    };
    subsets.iter().map(one).collect()
}

proptest! {
    #[test]
    fn every_address_is_mirrored_once_per_port_and_a_second_run_changes_nothing(first in subsets(), second in subsets()) {
        let slices = apply(Vec::new(), decide(&seen(&to_json(&first), Vec::new())));
        let slices = apply(slices.clone(), decide(&seen(&to_json(&second), slices)));
        let mut wanted: Vec<(i32, String)> = second.iter().flat_map(|(port, addresses)| addresses.iter().map(|(ip, _)| {
            (80 + i32::from(*port), if *ip == 5 { "fd00::1".to_owned() } else { format!("10.0.0.{ip}") })
        })).collect();
        wanted.sort();
        wanted.dedup();
        let mut found: Vec<(i32, String)> = slices.iter().flat_map(|s| {
            let port = s.ports.as_ref().unwrap()[0].port.unwrap();
            s.endpoints.iter().flatten().map(move |e| (port, e.addresses[0].clone()))
        }).collect();
        found.sort();
        prop_assert_eq!(found, wanted);
        for slice in &slices {
            prop_assert!(slice.endpoints.iter().flatten().all(|e| e.addresses[0].contains(':') == (slice.address_type == "IPv6")));
        }
        prop_assert!(decide(&seen(&to_json(&second), slices)).is_empty());
    }
}

#[test]
fn a_mirror_carries_labels_and_annotations_but_private_ones() {
    let actions = decide(&seen(&to_json(&[(0, vec![(1, true)])]), Vec::new()));
    let [Action::Create { object, .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(object["metadata"]["annotations"], json!({"k": "v"}));
    let labels = &object["metadata"]["labels"];
    assert_eq!(
        (&labels["a"], &labels[SERVICE_NAME], &labels[MANAGED_BY]),
        (&json!("b"), &json!("s"), &json!(MANAGER))
    );
    assert_eq!(object["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
}

#[test]
fn endpoints_of_a_service_with_a_selector_or_of_none_are_not_mirrored() {
    let subsets = to_json(&[(0, vec![(1, true)])]);
    let slices = apply(Vec::new(), decide(&seen(&subsets, Vec::new())));
    for service in [None, Some(service(&json!({"a": "b"})))] {
        let actions = decide(&Observed {
            service,
            ..seen(&subsets, slices.clone())
        });
        assert!(matches!(actions.as_slice(), [Action::Delete { .. }]));
    }
    let gone = Observed {
        endpoints: None,
        ..seen(&subsets, slices)
    };
    assert!(matches!(decide(&gone).as_slice(), [Action::Delete { .. }]));
}
