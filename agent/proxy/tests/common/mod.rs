//! Services and EndpointSlices for tests, and a model of what nftables does with our commands.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use steersman_proxy::config::{Configuration, NodeView, Settings};
use steersman_proxy::rules::Map;
use steersman_proxy::table::Command;
use steersman_types::Typed;
use steersman_types::api::core::v1::Service;
use steersman_types::api::discovery::v1::EndpointSlice;

pub fn node() -> NodeView {
    NodeView {
        name: "node-1".into(),
        addresses: vec!["198.18.30.11".parse().unwrap()],
        zone: "a".into(),
        ..NodeView::default()
    }
}

pub fn settings() -> Settings {
    let configuration = Configuration {
        cluster_cidr: "10.231.0.0/16".into(),
        ..Configuration::default()
    };
    configuration.settings(&node()).unwrap()
}

pub fn service(name: &str, spec: Value) -> Service {
    Service::from_value(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns", "name": name}, "spec": spec,
    }))
    .unwrap()
}

/// A slice with one port; endpoints as (address, node, ready, serving, terminating).
pub fn slice(service: &str, port: Value, endpoints: &[(&str, &str, bool, bool, bool)]) -> Arc<EndpointSlice> {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, node, ready, serving, terminating)| {
            json!({"addresses": [address], "nodeName": node,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        })
        .collect();
    Arc::new(
        EndpointSlice::from_value(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "ns", "name": format!("{service}-x"), "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [port], "endpoints": endpoints,
        }))
        .unwrap(),
    )
}

/// The kernel's table, as strict as the kernel is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub chains: BTreeMap<String, Vec<String>>,
    pub sets: BTreeMap<String, String>,
    pub elements: BTreeMap<(Map, String), String>,
    maps: BTreeSet<Map>,
}

impl Model {
    /// Runs one transaction; any mistake is a panic that names it.
    pub fn run(&mut self, commands: &[Command]) {
        for command in commands {
            self.step(command);
        }
        self.check();
    }

    fn step(&mut self, command: &Command) {
        match command {
            Command::AddTable => {}
            Command::DeleteTable => *self = Self::default(),
            Command::AddChain(name, _) => {
                self.chains.entry(name.clone()).or_default();
            }
            Command::FlushChain(name) => self
                .chains
                .get_mut(name)
                .unwrap_or_else(|| panic!("flush: no chain {name}"))
                .clear(),
            Command::AddRule(chain, rule) => {
                self.chains
                    .get_mut(chain)
                    .unwrap_or_else(|| panic!("rule: no chain {chain}"))
                    .push(rule.clone());
                for target in targets(rule) {
                    assert!(self.chains.contains_key(&target), "rule to unknown chain {target}");
                }
                for set in sets(rule) {
                    let known = self.sets.contains_key(&set) || self.maps.iter().any(|m| m.name() == set);
                    assert!(known, "rule with unknown set {set}");
                }
            }
            Command::DeleteChain(name) => {
                assert_eq!(
                    self.chains.remove(name).as_deref(),
                    Some(&[][..]),
                    "deleted chain {name} must be there and empty"
                );
            }
            Command::AddSet(name, definition) => {
                assert_eq!(
                    self.sets.insert(name.clone(), definition.clone()),
                    None,
                    "set {name} twice"
                );
            }
            Command::DeleteSet(name) => assert!(self.sets.remove(name).is_some(), "delete: no set {name}"),
            Command::AddClient(set, ..) => assert!(self.sets.contains_key(set), "client: no set {set}"),
            Command::AddMap(map) => assert!(self.maps.insert(*map), "map twice"),
            Command::AddElement(map, key, value) => {
                let before = self.elements.insert((*map, key.clone()), value.clone());
                assert_eq!(before, None, "element {key} twice in {}", map.name());
            }
            Command::DeleteElement(map, key) => {
                assert!(
                    self.elements.remove(&(*map, key.clone())).is_some(),
                    "delete: no element {key} in {}",
                    map.name()
                );
            }
        }
    }

    /// Nothing may refer to what is not there.
    fn check(&self) {
        let values = self.elements.values().flat_map(|v| targets(v));
        for target in self.chains.values().flatten().flat_map(|r| targets(r)).chain(values) {
            assert!(self.chains.contains_key(&target), "reference to unknown chain {target}");
        }
        for set in self.chains.values().flatten().flat_map(|r| sets(r)) {
            assert!(
                self.sets.contains_key(&set) || self.maps.iter().any(|m| m.name() == set),
                "reference to unknown set {set}"
            );
        }
    }
}

fn targets(rule: &str) -> Vec<String> {
    let words: Vec<&str> = rule.split([' ', ',']).filter(|w| !w.is_empty()).collect();
    words
        .windows(2)
        .filter(|w| matches!(w[0], "goto" | "jump"))
        .map(|w| w[1].to_owned())
        .collect()
}

fn sets(rule: &str) -> Vec<String> {
    rule.split_whitespace()
        .filter_map(|w| w.strip_prefix('@'))
        .map(str::to_owned)
        .collect()
}
