//! ReplicaSets, and ReplicationControllers, which came before them: so many pods of one template.

use crate::pod::template;
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, put_back, set, set_default};
use crate::workload::{self, at_most, non_negatives};
use crate::{Column, Kind, Scale, Status, Table, meta, nothing, selector};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use steersman_schema::field::{FieldError, FieldErrors, Path};

const SCALE: Scale = Scale {
    spec_replicas: "/spec/replicas",
    status_replicas: "/status/replicas",
    selector: workload::scale_selector,
};

pub static KINDS: &[&Kind] = &[&KIND, &CONTROLLER];

pub static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    default,
    prepare_create: |set_, context| {
        set(set_, "status", json!({ "replicas": 0 }));
        workload::prepare_template(set_, context);
    },
    prepare_update: |new, old, context| {
        put_back(new, old, "status");
        workload::prepare_template(new, context);
    },
    validate: |set_| validate(set_, None),
    validate_update: |new, old| {
        let mut errors = validate(new, Some(old));
        errors.extend(workload::fixed_selector(new, old));
        errors
    },
    warnings: |new, old| workload::warnings(new, old, true),
    validate_name: meta::name_subdomain,
    status: Some(Status {
        prepare: |new, old, _| put_back(new, old, "spec"),
        validate: |new, _| validate_status(new, &Path::new("status")),
    }),
    updates: &[],
    generation: true,
    create_on_update: false,
    unconditional_update: true,
    scale: Some(SCALE),
    grace: None,
    orphans_by_default: false,
    fields: &[("status.replicas", |s| s.int("/status/replicas").to_string())],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web-1, namespace: default}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: 'registry.example.com/web:1'}]}
",
};

pub static CONTROLLER: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    default: default_controller,
    prepare_create: |controller, context| {
        set(controller, "status", json!({ "replicas": 0 }));
        workload::prepare_template(controller, context);
    },
    prepare_update: |new, old, context| {
        put_back(new, old, "status");
        workload::prepare_template(new, context);
    },
    validate: |controller| validate_controller(controller, None),
    validate_update: |new, old| validate_controller(new, Some(old)),
    // On update upstream warns of the old template.
    warnings: |new, old| match old {
        Some(old) => workload::warnings(old, Some(new), true),
        None => workload::warnings(new, None, true),
    },
    validate_name: name_controller,
    status: Some(Status {
        prepare: |new, old, _| put_back(new, old, "spec"),
        validate: |new, _| validate_status(new, &Path::new("status")),
    }),
    updates: &[],
    generation: true,
    create_on_update: false,
    unconditional_update: true,
    scale: Some(Scale {
        selector: |c| selector::format_map(c.at("/spec/selector")),
        ..SCALE
    }),
    grace: None,
    orphans_by_default: true,
    fields: &[("status.replicas", |s| s.int("/status/replicas").to_string())],
    table: Some(Table {
        columns: COLUMNS,
        row: controller_row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: v1
kind: ReplicationController
metadata: {name: web, namespace: default}
spec:
  replicas: 3
  selector: {app: web}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: 'registry.example.com/web:1'}]}
",
};

fn default(object: &mut Value) {
    template::default(object, "/spec/template");
    if let Some(spec) = child(object, "spec") {
        set_default(spec, "replicas", 1);
    }
}

/// Selector and labels are the template's when not given.
fn default_controller(controller: &mut Value) {
    default(controller);
    let labels = controller.at("/spec/template/metadata/labels").clone();
    if !labels.is_object() {
        return;
    }
    let empty = |v: &Value| v.as_object().is_none_or(Map::is_empty);
    if empty(controller.at("/spec/selector"))
        && let Some(spec) = child(controller, "spec")
    {
        set(spec, "selector", labels.clone());
    }
    if empty(controller.at("/metadata/labels"))
        && let Some(metadata) = child(controller, "metadata")
    {
        set(metadata, "labels", labels);
    }
}

