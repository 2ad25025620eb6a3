//! What a cluster starts with: roles and bindings ([`policy`]), namespaces and priority classes ([`objects`]), and how an
//! existing object is brought up to date without taking anything away ([`reconcile`]).
//!
//! The server writes these at start, every time. An object whose annotation `rbac.authorization.kubernetes.io/autoupdate`
//! is `false` is left alone. Roles and bindings are data in `policy.txt`, in a form that a person can review.

mod parse;

use serde_json::{Map, Value, json};

use crate::authz::Rule;
use crate::authz::rbac::{GROUP, missing, rules_of};
use crate::lister::{items, text};

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const POLICY: &str = include_str!("policy.txt");

/// ClusterRoles, ClusterRoleBindings, Roles, RoleBindings, in the order in which they are to be written.
///
/// `admin`, `edit` and `view` come with the rules that the aggregation controller would gather, so that they hold from
/// the first moment on.
pub fn policy() -> Vec<Value> {
    let mut objects = parse::parse(POLICY);
    aggregate(&mut objects);
    objects
}

/// The system's namespaces and priority classes.
pub fn objects() -> Vec<Value> {
    let namespace = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Namespace",
               "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}})
    };
    let class = |name: &str, value: i64, description: &str| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
               "value": value, "description": description})
    };
    let mut out: Vec<Value> = ["kube-system", "kube-public", "kube-node-lease", "default"]
        .map(namespace)
        .to_vec();
    out.push(class(
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ));
    out.push(class(
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ));
    out
}

/// What is to be done about an object that exists.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It says all that it should, or asked to be left alone.
    Nothing,
    Update(Value),
    /// Its role reference differs and cannot be changed: delete it (by its uid) and create this one.
    Recreate(Value),
}

/// Compares an existing role or binding with the one wanted. Rules, subjects, labels and annotations that were added stay.
pub fn reconcile(existing: &Value, wanted: &Value) -> Action {
    if text(
        existing,
        "/metadata/annotations/rbac.authorization.kubernetes.io~1autoupdate",
    ) == "false"
    {
        return Action::Nothing;
    }
    if existing.get("roleRef") != wanted.get("roleRef") {
        return Action::Recreate(wanted.clone());
    }
    let mut updated = existing.clone();
    if !updated["metadata"].is_object() {
        updated["metadata"] = json!({});
    }
    for field in ["labels", "annotations"] {
        let Some(want) = wanted.pointer(&format!("/metadata/{field}")).and_then(Value::as_object) else {
            continue;
        };
        let have = updated["metadata"]
            .as_object_mut()
            .map(|m| m.entry(field).or_insert_with(|| json!({})));
        if let Some(Value::Object(have)) = have {
            for (key, value) in want {
                have.entry(key).or_insert_with(|| value.clone());
            }
        }
    }
    if wanted.get("roleRef").is_some() {
        let have = items(existing, "/subjects");
        add(
            &mut updated,
            "subjects",
            items(wanted, "/subjects").iter().filter(|s| !have.contains(s)).cloned(),
        );
    } else {
        let lacking = missing(&rules_of(existing), &rules_of(wanted));
        add(&mut updated, "rules", lacking.iter().map(rule_value));
        reconcile_aggregation(&mut updated, wanted);
    }
    if updated == *existing {
        Action::Nothing
    } else {
        Action::Update(updated)
    }
}

fn reconcile_aggregation(updated: &mut Value, wanted: &Value) {
    let Some(rule) = wanted.get("aggregationRule").filter(|r| r.is_object()) else {
        if let Some(object) = updated.as_object_mut() {
            object.remove("aggregationRule");
        }
        return;
    };
    let have = items(updated, "/aggregationRule/clusterRoleSelectors").to_vec();
    let lacking = items(rule, "/clusterRoleSelectors")
        .iter()
        .filter(|s| !have.contains(s))
        .cloned();
    let lacking: Vec<Value> = lacking.collect();
    if !lacking.is_empty() {
        let all: Vec<Value> = have.into_iter().chain(lacking).collect();
        updated["aggregationRule"] = json!({"clusterRoleSelectors": all});
    }
}

fn add(object: &mut Value, field: &str, more: impl Iterator<Item = Value>) {
    let more: Vec<Value> = more.collect();
    if more.is_empty() {
        return;
    }
    let list = object.as_object_mut().map(|o| o.entry(field).or_insert(Value::Null));
    match list {
        Some(Value::Array(list)) => list.extend(more),
        Some(other) => *other = more.into(),
        None => {}
    }
}

/// A rule as it stands in a role, empty lists left out.
pub(crate) fn rule_value(rule: &Rule) -> Value {
    let lists = [
        ("apiGroups", &rule.groups),
        ("nonResourceURLs", &rule.paths),
        ("resourceNames", &rule.resource_names),
        ("resources", &rule.resources),
        ("verbs", &rule.verbs),
    ];
    let filled = lists.into_iter().filter(|(_, list)| !list.is_empty());
    Value::Object(
        filled
            .map(|(name, list)| (name.to_owned(), json!(list)))
            .collect::<Map<_, _>>(),
    )
}

/// Fills the roles that gather rules by label, until nothing is added (`admin` gathers `edit`, which gathers `view`).
fn aggregate(objects: &mut [Value]) {
    for _ in 0..4 {
        let all: Vec<Value> = objects.to_vec();
        for object in objects.iter_mut() {
            let selectors = items(object, "/aggregationRule/clusterRoleSelectors").to_vec();
            if selectors.is_empty() {
                continue;
            }
            let mut rules: Vec<Value> = Vec::new();
            for source in &all {
                let labels = source.pointer("/metadata/labels").cloned().unwrap_or_default();
                let matches = |selector: &Value| {
                    let wanted = selector.get("matchLabels").and_then(Value::as_object);
                    wanted.is_some_and(|w| w.iter().all(|(key, value)| labels.get(key) == Some(value)))
                };
                if text(source, "/kind") == "ClusterRole" && selectors.iter().any(matches) {
                    let new = items(source, "/rules")
                        .iter()
                        .filter(|r| !rules.contains(r))
                        .cloned()
                        .collect::<Vec<_>>();
                    rules.extend(new);
                }
            }
            object["rules"] = rules.into();
        }
    }
}

/// `(plural, namespaced)` of an object of [`policy`].
pub fn resource_of(object: &Value) -> (&'static str, bool) {
    match text(object, "/kind") {
        "ClusterRole" => ("clusterroles", false),
        "ClusterRoleBinding" => ("clusterrolebindings", false),
        "Role" => ("roles", true),
        _ => ("rolebindings", true),
    }
}

/// The API group of everything in [`policy`].
pub const fn policy_group() -> &'static str {
    GROUP
}

#[cfg(test)]
mod tests;
