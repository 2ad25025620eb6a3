//! Rules of single parts of metadata, wherever they stand: in objects, in templates, in request parameters.

use crate::view::View;
use serde_json::Value;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, go_json};
use steersman_schema::name;

/// All keys and values of annotations together, in bytes.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

const MANAGER_MAX: usize = 128;

const SUBRESOURCE_MAX: usize = 256;

/// The fault of an unqualified finalizer that upstream does not know.
pub fn standard_finalizer(finalizer: &str, path: &Path) -> Option<FieldError> {
    let known = finalizer.contains('/') || matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion");
    let why = "name is neither a standard finalizer name nor is it fully qualified";
    (!known).then(|| FieldError::invalid(path, finalizer, why))
}

/// What upstream looks at in every object, and once more in every change of one: labels, annotations, owners.
pub(super) fn carried(meta: &Value, path: &Path) -> FieldErrors {
    let labels = meta.entries("/labels").into_iter().flatten();
    let labels = labels.map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()));
    let mut errors = validate_labels(labels, &path.child("labels"));
    errors.extend(validate_annotations(
        meta.at("/annotations"),
        &path.child("annotations"),
    ));
    errors.extend(validate_owners(
        meta.items("/ownerReferences"),
        &path.child("ownerReferences"),
    ));
    errors
}

/// Faults of labels: keys and values.
pub fn validate_labels<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (key, value) in labels {
        errors.extend(
            name::qualified_name(key)
                .into_iter()
                .map(|m| FieldError::invalid(path, key, m)),
        );
        errors.extend(
            name::label_value(value)
                .into_iter()
                .map(|m| FieldError::invalid(path, value, m)),
        );
    }
    errors
}

/// Faults of annotations: keys (upper case allowed in the prefix), and the size of all together.
pub fn validate_annotations(annotations: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        let found = name::qualified_name(&key.to_lowercase());
        errors.extend(found.into_iter().map(|m| FieldError::invalid(path, key, m)));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
    errors
}

/// Faults of owner references. Upstream names the list, not its elements.
pub fn validate_owners(owners: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for owner in owners {
        let version = owner.text("/apiVersion");
        // What is no group and version at all has no version.
        if version.matches('/').count() > 1 || version.rsplit('/').next().is_none_or(str::is_empty) {
            errors.push(FieldError::invalid(
                &path.child("apiVersion"),
                version,
                "version must not be empty",
            ));
        }
        for key in ["kind", "name", "uid"] {
            if owner.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
                errors.push(FieldError::invalid(&path.child(key), "", "must not be empty"));
            }
        }
        if version == "v1" && owner.text("/kind") == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, shown_owner(owner), why));
        }
        if owner.flag("/controller") {
            let this = format!("{}/{}", owner.text("/kind"), owner.text("/name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let all: Vec<String> = owners.iter().map(shown_owner_text).collect();
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.push(FieldError::invalid(
                        path,
                        BadValue::Raw(format!("[{}]", all.join(","))),
                        why,
                    ));
                }
            }
        }
    }
    errors
}

fn shown_owner(owner: &Value) -> BadValue {
    BadValue::Raw(shown_owner_text(owner))
}

fn shown_owner_text(owner: &Value) -> String {
    let mut parts = Vec::new();
    for key in ["apiVersion", "kind", "name", "uid"] {
        parts.push(format!(
            "\"{key}\":{}",
            go_json(owner.get(key).unwrap_or(&Value::from("")))
        ));
    }
    for key in ["controller", "blockOwnerDeletion"] {
        if let Some(value) = owner.get(key).filter(|v| !v.is_null()) {
            parts.push(format!("\"{key}\":{}", go_json(value)));
        }
    }
    format!("{{{}}}", parts.join(","))
}

/// Faults of finalizers.
pub fn validate_finalizers(finalizers: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for finalizer in finalizers.iter().filter_map(Value::as_str) {
        errors.extend(
            name::qualified_name(finalizer)
                .into_iter()
                .map(|m| FieldError::invalid(path, finalizer, m)),
        );
    }
    let has = |text: &str| finalizers.iter().any(|f| f == text);
    if has("orphan") && has("foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, finalizers, why));
    }
    errors
}

pub(super) fn managed_fields(entries: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let path = path.index(i);
        let operation = entry.text("/operation");
        if !matches!(operation, "Apply" | "Update") {
            errors.push(FieldError::invalid(
                &path.child("operation"),
                operation,
                "must be `Apply` or `Update`",
            ));
        }
        let kind = entry.text("/fieldsType");
        if !kind.is_empty() && kind != "FieldsV1" {
            errors.push(FieldError::invalid(
                &path.child("fieldsType"),
                kind,
                "must be `FieldsV1`",
            ));
        }
        errors.extend(validate_field_manager(entry.text("/manager"), &path.child("manager")));
        if entry.text("/subresource").len() > SUBRESOURCE_MAX {
            errors.push(FieldError::too_long(&path.child("subresource"), SUBRESOURCE_MAX));
        }
    }
    errors
}

/// Faults of a field manager's name (managed fields, and the `fieldManager` parameter).
pub fn validate_field_manager(manager: &str, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if manager.len() > MANAGER_MAX {
        errors.push(FieldError::too_long(path, MANAGER_MAX));
    }
    for (i, c) in manager
        .char_indices()
        .filter(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' '))
    {
        let why = format!("invalid character U+{:04X} (at position {i})", u32::from(c));
        errors.push(FieldError::invalid(path, manager, why));
    }
    errors
}
