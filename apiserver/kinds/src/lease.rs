//! Leases: who holds what, and until when. Leader election and node heartbeats live on them.

use crate::table::{self, AGE, NAME, column};
use crate::view::{View, remove};
use crate::{Column, Kind, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    default: nothing::default,
    prepare_create: |lease, _| drop_gated(lease, None),
    prepare_update: |new, old, _| drop_gated(new, Some(old)),
    validate,
    validate_update: |new, _| validate(new),
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    status: None,
    updates: &[],
    generation: false,
    create_on_update: true,
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
    example: "apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: leader, namespace: default}
spec: {holderIdentity: me, leaseDurationSeconds: 15}
",
};

/// Takes away fields behind a feature gate that is off in v1.36 (CoordinatedLeaderElection).
fn drop_gated(lease: &mut Value, old: Option<&Value>) {
    let Some(spec) = lease.get_mut("spec") else { return };
    for key in ["strategy", "preferredHolder"] {
        if old.is_none_or(|o| o.at("/spec").get(key).is_none_or(Value::is_null)) {
            remove(spec, key);
        }
    }
}

fn validate(lease: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    if let Some(seconds) = lease.at("/spec/leaseDurationSeconds").as_i64().filter(|s| *s <= 0) {
        errors.push(FieldError::invalid(
            &path.child("leaseDurationSeconds"),
            seconds,
            "must be greater than 0",
        ));
    }
    if let Some(count) = lease.at("/spec/leaseTransitions").as_i64().filter(|c| *c < 0) {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(&path.child("leaseTransitions"), count, why));
    }
    let strategy = lease.text("/spec/strategy");
    if lease.has("/spec/strategy") {
        errors.extend(strategy_faults(strategy, &path.child("strategy")));
    }
    if !lease.text("/spec/preferredHolder").is_empty() && strategy.is_empty() {
        let why = "may only be specified if `strategy` is defined";
        errors.push(FieldError::forbidden(&path.child("preferredHolder"), why));
    }
    errors
}

/// Strategies with a domain are anybody's; those without must be known. Upstream repeats the field in these paths.
fn strategy_faults(strategy: &str, path: &Path) -> FieldErrors {
    let path = path.child("strategy");
    if !strategy.contains('/') {
        let known = strategy == "OldestEmulationVersion";
        let fault = || FieldError::not_supported(&path, strategy, &["OldestEmulationVersion"]);
        return (!known).then(fault).into_iter().collect();
    }
    name::qualified_name(strategy)
        .into_iter()
        .map(|m| FieldError::invalid(&path, strategy, m))
        .collect()
}

const COLUMNS: &[Column] = &[
    NAME,
    column(
        "Holder",
        "string",
        0,
        "The identity of whoever holds the lease, as it calls itself.",
    ),
    AGE,
];

fn row(lease: &Value, now: &Timestamp) -> Vec<Value> {
    vec![
        lease.text("/metadata/name").into(),
        lease.text("/spec/holderIdentity").into(),
        table::age(lease, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_lease_lasts_and_never_loses_transitions() {
        let lease = json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "x"}});
        let texts: Vec<String> = validate(&lease).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
            ]
        );
    }
}
