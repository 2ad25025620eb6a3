//! ResourceQuotas: how much of everything a namespace may use. Admission charges them.

use crate::internal;
use crate::resources::{self, is_standard_quota};
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, put_back, set, strings};
use crate::{Column, Kind, Status, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ResourceQuota",
    plural: "resourcequotas",
    default: |quota| {
        for (part, key) in [("spec", "hard"), ("status", "hard"), ("status", "used")] {
            resources::round_up(quota.get_mut(part).and_then(|p| p.get_mut(key)));
        }
    },
    prepare_create: |quota, _| set(quota, "status", json!({})),
    prepare_update: |new, old, _| put_back(new, old, "status"),
    validate,
    validate_update,
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    status: Some(Status {
        prepare: |new, old, _| put_back(new, old, "spec"),
        validate: |new, _| amounts(new, "status"),
    }),
    updates: &[],
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: v1
kind: ResourceQuota
metadata: {name: team, namespace: default}
spec: {hard: {pods: '10', requests.cpu: '4'}}
",
};

/// Faults of `hard` and `used`.
fn amounts(quota: &Value, part: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["hard", "used"] {
        let path = Path::new(part).child(key);
        for (resource, amount) in quota.entries(&format!("/{part}/{key}")).into_iter().flatten() {
            let at = path.key(resource);
            errors.extend(resources::validate_name(resource, &at));
            if !resource.contains('/') && !is_standard_quota(resource) {
                errors.push(FieldError::invalid(
                    &at,
                    resource,
                    "must be a standard resource for quota",
                ));
            }
            errors.extend(resources::validate_quantity(
                resource,
                amount.as_str().unwrap_or_default(),
                &at,
            ));
        }
    }
    errors
}

fn fits(scope: &str, resource: &str) -> bool {
    let compute = ["cpu", "memory"].iter().any(|c| {
        resource
            .strip_prefix("limits.")
            .or_else(|| resource.strip_prefix("requests."))
            .unwrap_or(resource)
            == *c
    });
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            resource == "pods" || compute
        }
        _ => true,
    }
}

fn conflict(scopes: &BTreeSet<&str>) -> bool {
    [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]]
        .iter()
        .any(|pair| pair.iter().all(|s| scopes.contains(s)))
}

fn validate(quota: &Value) -> FieldErrors {
    let mut errors = validate_spec(quota);
    errors.extend(amounts(quota, "status"));
    errors
}

fn validate_spec(quota: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let spec = quota.at("/spec");
    let mut errors = amounts(quota, "spec");
    let hard: Vec<&str> = spec
        .entries("/hard")
        .into_iter()
        .flatten()
        .map(|(k, _)| k.as_str())
        .collect();
    let misfits = |scope: &str| hard.iter().filter(|r| is_standard_quota(r) && !fits(scope, r)).count();
    let scopes = spec.items("/scopes");
    let at = path.child("scopes");
    for scope in strings(scopes) {
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(&at, scopes, "unsupported scope"));
        }
        for _ in 0..misfits(scope) {
            errors.push(FieldError::invalid(
                &at,
                scopes,
                "unsupported scope applied to resource",
            ));
        }
    }
    if conflict(&strings(scopes).collect()) {
        errors.push(FieldError::invalid(&at, scopes, "conflicting scopes"));
    }
    let place = path.child("scopeSelector").child("matchExpressions");
    let list = spec.items("/scopeSelector/matchExpressions");
    for requirement in list {
        let (scope, operator) = (requirement.text("/scopeName"), requirement.text("/operator"));
        let values = requirement.items("/values");
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(
                &place.child("scopeName"),
                scope,
                "unsupported scope",
            ));
        }
        for _ in 0..misfits(scope) {
            let shown = BadValue::Raw(internal::compact("ScopeSelector", spec.at("/scopeSelector")));
            errors.push(FieldError::invalid(
                &place,
                shown,
                "unsupported scope applied to resource",
            ));
        }
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass")
            && SCOPES.contains(&scope)
            && operator != "Exists"
        {
            let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(FieldError::invalid(&place.child("operator"), operator, why));
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(FieldError::required(&place.child("values"), why));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(FieldError::invalid(&place.child("values"), values, why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => {
                let why = "not a valid selector operator";
                errors.push(FieldError::invalid(&place.child("operator"), operator, why));
            }
        }
    }
    if conflict(&list.iter().map(|r| r.text("/scopeName")).collect()) {
        errors.push(FieldError::invalid(&place, scopes, "conflicting scopes"));
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = validate_spec(new);
    let of = |q: &Value| -> BTreeSet<String> { strings(q.items("/spec/scopes")).map(str::to_string).collect() };
    if of(new) != of(old) {
        let at = Path::new("spec").child("scopes");
        errors.push(FieldError::invalid(
            &at,
            new.items("/spec/scopes"),
            "field is immutable",
        ));
    }
    errors
}

const COLUMNS: &[Column] = &[
    NAME,
    column(
        "Request",
        "string",
        0,
        "Request represents a minimum amount of cpu/memory that a container may consume.",
    ),
    column(
        "Limit",
        "string",
        0,
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    AGE,
];

fn row(quota: &Value, now: &Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in quota.entries("/status/hard").into_iter().flatten() {
        let used = quota
            .entries("/status/used")
            .and_then(|u| u.get(resource))
            .and_then(Value::as_str)
            .unwrap_or("0");
        let text = format!("{resource}: {used}/{}", hard.as_str().unwrap_or("0"));
        if resource.starts_with("limits.") {
            limits.push(text)
        } else {
            requests.push(text)
        }
    }
    vec![
        quota.text("/metadata/name").into(),
        requests.join(", ").into(),
        limits.join(", ").into(),
        table::age(quota, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_quotas_have_upstreams_words() {
        let quota = json!({"spec": {"hard": {"pods": "1.5", "gpu": "1", "services": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}});
        let texts: Vec<String> = validate(&quota).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.hard[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                "spec.hard[gpu]: Invalid value: \"gpu\": must be a standard resource for quota",
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ]
        );
    }

    #[test]
    fn the_row_keeps_limits_apart() {
        let quota = json!({"status": {"hard": {"limits.cpu": "4", "pods": "10"}, "used": {"pods": "3"}}});
        let cells = row(&quota, &Timestamp::UNIX_EPOCH);
        assert_eq!(
            (&cells[1], &cells[2]),
            (&json!("pods: 3/10"), &json!("limits.cpu: 0/4"))
        );
    }
}
