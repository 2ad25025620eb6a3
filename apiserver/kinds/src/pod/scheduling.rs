//! Where a pod may run: selectors of nodes, affinity to pods, tolerations, spreading, gates.

use super::Options;
use crate::view::{View, invalid, positive, strings};
use crate::{meta, selector};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;
use steersman_types::LabelSelector;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const WEIGHT: &str = "must be in the range 1-100";
const NO_SELECTOR: &str = "must not be specified when labelSelector is not set";
const IN_BOTH: &str = "exists in both matchLabelKeys and labelSelector";

/// Faults of `affinity`.
pub fn affinity(affinity: &Value, options: Options, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let node = affinity.at("/nodeAffinity");
    let place = path.child("nodeAffinity");
    if let Some(required) = node.get(REQUIRED).filter(|v| !v.is_null()) {
        errors.extend(node_selector(required, options.lenient, &place.child(REQUIRED)));
    }
    for (i, term) in node.items(&format!("/{PREFERRED}")).iter().enumerate() {
        let at = place.child(PREFERRED).index(i);
        errors.extend(weight(term, &at));
        errors.extend(node_term(term.at("/preference"), true, &at.child("preference")));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let place = path.child(kind);
        for (i, term) in affinity.items(&format!("/{kind}/{REQUIRED}")).iter().enumerate() {
            errors.extend(pod_term(term, options, &place.child(REQUIRED).index(i)));
        }
        for (i, term) in affinity.items(&format!("/{kind}/{PREFERRED}")).iter().enumerate() {
            let at = place.child(PREFERRED).index(i);
            errors.extend(weight(term, &at));
            errors.extend(pod_term(
                term.at("/podAffinityTerm"),
                options,
                &at.child("podAffinityTerm"),
            ));
        }
    }
    errors
}

fn weight(term: &Value, path: &Path) -> Option<FieldError> {
    let weight = term.int("/weight");
    (!(1..=100).contains(&weight)).then(|| FieldError::invalid(&path.child("weight"), weight, WEIGHT))
}

/// Faults of a selector of nodes. `lenient` lets values pass that are no label values.
pub fn node_selector(selector: &Value, lenient: bool, path: &Path) -> FieldErrors {
    let place = path.child("nodeSelectorTerms");
    let terms = selector.items("/nodeSelectorTerms");
    if terms.is_empty() {
        return vec![FieldError::required(
            &place,
            "must have at least one node selector term",
        )];
    }
    terms
        .iter()
        .enumerate()
        .flat_map(|(i, term)| node_term(term, lenient, &place.index(i)))
        .collect()
}

fn node_term(term: &Value, lenient: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, requirement) in term.items("/matchExpressions").iter().enumerate() {
        errors.extend(node_requirement(
            requirement,
            lenient,
            &path.child("matchExpressions").index(i),
        ));
    }
    for (i, requirement) in term.items("/matchFields").iter().enumerate() {
        errors.extend(node_field(requirement, &path.child("matchFields").index(i)));
    }
    errors
}

fn node_requirement(requirement: &Value, lenient: bool, path: &Path) -> FieldErrors {
    let values = requirement.items("/values");
    let place = path.child("values");
    let mut errors = Vec::new();
    match requirement.text("/operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(FieldError::required(
                &place,
                "must be specified when `operator` is 'In' or 'NotIn'",
            ));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&place, why));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&place, why));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(
            &path.child("operator"),
            other,
            "not a valid selector operator",
        )),
    }
    let key = requirement.text("/key");
    errors.extend(invalid(&path.child("key"), key, name::qualified_name(key)));
    if !lenient {
        for (i, value) in strings(values).enumerate() {
            errors.extend(invalid(&place.index(i), value, name::label_value(value)));
        }
    }
    errors
}

