//! ControllerRevisions: immutable snapshots that StatefulSets and DaemonSets roll back to.

use crate::table::{self, AGE, NAME, column};
use crate::view::{View, non_negative};
use crate::{Column, Kind, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    default: nothing::default,
    prepare_create: nothing::prepare_create,
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
    example: "apiVersion: apps/v1
kind: ControllerRevision
metadata: {name: db-1, namespace: default}
revision: 1
data: {spec: {}}
",
};

fn validate(revision: &Value) -> FieldErrors {
    let mut errors = non_negative(&Path::new("revision"), revision.int("/revision"));
    let path = Path::new("data");
    match revision.at("/data") {
        Value::Null => errors.push(FieldError::required(&path, "data is mandatory")),
        Value::Object(_) => {}
        _ => errors.push(FieldError::required(&path, "data must be a valid JSON object")),
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = non_negative(&Path::new("revision"), new.int("/revision"));
    if new.at("/data") != old.at("/data") {
        errors.push(FieldError::invalid(
            &Path::new("data"),
            new.at("/data"),
            "field is immutable",
        ));
    }
    errors
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Controller", "string", 0, "Controller of the object"),
    column("Revision", "string", 0, "The number of the snapshot."),
    AGE,
];

fn row(revision: &Value, now: &Timestamp) -> Vec<Value> {
    let owner = revision
        .items("/metadata/ownerReferences")
        .iter()
        .find(|o| o.flag("/controller"));
    let controller = match owner {
        None => "<none>".to_string(),
        Some(owner) => {
            let kind = owner.text("/kind").to_lowercase();
            match owner.text("/apiVersion").split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", owner.text("/name")),
                None => format!("{kind}/{}", owner.text("/name")),
            }
        }
    };
    vec![
        revision.text("/metadata/name").into(),
        controller.into(),
        revision.int("/revision").into(),
        table::age(revision, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_snapshot_never_changes() {
        let old = json!({"revision": 1, "data": {"a": 1}});
        let new = json!({"revision": 2, "data": {"a": 2}});
        assert_eq!(
            validate_update(&new, &old)[0].to_string(),
            "data: Invalid value: {\"a\":2}: field is immutable"
        );
        assert_eq!(
            validate(&json!({}))[0].to_string(),
            "data: Required value: data is mandatory"
        );
    }

    #[test]
    fn the_row_names_the_controller_with_its_group() {
        let revision = json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]}});
        assert_eq!(row(&revision, &Timestamp::UNIX_EPOCH)[1], "statefulset.apps/db");
    }
}
