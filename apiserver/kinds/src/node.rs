//! Nodes: machines that run pods. The kubelet creates its own with a status, so create keeps the status.

use crate::table::{self, AGE, NAME, column};
use crate::view::{View, each_mut, put_back, remove, set};
use crate::{Column, Context, Kind, Status, Table, meta, nothing, resources};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, go_json};
use steersman_schema::name;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    warnings: |node, _| warnings(node),
    validate_name: meta::name_subdomain,
    status: Some(Status {
        prepare: prepare_status,
        validate: validate_change,
    }),
    updates: &[],
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[("spec.unschedulable", |n| n.flag("/spec/unschedulable").to_string())],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nspec: {podCIDR: 10.0.0.0/24}\n",
};

fn default(node: &mut Value) {
    // The single form came first; both always say the same.
    if let Some(spec) = node.get_mut("spec") {
        let single = spec.text("/podCIDR").to_string();
        let first = spec
            .items("/podCIDRs")
            .first()
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_string();
        if !single.is_empty() && first != single {
            set(spec, "podCIDRs", vec![single]);
        } else if !first.is_empty() && single.is_empty() {
            set(spec, "podCIDR", first);
        }
    }
    if let Some(status) = node.get_mut("status") {
        resources::round_up(status.get_mut("capacity"));
        resources::round_up(status.get_mut("allocatable"));
    }
    if let Some(status) = node.get_mut("status")
        && status.has("/capacity")
        && !status.has("/allocatable")
    {
        let capacity = status.at("/capacity").clone();
        set(status, "allocatable", capacity);
    }
}

fn prepare_create(node: &mut Value, _: &Context) {
    if let Some(spec) = node.get_mut("spec") {
        remove(spec, "configSource");
    }
    if let Some(status) = node.get_mut("status") {
        remove(status, "config");
    }
}

fn prepare_update(new: &mut Value, old: &Value, _: &Context) {
    put_back(new, old, "status");
    if !old.has("/spec/configSource")
        && let Some(spec) = new.get_mut("spec")
    {
        remove(spec, "configSource");
    }
}

fn prepare_status(new: &mut Value, old: &Value, _: &Context) {
    put_back(new, old, "spec");
    if !old.has("/status/config")
        && let Some(status) = new.get_mut("status")
    {
        remove(status, "config");
    }
    for condition in each_mut(new, "/status/conditions") {
        if condition.get("reason").is_none_or(Value::is_null) {
            remove(condition, "reason");
        }
    }
}

fn validate(node: &Value) -> FieldErrors {
    let mut errors = taints(node.items("/spec/taints"));
    errors.extend(amounts(node));
    if let Some(swap) = node.at("/status/nodeInfo/swap/capacity").as_i64().filter(|c| *c <= 0) {
        let path = Path::new("metadata").child("nodeSwapStatus").child("capacity");
        errors.push(FieldError::invalid(&path, swap, resources::NOT_POSITIVE));
    }
    errors.extend(features(node));
    let cidrs = node.items("/spec/podCIDRs");
    let path = Path::new("spec").child("podCIDRs");
    for (i, cidr) in cidrs.iter().enumerate() {
        errors.extend(name::cidr_legacy(
            &path.index(i),
            cidr.as_str().unwrap_or_default(),
            &[],
        ));
    }
    if cidrs.len() > 1 {
        let v6 = cidrs
            .iter()
            .filter(|c| c.as_str().is_some_and(|c| c.contains(':')))
            .count();
        if v6 == 0 || v6 == cidrs.len() || cidrs.len() > 2 {
            let why = "may specify no more than one CIDR for each IP family";
            errors.push(FieldError::invalid(&path, cidrs, why));
        }
    }
    errors
}