fn validate(object: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = object.at("/spec");
    let mut errors = non_negatives(spec, &["replicas", "minReadySeconds"], &path);
    // Upstream says deployment here too.
    errors.extend(workload::validate_selector(spec, false, "deployment", &path));
    errors.extend(workload::validate_template(
        spec,
        old.map(|o| o.at("/spec")),
        "ReplicaSet",
        &path,
    ));
    errors
}

/// Names of replication controllers are checked by the newer, declarative rule of the same meaning.
fn name_controller(text: &str, prefix: bool) -> Vec<String> {
    let faults = meta::name_subdomain(text, prefix);
    faults
        .into_iter()
        .map(|f| f.replace("253 characters", "253 bytes"))
        .collect()
}

fn validate_controller(controller: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = controller.at("/spec");
    let mut errors = non_negatives(spec, &["minReadySeconds"], &path);
    let wanted = spec.entries("/selector").filter(|s| !s.is_empty());
    if wanted.is_none() {
        errors.push(FieldError::required(&path.child("selector"), ""));
    }
    if !spec.has("/replicas") {
        errors.push(FieldError::required(&path.child("replicas"), ""));
    }
    errors.extend(non_negatives(spec, &["replicas"], &path));
    let at = path.child("template");
    if !spec.has("/template") {
        errors.push(FieldError::required(&at, ""));
        return errors;
    }
    let pod = spec.at("/template");
    let labels = pod.at("/metadata/labels");
    if wanted.is_some_and(|w| w.iter().any(|(k, v)| labels.get(k) != Some(v))) {
        let place = at.child("metadata").child("labels");
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(&place, workload::shown_labels(pod), why));
    }
    errors.extend(template::validate(pod, old.map(|o| o.at("/spec/template")), &at));
    errors.extend(workload::keeps_running(pod, "ReplicationController", &at));
    errors
}

fn validate_status(object: &Value, path: &Path) -> FieldErrors {
    let status = object.at("/status");
    let keys = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ];
    let mut errors = non_negatives(status, &keys, path);
    let total = "cannot be greater than status.replicas";
    let rules = [
        ("fullyLabeledReplicas", "replicas", total),
        ("readyReplicas", "replicas", total),
        ("availableReplicas", "replicas", total),
        (
            "availableReplicas",
            "readyReplicas",
            "cannot be greater than readyReplicas",
        ),
    ];
    errors.extend(at_most(status, &rules, path));
    errors
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", "integer", 0, "How many pods there should be."),
    column("Current", "integer", 0, "How many pods there are."),
    column("Ready", "integer", 0, "How many of them are ready."),
    AGE,
    column("Containers", "string", 1, "Names of each container in the template."),
    column(
        "Images",
        "string",
        1,
        "Images referenced by each container in the template.",
    ),
    column("Selector", "string", 1, "The labels of the pods that belong to it."),
];

fn row(object: &Value, now: &Timestamp) -> Vec<Value> {
    let (names, images) = table::containers(object.at("/spec/template/spec"));
    vec![
        object.text("/metadata/name").into(),
        object.int("/spec/replicas").into(),
        object.int("/status/replicas").into(),
        object.int("/status/readyReplicas").into(),
        table::age(object, now),
        names.into(),
        images.into(),
        table::selector_cell(object.at("/spec/selector")),
    ]
}

fn controller_row(object: &Value, now: &Timestamp) -> Vec<Value> {
    let mut cells = row(object, now);
    let labels = selector::format_map(object.at("/spec/selector"));
    if let Some(cell) = cells.last_mut() {
        *cell = if labels.is_empty() {
            "<none>".into()
        } else {
            labels.into()
        };
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_takes_its_selector_from_the_template() {
        let mut rc = json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}});
        default_controller(&mut rc);
        assert_eq!(rc["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(rc["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(rc["spec"]["replicas"], 1);
    }

    #[test]
    fn a_set_needs_a_selector_that_matches() {
        let mut rs = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
        default(&mut rs);
        let texts: Vec<String> = validate(&rs, None).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`"]
        );
    }
}