fn node_field(requirement: &Value, path: &Path) -> FieldErrors {
    let values = requirement.items("/values");
    let place = path.child("values");
    let mut errors = Vec::new();
    match requirement.text("/operator") {
        "In" | "NotIn" if values.len() != 1 => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(&place, why));
        }
        "In" | "NotIn" => {}
        other => errors.push(FieldError::invalid(
            &path.child("operator"),
            other,
            "not a valid selector operator",
        )),
    }
    let key = requirement.text("/key");
    if key != "metadata.name" {
        errors.push(FieldError::invalid(
            &path.child("key"),
            key,
            "not a valid field selector key",
        ));
    } else {
        for (i, value) in strings(values).enumerate() {
            errors.extend(invalid(&place.index(i), value, name::dns1123_subdomain(value)));
        }
    }
    errors
}

fn typed_selector(value: &Value) -> Option<LabelSelector> {
    LabelSelector::deserialize(value).ok()
}

fn pod_term(term: &Value, options: Options, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["labelSelector", "namespaceSelector"] {
        if let Some(typed) = term.get(key).filter(|v| !v.is_null()).and_then(typed_selector) {
            errors.extend(selector::validate(&typed, options.lenient, &path.child(key)));
        }
    }
    for namespace in strings(term.items("/namespaces")) {
        errors.extend(invalid(
            &path.child("namespace"),
            namespace,
            name::dns1123_label(namespace),
        ));
    }
    errors.extend(label_keys(term, path));
    let key = term.text("/topologyKey");
    let place = path.child("topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(&place, "can not be empty"));
    }
    errors.extend(invalid(&place, key, name::qualified_name(key)));
    errors
}

/// Faults of `matchLabelKeys` and `mismatchLabelKeys` beside a `labelSelector`.
fn label_keys(holder: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let (matching, other) = (holder.items("/matchLabelKeys"), holder.items("/mismatchLabelKeys"));
    let has_selector = holder.has("/labelSelector");
    for (key, list) in [("matchLabelKeys", matching), ("mismatchLabelKeys", other)] {
        let place = path.child(key);
        if list.is_empty() {
            continue;
        }
        if !has_selector {
            errors.push(FieldError::forbidden(&place, NO_SELECTOR));
            continue;
        }
        for (i, text) in strings(list).enumerate() {
            errors.extend(invalid(&place.index(i), text, name::qualified_name(text)));
        }
    }
    // A key may be in the selector once: the server itself has put it there on create.
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    seen.extend(
        holder
            .entries("/labelSelector/matchLabels")
            .into_iter()
            .flatten()
            .map(|(k, _)| k.as_str()),
    );
    for expression in holder.items("/labelSelector/matchExpressions") {
        let key = expression.text("/key");
        if let Some(i) = matching.iter().position(|k| k == key)
            && seen.contains(key)
        {
            errors.push(FieldError::invalid(&path.index(i), key, IN_BOTH));
        }
        seen.insert(key);
    }
    for (i, key) in strings(matching).enumerate() {
        if other.iter().any(|o| o == key) {
            let why = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(FieldError::invalid(&path.child("matchLabelKeys").index(i), key, why));
        }
    }
    errors
}

/// Faults of `tolerations`.
pub fn tolerations(list: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, toleration) in list.iter().enumerate() {
        let path = path.index(i);
        let (key, value) = (toleration.text("/key"), toleration.text("/value"));
        let (operator, effect) = (toleration.text("/operator"), toleration.text("/effect"));
        let place = path.child("operator");
        if !key.is_empty() {
            errors.extend(invalid(&path.child("key"), key, name::qualified_name(key)));
        } else if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&place, operator, why));
        }
        if toleration.has("/tolerationSeconds") && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&path.child("effect"), effect, why));
        }
        match operator {
            "Equal" | "" => {
                let faults = name::label_value(value);
                if !faults.is_empty() {
                    errors.push(FieldError::invalid(&place, value, faults.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.push(FieldError::invalid(
                    &place,
                    value,
                    "value must be empty when `operator` is 'Exists'",
                ));
            }
            "Exists" => {}
            "Lt" | "Gt" => {
                errors.push(FieldError::not_supported(
                    &place,
                    operator,
                    &["Equal", "Exists", "Lt", "Gt"],
                ));
            }
            _ => errors.push(FieldError::not_supported(&place, operator, &["Equal", "Exists"])),
        }
        if !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            errors.push(FieldError::not_supported(&path.child("effect"), effect, &known));
        }
    }
    errors
}