/// Upstream reports taints of nodes below `metadata`.
fn taints(taints: &[Value]) -> FieldErrors {
    let path = Path::new("metadata").child("taints");
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        let (key, value, effect) = (taint.text("/key"), taint.text("/value"), taint.text("/effect"));
        let place = path.child("key");
        errors.extend(
            name::qualified_name(key)
                .into_iter()
                .map(|m| FieldError::invalid(&place, key, m)),
        );
        let faults = name::label_value(value);
        if !faults.is_empty() {
            errors.push(FieldError::invalid(&path.child("value"), value, faults.join(";")));
        }
        let place = path.child("effect");
        match effect {
            "" => errors.push(FieldError::required(&place, "")),
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            _ => {
                let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
                errors.push(FieldError::not_supported(&place, effect, &known));
            }
        }
        if !seen.insert((effect, key)) {
            let text = |v: &Value| go_json(v);
            let shown = format!(
                "{{\"Key\":{},\"Value\":{},\"Effect\":{},\"TimeAdded\":{}}}",
                text(&key.into()),
                text(&value.into()),
                text(&effect.into()),
                text(taint.at("/timeAdded"))
            );
            let mut error = FieldError::duplicate(&path, BadValue::Raw(shown));
            error.detail = "taints must be unique by key and effect pair".into();
            errors.push(error);
        }
    }
    errors
}

fn amounts(node: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    for part in ["capacity", "allocatable"] {
        let path = Path::new("status").child(part);
        for (resource, amount) in node.entries(&format!("/status/{part}")).into_iter().flatten() {
            let text = amount.as_str().unwrap_or_default();
            errors.extend(resources::validate_quantity(resource, text, &path.child(resource)));
        }
    }
    errors
}

fn features(node: &Value) -> FieldErrors {
    let path = Path::new("status").child("declaredFeatures");
    let list: Vec<&str> = node
        .items("/status/declaredFeatures")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let mut errors = Vec::new();
    let segment =
        |s: &str| s.starts_with(|c: char| c.is_ascii_alphabetic()) && s.chars().all(|c| c.is_ascii_alphanumeric());
    for (i, feature) in list.iter().enumerate() {
        let quoted = steersman_schema::field::quote(feature);
        if feature.len() > name::SUBDOMAIN_MAX {
            let why = format!("invalid feature name {quoted}: must be no more than 253 characters");
            errors.push(FieldError::invalid(&path.index(i), *feature, why));
        } else if !(feature.starts_with(|c: char| c.is_ascii_uppercase()) && feature.split('/').all(segment)) {
            let why = format!(
                "invalid feature name {quoted}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
            );
            errors.push(FieldError::invalid(&path.index(i), *feature, why));
        }
        match list.get(i + 1) {
            Some(next) if next == feature => errors.push(FieldError::duplicate(&path.index(i + 1), *next)),
            Some(next) if next < feature => {
                errors.push(FieldError::invalid(
                    &path.index(i + 1),
                    *next,
                    "list must be sorted alphabetically",
                ));
            }
            _ => {}
        }
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = validate(new);
    errors.extend(validate_change(new, old));
    errors
}

fn validate_change(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = amounts(new);
    errors.extend(features(new));
    let mut seen: Vec<&Value> = Vec::new();
    for (i, address) in new.items("/status/addresses").iter().enumerate() {
        if seen.contains(&address) {
            let path = Path::new("status").child("addresses").index(i);
            let shown = format!(
                "{{\"Type\":{},\"Address\":{}}}",
                go_json(address.at("/type")),
                go_json(address.at("/address"))
            );
            errors.push(FieldError::duplicate(&path, BadValue::Raw(shown)));
        }
        seen.push(address);
    }
    let before = old.items("/spec/podCIDRs");
    if !before.is_empty() && new.items("/spec/podCIDRs") != before {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&Path::new("spec").child("podCIDRs"), why));
    }
    let id = old.text("/spec/providerID");
    if !id.is_empty() && new.text("/spec/providerID") != id {
        let why = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&Path::new("spec").child("providerID"), why));
    }
    errors.extend(taints(new.items("/spec/taints")));
    if new.text("/spec/externalID") != old.text("/spec/externalID") {
        errors.push(FieldError::forbidden(
            &Path::new("spec").child("externalID"),
            "may not be updated",
        ));
    }
    errors
}

