//! Any sequence of changes, applied step by step, ends where building everything at once would.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Model, node, service, settings, slice};
use proptest::prelude::*;
use serde_json::json;
use steersman_proxy::base;
use steersman_proxy::family::Family;
use steersman_proxy::rules::{Fragment, fragment};
use steersman_proxy::table::{Command, Owner, Table, script};

/// One state of one Service: few names, addresses and ports, so that Services collide.
#[derive(Clone, Debug)]
struct Shape {
    external: Option<u8>,
    node_port: bool,
    affinity: bool,
    external_local: bool,
    internal_local: bool,
    endpoints: Vec<(u8, bool, bool)>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let endpoints = prop::collection::vec((0..4u8, any::<bool>(), any::<bool>()), 0..4);
    (
        prop::option::of(0..2u8),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        endpoints,
    )
        .prop_map(
            |(external, node_port, affinity, external_local, internal_local, endpoints)| Shape {
                external,
                node_port,
                affinity,
                external_local,
                internal_local,
                endpoints,
            },
        )
}

fn build(index: u8, shape: &Shape) -> Fragment {
    let name = format!("s{index}");
    let policy = |local: bool| if local { "Local" } else { "Cluster" };
    let mut spec = json!({"clusterIP": format!("10.232.0.{}", index + 1), "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}],
        "type": if shape.node_port { "NodePort" } else { "ClusterIP" },
        "externalTrafficPolicy": policy(shape.external_local), "internalTrafficPolicy": policy(shape.internal_local)});
    if let Some(external) = shape.external {
        spec["externalIPs"] = json!([format!("192.0.2.{external}")]);
    }
    if shape.affinity {
        spec["sessionAffinity"] = json!("ClientIP");
    }
    let endpoints: Vec<_> = shape
        .endpoints
        .iter()
        .map(|(a, here, ready)| (format!("10.231.0.{a}"), *here, *ready))
        .collect();
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(a, here, ready)| {
            (
                a.as_str(),
                if *here { "node-1" } else { "node-2" },
                *ready,
                true,
                !*ready,
            )
        })
        .collect();
    let slices = [slice(
        &name,
        json!({"name": "", "port": 8080, "protocol": "TCP"}),
        &endpoints,
    )];
    fragment(&service(&name, spec), &slices, Family::V4, &node(), &settings())
}

fn owner(index: u8) -> Owner {
    ("ns".into(), format!("s{index}"))
}

fn started() -> (Table, Model) {
    let (mut table, mut model) = (Table::new(Family::V4), Model::default());
    model.run(&table.rebuild(base::commands(Family::V4, &node(), &settings(), &[])));
    (table, model)
}

proptest! {
    #[test]
    fn step_by_step_equals_from_scratch(
        // Per step: a batch of changes (`None` removes), and whether the clean-up succeeds.
        steps in prop::collection::vec((prop::collection::btree_map(0..4u8, prop::option::of(shape()), 1..4), any::<bool>()), 1..12)
    ) {
        let (mut table, mut model) = started();
        let mut now: BTreeMap<u8, Shape> = BTreeMap::new();
        for (changes, cleans) in steps {
            let mut batch = Vec::new();
            for (index, shape) in changes {
                batch.push((owner(index), shape.as_ref().map(|s| build(index, s))));
                match shape {
                    Some(shape) => now.insert(index, shape),
                    None => now.remove(&index),
                };
            }
            let transaction = table.replace(batch);
            model.run(&transaction.apply);
            if cleans {
                model.run(&transaction.cleanup);
                table.cleaned();
            }
        }
        let last = table.replace(Vec::new());
        prop_assert_eq!(&last.apply, &vec![]);
        model.run(&last.cleanup);
        table.cleaned();

        let mut fresh = Table::new(Family::V4);
        let _ = fresh.replace(now.iter().map(|(i, s)| (owner(*i), Some(build(*i, s)))).collect());
        let mut scratch = Model::default();
        scratch.run(&fresh.rebuild(base::commands(Family::V4, &node(), &settings(), &[])));
        prop_assert_eq!(&model, &scratch);
        let mut again = model.clone();
        again.run(&table.rebuild(base::commands(Family::V4, &node(), &settings(), &[])));
        prop_assert_eq!(&again, &scratch);
    }
}

fn simple(endpoints: &[u8]) -> Shape {
    Shape {
        external: None,
        node_port: false,
        affinity: false,
        external_local: false,
        internal_local: false,
        endpoints: endpoints.iter().map(|a| (*a, false, true)).collect(),
    }
}

#[test]
fn one_more_endpoint_is_a_transaction_of_one_chain() {
    let (mut table, mut model) = started();
    model.run(&table.replace(vec![(owner(0), Some(build(0, &simple(&[1, 2]))))]).apply);
    model.run(&table.replace(vec![(owner(1), Some(build(1, &simple(&[1, 2]))))]).apply);
    let transaction = table.replace(vec![(owner(0), Some(build(0, &simple(&[1, 2, 3]))))]);
    let text = script(Family::V4, &transaction.apply);
    let expected = "\
flush chain ip kube-proxy cluster/ns/s0/tcp/80
add rule ip kube-proxy cluster/ns/s0/tcp/80 meta l4proto tcp dnat ip to numgen random mod 3 map { 0 : 10.231.0.1 . 8080, 1 : 10.231.0.2 . 8080, 2 : 10.231.0.3 . 8080 }
";
    assert_eq!(text, expected);
    assert_eq!(transaction.cleanup, vec![]);
}

#[test]
fn a_removed_service_leaves_in_two_transactions() {
    let (mut table, mut model) = started();
    model.run(&table.replace(vec![(owner(0), Some(build(0, &simple(&[1]))))]).apply);
    let transaction = table.replace(vec![(owner(0), None)]);
    let expected = "\
delete element ip kube-proxy service-ips { 10.232.0.1 . tcp . 80 }
delete element ip kube-proxy cluster-ips { 10.232.0.1 }
";
    assert_eq!(script(Family::V4, &transaction.apply), expected);
    let name = "cluster/ns/s0/tcp/80".to_owned();
    assert_eq!(
        transaction.cleanup,
        vec![Command::FlushChain(name.clone()), Command::DeleteChain(name)]
    );
    model.run(&transaction.apply);
    model.run(&transaction.cleanup);
}

#[test]
fn a_shared_address_goes_to_the_first_service_and_then_to_the_next() {
    let (mut table, mut model) = started();
    let shared = Shape {
        external: Some(7),
        ..simple(&[1])
    };
    model.run(&table.replace(vec![(owner(1), Some(build(1, &shared)))]).apply);
    model.run(&table.replace(vec![(owner(0), Some(build(0, &shared)))]).apply);
    let key = (
        steersman_proxy::rules::Map::ServiceIps,
        "192.0.2.7 . tcp . 80".to_owned(),
    );
    assert_eq!(
        model.elements.get(&key).map(String::as_str),
        Some("goto external/ns/s0/tcp/80")
    );
    let transaction = table.replace(vec![(owner(0), None)]);
    model.run(&transaction.apply);
    model.run(&transaction.cleanup);
    assert_eq!(
        model.elements.get(&key).map(String::as_str),
        Some("goto external/ns/s1/tcp/80")
    );
}

#[test]
fn many_elements_share_a_line() {
    let elements: Vec<_> = (0..600)
        .map(|i| {
            Command::AddElement(
                steersman_proxy::rules::Map::ClusterIps,
                format!("10.0.{}.{}", i / 256, i % 256),
                String::new(),
            )
        })
        .collect();
    assert_eq!(script(Family::V4, &elements).lines().count(), 2);
}
