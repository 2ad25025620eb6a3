//! PodDisruptionBudgets: how many pods may be evicted at a time.

use crate::table::{self, AGE, NAME, column};
use crate::view::{View, put_back, same, set};
use crate::workload::{int_or_percent, non_negatives, up_to_all};
use crate::{Column, Kind, Status, Table, meta, nothing, selector};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, go_json};
use steersman_types::LabelSelector;

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "policy",
    version: "v1",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    default: nothing::default,
    prepare_create: |budget, _| {
        let zero = json!({ "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0 });
        set(budget, "status", zero);
    },
    prepare_update: |new, old, _| put_back(new, old, "status"),
    validate: |budget| validate(budget, false),
    validate_update: |new, old| validate(new, same(new.at("/spec/selector"), old.at("/spec/selector"))),
    warnings: nothing::warnings,
    validate_name: meta::name_path_segment,
    status: Some(Status {
        prepare: |new, old, _| put_back(new, old, "spec"),
        validate: validate_status,
    }),
    updates: &[],
    generation: true,
    create_on_update: false,
    unconditional_update: false,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: default}
spec: {minAvailable: 50%, selector: {matchLabels: {app: web}}}
",
};

fn validate(budget: &Value, lenient: bool) -> FieldErrors {
    let path = Path::new("spec");
    let spec = budget.at("/spec");
    let mut errors = Vec::new();
    if spec.has("/minAvailable") && spec.has("/maxUnavailable") {
        // Upstream prints its internal struct.
        let field = |key: &str| go_json(spec.get(key).unwrap_or(&Value::Null));
        let shown = format!(
            "{{\"MinAvailable\":{},\"Selector\":{},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}",
            field("minAvailable"),
            field("selector"),
            field("maxUnavailable"),
            field("unhealthyPodEvictionPolicy")
        );
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(&path, BadValue::Raw(shown), why));
    }
    for key in ["minAvailable", "maxUnavailable"] {
        if let Some(value) = spec.get(key).filter(|v| !v.is_null()) {
            errors.extend(int_or_percent(value, &path.child(key)));
            errors.extend(up_to_all(value, &path.child(key)));
        }
    }
    if let Some(typed) = spec.get("selector").and_then(|s| LabelSelector::deserialize(s).ok()) {
        errors.extend(selector::validate(&typed, lenient, &path.child("selector")));
    }
    let known = ["AlwaysAllow", "IfHealthyBudget"];
    if let Some(other) = spec
        .at("/unhealthyPodEvictionPolicy")
        .as_str()
        .filter(|p| !known.contains(p))
    {
        errors.push(FieldError::not_supported(
            &path.child("unhealthyPodEvictionPolicy"),
            other,
            &known,
        ));
    }
    errors
}

fn validate_status(new: &Value, _: &Value) -> FieldErrors {
    let path = Path::new("status");
    let status = new.at("/status");
    let mut errors = meta::validate_conditions(status.items("/conditions"), &path.child("conditions"));
    let keys = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
    errors.extend(non_negatives(status, &keys, &path));
    errors
}

const COLUMNS: &[Column] = &[
    NAME,
    column(
        "Min Available",
        "string",
        0,
        "The minimum number of pods that must be available.",
    ),
    column(
        "Max Unavailable",
        "string",
        0,
        "The maximum number of pods that may be unavailable.",
    ),
    column(
        "Allowed Disruptions",
        "integer",
        0,
        "Calculated number of pods that may be disrupted at this time.",
    ),
    AGE,
];

fn row(budget: &Value, now: &Timestamp) -> Vec<Value> {
    let shown = |key: &str| match budget.at("/spec").get(key) {
        None | Some(Value::Null) => Value::from("N/A"),
        Some(Value::String(text)) => Value::from(text.as_str()),
        Some(number) => Value::from(number.to_string()),
    };
    vec![
        budget.text("/metadata/name").into(),
        shown("minAvailable"),
        shown("maxUnavailable"),
        budget.int("/status/disruptionsAllowed").into(),
        table::age(budget, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_counts_one_way() {
        let budget = json!({"spec": {"minAvailable": "120%", "maxUnavailable": -1}});
        let texts: Vec<String> = validate(&budget, false).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec: Invalid value: {\"MinAvailable\":\"120%\",\"Selector\":null,\"MaxUnavailable\":-1,\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set",
                "spec.minAvailable: Invalid value: \"120%\": must not be greater than 100%",
                "spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
    }
}