/// Faults of `topologySpreadConstraints`.
pub fn spread(list: &[Value], options: Options, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, constraint) in list.iter().enumerate() {
        let path = path.index(i);
        errors.extend(positive(&path.child("maxSkew"), constraint.int("/maxSkew")));
        let (key, action) = (constraint.text("/topologyKey"), constraint.text("/whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
        }
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            let known = ["DoNotSchedule", "ScheduleAnyway"];
            errors.push(FieldError::not_supported(
                &path.child("whenUnsatisfiable"),
                action,
                &known,
            ));
        }
        let again = |other: &Value| other.text("/topologyKey") == key && other.text("/whenUnsatisfiable") == action;
        if list.iter().skip(i + 1).any(again) {
            let place = path.child("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(&place, format!("{{{key}, {action}}}")));
        }
        if let Some(domains) = constraint.at("/minDomains").as_i64() {
            let place = path.child("minDomains");
            errors.extend(positive(&place, domains));
            if action != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(FieldError::invalid(&place, domains, why));
            }
        }
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = constraint
                .get(key)
                .and_then(Value::as_str)
                .filter(|p| !matches!(*p, "Honor" | "Ignore"));
            errors.extend(policy.map(|p| FieldError::not_supported(&path.child(key), p, &["Honor", "Ignore"])));
        }
        if !options.lenient {
            errors.extend(label_keys(constraint, &path));
            if let Some(typed) = constraint
                .get("labelSelector")
                .filter(|v| !v.is_null())
                .and_then(typed_selector)
            {
                errors.extend(selector::validate(&typed, false, &path.child("labelSelector")));
            }
        }
    }
    errors
}

/// Faults of `schedulingGates`.
pub fn gates(list: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, gate) in list.iter().enumerate() {
        let (own, path) = (gate.text("/name"), path.index(i));
        errors.extend(invalid(&path, own, name::qualified_name(own)));
        if !seen.insert(own) {
            errors.push(FieldError::duplicate(&path, own));
        }
    }
    errors
}

/// Labels of nodes that have newer names.
const RENAMED: &[(&str, &str)] = &[
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Whether two affinities of a volume differ in nothing but that old names of labels became the new ones.
pub fn same_but_for_old_labels(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, new)| {
                    b.get(key).is_some_and(|old| {
                        let renamed = key == "key" && RENAMED.iter().any(|(from, to)| old == from && new == to);
                        renamed || same_but_for_old_labels(new, old)
                    })
                })
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_but_for_old_labels(a, b))
        }
        (new, old) => new == old,
    }
}

/// Faults of `nodeSelector`.
pub fn node_labels(labels: &Value, path: &Path) -> FieldErrors {
    let all = labels.as_object().into_iter().flatten();
    meta::validate_labels(all.map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default())), path)
}

/// Puts the pod's own labels behind `matchLabelKeys` into the selectors they narrow: upstream does so once, on create.
pub fn merge_label_keys(pod: &mut Value) {
    let labels = pod.at("/metadata/labels").clone();
    let mut narrow = |holder: &mut Value| {
        if !holder.has("/labelSelector") {
            return;
        }
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let keys: Vec<String> = strings(holder.items(&format!("/{field}")))
                .map(str::to_string)
                .collect();
            for key in keys {
                let Some(value) = labels.get(&key) else { continue };
                let expression = serde_json::json!({"key": key, "operator": operator, "values": [value]});
                if let Some(selector) = holder.get_mut("labelSelector") {
                    let mut list = selector.items("/matchExpressions").to_vec();
                    list.push(expression);
                    crate::view::set(selector, "matchExpressions", list);
                }
            }
        }
    };
    for kind in ["podAffinity", "podAntiAffinity"] {
        for term in crate::view::each_mut(pod, &format!("/spec/affinity/{kind}/{PREFERRED}")) {
            if let Some(term) = term.get_mut("podAffinityTerm") {
                narrow(term);
            }
        }
        crate::view::each_mut(pod, &format!("/spec/affinity/{kind}/{REQUIRED}")).for_each(&mut narrow);
    }
    crate::view::each_mut(pod, "/spec/topologySpreadConstraints").for_each(narrow);
}
