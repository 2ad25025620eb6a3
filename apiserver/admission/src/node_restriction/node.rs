//! A node's own Node object: no other node's, no labels that steer pods, no taints, no owners.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use steersman_auth::lister::items;

use super::{Verdict, refuse};
use crate::{Operation, Request};

/// Labels under kubernetes.io and k8s.io that an agent may set on its node.
const ALLOWED: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// Namespaces (and everything under them) in which an agent may set any label.
const ALLOWED_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Labels for isolating workloads: never an agent's to set.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

pub(super) fn own(node: &str, request: &Request) -> Verdict {
    if request.name != node {
        return refuse(
            request,
            format!("node {node:?} is not allowed to modify node {:?}", request.name),
        );
    }
    let Some(new) = &request.object else { return Ok(()) };
    let old = request.old.as_deref();
    match request.operation {
        Operation::Create => {
            if new.pointer("/spec/configSource").is_some_and(|c| !c.is_null()) {
                let why = format!("node {node:?} is not allowed to create pods with a non-nil configSource");
                return refuse(request, why);
            }
            let labels = forbidden(new, None);
            if !labels.is_empty() {
                let why = format!(
                    "node {node:?} is not allowed to set the following labels: {}",
                    labels.join(", ")
                );
                return refuse(request, why);
            }
        }
        Operation::Update => {
            let same = |path: &str| items(new, path) == old.map(|o| items(o, path)).unwrap_or_default();
            let source = new.pointer("/spec/configSource").filter(|c| !c.is_null());
            if source.is_some() && source != old.and_then(|o| o.pointer("/spec/configSource")) {
                let why = format!("node {node:?} is not allowed to update configSource to a new non-nil configSource");
                return refuse(request, why);
            }
            if !same("/spec/taints") {
                return refuse(request, format!("node {node:?} is not allowed to modify taints"));
            }
            if !same("/metadata/ownerReferences") {
                return refuse(
                    request,
                    format!("node {node:?} is not allowed to modify ownerReferences"),
                );
            }
            let labels = forbidden(new, old);
            if !labels.is_empty() {
                return refuse(
                    request,
                    format!("is not allowed to modify labels: {}", labels.join(", ")),
                );
            }
        }
        _ => {}
    }
    Ok(())
}

/// The labels that differ and that an agent may not add, change or remove; sorted.
fn forbidden(new: &Value, old: Option<&Value>) -> Vec<String> {
    let labels = |node: &Value| -> BTreeMap<String, Value> {
        let map = node.pointer("/metadata/labels").and_then(Value::as_object);
        map.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let (new, old) = (labels(new), old.map(labels).unwrap_or_default());
    let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    keys.into_iter()
        .filter(|key| new.get(*key) != old.get(*key) && is_forbidden(key))
        .cloned()
        .collect()
}

fn is_forbidden(label: &str) -> bool {
    let namespace = label
        .split_once('/')
        .map(|(namespace, _)| namespace)
        .unwrap_or_default();
    let within = |zone: &str| namespace == zone || namespace.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'));
    let ours = within("kubernetes.io") || within("k8s.io");
    let allowed = ALLOWED.contains(&label) || ALLOWED_NAMESPACES.into_iter().any(within);
    within(RESTRICTED) || (ours && !allowed)
}
