//! PriorityClasses: a number behind a name. Two belong to the system; user-made ones stay below a billion.

use crate::table::{self, AGE, NAME, column};
use crate::view::{View, set_default};
use crate::{Column, Kind, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};

const USER_MAX: i64 = 1_000_000_000;
/// The system's own classes: name, value, description.
pub const SYSTEM: &[(&str, i64, &str)] = &[
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    default: |class| set_default(class, "preemptionPolicy", "PreemptLowerPriority"),
    // Counted once, for ever: upstream does not raise it.
    prepare_create: |class, _| first_generation(class),
    prepare_update: nothing::prepare_update,
    validate,
    validate_update,
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    status: None,
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
    example: "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 1000\n",
};

fn first_generation(class: &mut Value) {
    if let Some(metadata) = class.get_mut("metadata") {
        crate::view::set(metadata, "generation", 1);
    }
}

fn validate(class: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let name = class.text("/metadata/name");
    let value = class.int("/value");
    if name.starts_with("system-") {
        let fault = match SYSTEM.iter().find(|s| s.0 == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some(s) if s.1 != value => Some(format!("value of {name} PriorityClass must be {}", s.1)),
            Some(_) if class.flag("/globalDefault") => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(fault) = fault {
            let path = Path::new("metadata").child("name");
            let why =
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {fault}");
            errors.push(FieldError::forbidden(&path, why));
        }
    } else if value > USER_MAX {
        let why = format!("maximum allowed value of a user defined priority is {USER_MAX}");
        errors.push(FieldError::forbidden(&Path::new("value"), why));
    }
    if class.has("/preemptionPolicy") {
        errors.extend(preemption_policy(
            class.text("/preemptionPolicy"),
            &Path::new("preemptionPolicy"),
        ));
    }
    errors
}

/// Faults of a preemption policy, of classes and of pods.
pub(crate) fn preemption_policy(policy: &str, path: &Path) -> FieldErrors {
    match policy {
        "PreemptLowerPriority" | "Never" => Vec::new(),
        "" => vec![FieldError::required(path, "")],
        _ => vec![FieldError::not_supported(
            path,
            policy,
            &["PreemptLowerPriority", "Never"],
        )],
    }
}

fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    if new.int("/value") != old.int("/value") {
        errors.push(FieldError::forbidden(
            &Path::new("value"),
            "may not be changed in an update.",
        ));
    }
    if new.at("/preemptionPolicy") != old.at("/preemptionPolicy") {
        let path = Path::new("preemptionPolicy");
        errors.push(FieldError::invalid(
            &path,
            new.at("/preemptionPolicy"),
            "field is immutable",
        ));
    }
    errors
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Value", "integer", 0, "The priority that pods of this class get."),
    column(
        "Global-Default",
        "boolean",
        0,
        "Whether pods that name no class get this one.",
    ),
    AGE,
    column(
        "PreemptionPolicy",
        "string",
        0,
        "Whether such pods may push out others of lower priority.",
    ),
];

fn row(class: &Value, now: &Timestamp) -> Vec<Value> {
    vec![
        class.text("/metadata/name").into(),
        class.int("/value").into(),
        class.flag("/globalDefault").into(),
        table::age(class, now),
        class.text("/preemptionPolicy").into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn system_names_are_the_systems() {
        let class = json!({"metadata": {"name": "system-x"}, "value": 1});
        assert_eq!(
            validate(&class)[0].to_string(),
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class"
        );
        let class = json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000_i64});
        assert!(validate(&class).is_empty());
    }

    #[test]
    fn the_value_is_bounded_and_fixed() {
        let class = json!({"metadata": {"name": "x"}, "value": 1_000_000_001});
        assert_eq!(
            validate(&class)[0].to_string(),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"
        );
        assert_eq!(
            validate_update(&class, &json!({"value": 1}))[0].to_string(),
            "value: Forbidden: may not be changed in an update."
        );
    }
}