fn warnings(node: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if node.has("/spec/configSource") {
        warnings.push("spec.configSource: the feature is removed".to_string());
    }
    if !node.text("/spec/externalID").is_empty() {
        warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_string());
    }
    let path = Path::new("spec").child("podCIDRs");
    for (i, cidr) in node.items("/spec/podCIDRs").iter().enumerate() {
        warnings.extend(name::cidr_warnings(&path.index(i), cidr.as_str().unwrap_or_default()));
    }
    warnings
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", "string", 0, "The status of the node"),
    column("Roles", "string", 0, "The roles of the node"),
    AGE,
    column(
        "Version",
        "string",
        0,
        "The version of the kubelet that the node reports.",
    ),
    column(
        "Internal-IP",
        "string",
        1,
        "The first internal address that the node reports.",
    ),
    column(
        "External-IP",
        "string",
        1,
        "The first external address that the node reports.",
    ),
    column("OS-Image", "string", 1, "The operating system that the node reports."),
    column("Kernel-Version", "string", 1, "The kernel that the node reports."),
    column(
        "Container-Runtime",
        "string",
        1,
        "The container runtime and its version that the node reports.",
    ),
];

fn row(node: &Value, now: &Timestamp) -> Vec<Value> {
    let ready = node
        .items("/status/conditions")
        .iter()
        .rfind(|c| c.text("/type") == "Ready");
    let mut status = match ready.map(|c| c.text("/status")) {
        Some("True") => "Ready".to_string(),
        Some(_) => "NotReady".to_string(),
        None => "Unknown".to_string(),
    };
    if node.flag("/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles = BTreeSet::new();
    for (key, value) in node.entries("/metadata/labels").into_iter().flatten() {
        match key.strip_prefix(ROLE_PREFIX) {
            Some(role) if !role.is_empty() => {
                roles.insert(role);
            }
            _ if key == "kubernetes.io/role" => {
                roles.extend(value.as_str().filter(|v| !v.is_empty()));
            }
            _ => {}
        }
    }
    let roles: Vec<&str> = roles.into_iter().collect();
    let or = |text: &str, other: &str| {
        if text.is_empty() {
            other.to_string()
        } else {
            text.to_string()
        }
    };
    let address = |kind: &str| {
        let found = node.items("/status/addresses").iter().find(|a| a.text("/type") == kind);
        Value::from(found.map_or("<none>", |a| a.text("/address")))
    };
    let info = |key: &str| or(node.text(&format!("/status/nodeInfo/{key}")), "<unknown>");
    let mut kernel = info("kernelVersion");
    let architecture = node.text("/status/nodeInfo/architecture");
    if !architecture.is_empty() {
        kernel.push_str(&format!(" ({architecture})"));
    }
    vec![
        node.text("/metadata/name").into(),
        status.into(),
        or(&roles.join(","), "<none>").into(),
        table::age(node, now),
        node.text("/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage").into(),
        kernel.into(),
        info("containerRuntimeVersion").into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults_of_nodes_have_upstreams_words() {
        let node = json!({"spec": {"taints": [{"key": "a", "effect": "Never"}, {"key": "a", "effect": "Never"}],
            "podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}, "status": {"capacity": {"pods": "1500m"}}});
        assert_eq!(
            texts(&validate(&node)),
            [
                "metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "metadata.taints[1].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"Never\",\"TimeAdded\":null}: taints must be unique by key and effect pair",
                "status.capacity.pods: Invalid value: \"1500m\": must be an integer",
                "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for each IP family",
            ]
        );
    }

    #[test]
    fn an_assigned_range_stays() {
        let old = json!({"spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "x"}});
        let new = json!({"spec": {"podCIDRs": ["10.0.1.0/24"]}});
        assert_eq!(
            texts(&validate_change(&new, &old)),
            [
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid"
            ]
        );
    }

    #[test]
    fn the_row_shows_readiness_cordon_and_roles() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "db"}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kernelVersion": "6.1", "architecture": "amd64"}}});
        let cells = row(&node, &Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1], "Ready,SchedulingDisabled");
        assert_eq!(cells[2], "db,worker");
        assert_eq!(cells[8], "6.1 (amd64)");
    }
}
