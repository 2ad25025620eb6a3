//! Reads `policy.txt`. A line that it cannot read is left out, which the tests would notice: the text is part of the program.

use serde_json::{Value, json};

use super::{AUTO_UPDATE, rule_value};
use crate::authz::Rule;
use crate::authz::rbac::GROUP;

const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// The objects of a policy text: ClusterRoles, ClusterRoleBindings, Roles, RoleBindings.
pub(super) fn parse(policy: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in policy.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["role", name, options @ ..] => objects.push(role(name, options)),
            ["binding", name, "of", kind, role, "to", subjects @ ..] => {
                objects.push(binding(name, kind, role, subjects))
            }
            ["binding", name, "of", kind, role] => objects.push(binding(name, kind, role, &[])),
            rule => {
                let rules = objects.last_mut().and_then(|o| o["rules"].as_array_mut());
                if let (Some(rules), Some(rule)) = (rules, parse_rule(rule)) {
                    rules.push(rule_value(&rule));
                }
            }
        }
    }
    let rank = |object: &Value| match object["kind"].as_str() {
        Some("ClusterRole") => 0,
        Some("ClusterRoleBinding") => 1,
        Some("Role") => 2,
        _ => 3,
    };
    objects.sort_by_key(rank);
    objects
}

fn object(kind: &str, name: &str) -> Value {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let kind = if namespace.is_empty() {
        format!("Cluster{kind}")
    } else {
        kind.to_owned()
    };
    let mut out = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                     "annotations": {AUTO_UPDATE: "true"}},
    });
    if !namespace.is_empty() {
        out["metadata"]["namespace"] = namespace.into();
    }
    out
}

fn role(name: &str, options: &[&str]) -> Value {
    let mut out = object("Role", name);
    out["rules"] = json!([]);
    for pair in options.chunks(2) {
        match pair {
            ["into", target] => out["metadata"]["labels"][format!("{AGGREGATE}{target}")] = "true".into(),
            ["from", sources] => {
                let selector = |source: &str| json!({"matchLabels": {format!("{AGGREGATE}{source}"): "true"}});
                let selectors: Vec<Value> = sources.split(',').map(selector).collect();
                out["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
            }
            _ => {}
        }
    }
    out
}

fn binding(name: &str, kind: &str, role: &str, subjects: &[&str]) -> Value {
    let mut out = object("RoleBinding", name);
    let kind = if kind == "clusterrole" { "ClusterRole" } else { "Role" };
    out["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": role});
    let subjects = subjects.chunks(2).filter_map(|pair| {
        let [kind, name] = pair else { return None };
        let name = name.trim_end_matches(';');
        match *kind {
            "user" => Some(json!({"apiGroup": GROUP, "kind": "User", "name": name})),
            "group" => Some(json!({"apiGroup": GROUP, "kind": "Group", "name": name})),
            "account" => {
                let (namespace, name) = name.split_once('/')?;
                Some(json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}))
            }
            _ => None,
        }
    });
    let subjects: Vec<Value> = subjects.collect();
    if !subjects.is_empty() {
        out["subjects"] = subjects.into();
    }
    out
}

fn parse_rule(words: &[&str]) -> Option<Rule> {
    let list = |text: &str| {
        text.split(',')
            .map(|s| if s == "-" { String::new() } else { s.to_owned() })
            .collect()
    };
    match words {
        [verbs, "url", paths] => Some(Rule {
            verbs: list(verbs),
            paths: list(paths),
            ..Rule::default()
        }),
        [verbs, groups, resources, rest @ ..] => {
            let resource_names = match rest {
                [] => Vec::new(),
                ["named", names] => list(names),
                _ => return None,
            };
            let (verbs, groups, resources) = (list(verbs), list(groups), list(resources));
            Some(Rule {
                verbs,
                groups,
                resources,
                resource_names,
                paths: Vec::new(),
            })
        }
        _ => None,
    }
}
