//! Namespaces: a phase, and finalizers of their own that keep them until everything inside is gone.
//!
//! Deleting one (phase Terminating, removal when the last finalizer goes) is the server's; emptying it the controller's.

use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, put_back, set};
use crate::{Column, Context, Kind, Status, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::{Value, json};
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

/// The finalizer every namespace is born with; the namespace controller takes it away.
pub const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update: |new, _| validate(new),
    warnings: nothing::warnings,
    validate_name: meta::name_label,
    status: Some(Status {
        prepare: prepare_status,
        validate: validate_status,
    }),
    updates: &[(
        "finalize",
        Status {
            prepare: prepare_finalize,
            validate: validate_finalize,
        },
    )],
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[
        ("status.phase", |n| n.text("/status/phase").to_string()),
        ("name", |n| n.text("/metadata/name").to_string()),
    ],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: team-a\n",
};

fn default(namespace: &mut Value) {
    label(namespace);
    if let Some(status) = child(namespace, "status") {
        crate::view::set_if_empty(status, "phase", "Active");
    }
}

fn label(namespace: &mut Value) {
    let name = namespace.text("/metadata/name").to_string();
    if name.is_empty() {
        return;
    }
    if let Some(labels) = child(namespace, "metadata").and_then(|m| child(m, "labels")) {
        set(labels, NAME_LABEL, name);
    }
}

fn prepare_create(namespace: &mut Value, _: &Context) {
    label(namespace);
    set(namespace, "status", json!({ "phase": "Active" }));
    if let Some(spec) = child(namespace, "spec") {
        let mut finalizers = spec.items("/finalizers").to_vec();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        set(spec, "finalizers", finalizers);
    }
}

fn prepare_update(new: &mut Value, old: &Value, _: &Context) {
    label(new);
    if let Some(spec) = child(new, "spec") {
        put_back(spec, old.at("/spec"), "finalizers");
    }
    put_back(new, old, "status");
}

fn validate(namespace: &Value) -> FieldErrors {
    let path = Path::new("spec").child("finalizers");
    let names = namespace.items("/spec/finalizers").iter().filter_map(Value::as_str);
    names.flat_map(|f| finalizer(f, &path)).collect()
}

fn finalizer(text: &str, path: &Path) -> FieldErrors {
    let mut errors: FieldErrors = name::qualified_name(text)
        .into_iter()
        .map(|m| FieldError::invalid(path, text, m))
        .collect();
    if !text.contains('/') && !matches!(text, "kubernetes" | "orphan" | "foregroundDeletion") {
        let why = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(path, text, why));
    }
    errors
}

fn prepare_status(new: &mut Value, old: &Value, _: &Context) {
    put_back(new, old, "spec");
}

fn validate_status(new: &Value, _: &Value) -> FieldErrors {
    // Upstream spells this path with a capital.
    let path = Path::new("status").child("Phase");
    let phase = new.text("/status/phase");
    let (wanted, why) = if new.has("/metadata/deletionTimestamp") {
        (
            "Terminating",
            "may only be 'Terminating' if `deletionTimestamp` is not empty",
        )
    } else {
        ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
    };
    if phase == wanted {
        Vec::new()
    } else {
        vec![FieldError::invalid(&path, phase, why)]
    }
}

fn prepare_finalize(new: &mut Value, old: &Value, _: &Context) {
    put_back(new, old, "status");
}

fn validate_finalize(new: &Value, _: &Value) -> FieldErrors {
    let path = Path::new("spec").child("finalizers");
    let list = new.items("/spec/finalizers").iter().enumerate();
    list.flat_map(|(i, f)| finalizer(f.as_str().unwrap_or_default(), &path.index(i)))
        .collect()
}

const COLUMNS: &[Column] = &[NAME, column("Status", "string", 0, "The status of the namespace"), AGE];

fn row(namespace: &Value, now: &Timestamp) -> Vec<Value> {
    vec![
        namespace.text("/metadata/name").into(),
        namespace.text("/status/phase").into(),
        table::age(namespace, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_active_and_holds_the_finalizer() {
        let mut ns =
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["x/y"]}, "status": {"phase": "Terminating"}});
        let context = Context::default();
        prepare_create(&mut ns, &context);
        assert_eq!(ns["spec"]["finalizers"], json!(["x/y", "kubernetes"]));
        assert_eq!(ns["status"]["phase"], "Active");
        assert_eq!(ns["metadata"]["labels"][NAME_LABEL], "a");
    }

    #[test]
    fn an_unknown_short_finalizer_is_refused() {
        let ns = json!({"spec": {"finalizers": ["mine"]}});
        assert_eq!(
            validate(&ns)[0].to_string(),
            "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"
        );
    }
}
