//! Templates of pods: inside workloads, and as objects of their own (PodTemplate).

use super::{Options, annotations, defaults, drop_gated_spec, profiles_match, spec, warnings};
use crate::table::{self, NAME, column};
use crate::view::View;
use crate::{Column, Kind, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PodTemplate",
    plural: "podtemplates",
    default: |object| default(object, "/template"),
    prepare_create: |object, _| drop_gated(object, "/template"),
    prepare_update: |object, _, _| drop_gated(object, "/template"),
    validate: |object| validate(object.at("/template"), None, &Path::new("template")),
    validate_update: |new, old| validate(new.at("/template"), Some(old.at("/template")), &Path::new("template")),
    warnings: |new, old| warnings(new, old, "/template", &Path::new("template")),
    validate_name: meta::name_subdomain,
    status: None,
    updates: &[],
    generation: true,
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
kind: PodTemplate
metadata: {name: web, namespace: default}
template:
  metadata: {labels: {app: web}}
  spec: {containers: [{name: web, image: registry.example.com/web:1}]}
",
};

/// Defaults of the template at `pointer`.
pub fn default(object: &mut Value, pointer: &str) {
    if let Some(spec) = object.pointer_mut(&format!("{pointer}/spec")).filter(|s| s.is_object()) {
        defaults::template_spec(spec);
    }
}

/// Takes away fields behind feature gates that are off.
pub fn drop_gated(object: &mut Value, pointer: &str) {
    if let Some(spec) = object.pointer_mut(&format!("{pointer}/spec")) {
        drop_gated_spec(spec, None);
    }
}

/// Faults of a template. `old` is the stored one, whose own faults are forgiven.
pub fn validate(template: &Value, old: Option<&Value>, path: &Path) -> FieldErrors {
    let errors = checked(template, path, false);
    match old {
        Some(old) if !errors.is_empty() && !checked(old, path, false).is_empty() => checked(template, path, true),
        _ => errors,
    }
}

fn checked(template: &Value, path: &Path, lenient: bool) -> FieldErrors {
    let options = Options {
        pod: false,
        lenient,
        labelled: false,
    };
    let mut errors = checked_metadata(template, path, options);
    let at = path.child("spec");
    errors.extend(spec::validate(template.at("/spec"), &Value::Null, &at, options));
    errors.extend(profiles_match(template.at("/metadata"), template.at("/spec"), &at));
    if !template.items("/spec/ephemeralContainers").is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(&at.child("ephemeralContainers"), why));
    }
    errors
}

/// Faults of a template's labels and annotations alone: some kinds look at them twice.
pub fn validate_metadata(template: &Value, path: &Path) -> FieldErrors {
    let options = Options {
        pod: false,
        lenient: false,
        labelled: false,
    };
    checked_metadata(template, path, options)
}

fn checked_metadata(template: &Value, path: &Path, options: Options) -> FieldErrors {
    let labels = template.entries("/metadata/labels").into_iter().flatten();
    let labels = labels.map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()));
    // Upstream leaves `metadata` out of these two paths.
    let mut errors = meta::validate_labels(labels, &path.child("labels"));
    let place = path.child("annotations");
    let own = template.at("/metadata/annotations");
    errors.extend(meta::validate_annotations(own, &place));
    errors.extend(annotations(own, template.at("/spec"), &place, options));
    errors
}

/// Warnings about the template at `pointer`, if it is new or changed.
pub fn warnings(new: &Value, old: Option<&Value>, pointer: &str, path: &Path) -> Vec<String> {
    if old.is_some_and(|old| crate::view::same(old.at(pointer), new.at(pointer))) {
        return Vec::new();
    }
    warnings::template(new.at(pointer), path)
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Containers", "string", 0, "Names of each container in the template."),
    column(
        "Images",
        "string",
        0,
        "Images referenced by each container in the template.",
    ),
    column("Pod Labels", "string", 0, "The labels for the pod template."),
];

fn row(object: &Value, _: &Timestamp) -> Vec<Value> {
    let (names, images) = table::containers(object.at("/template/spec"));
    let labels = crate::selector::format_map(object.at("/template/metadata/labels"));
    vec![
        object.text("/metadata/name").into(),
        names.into(),
        images.into(),
        if labels.is_empty() {
            "<none>".into()
        } else {
            labels.into()
        },
    ]
}
