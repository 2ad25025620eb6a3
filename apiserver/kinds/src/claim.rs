//! PersistentVolumeClaims: what storage somebody wants. Also inside pods, as templates of ephemeral volumes.

use crate::internal::pretty;
use crate::resources::{self, quantity};
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, equal_as, invalid, put_back, remove, same, set_default, set_if_empty, strings};
use crate::{Column, Context, Kind, Status, Table, diff, meta, nothing, selector};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;
use steersman_types::LabelSelector;

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    default,
    prepare_create: |claim, _: &Context| {
        crate::view::set(claim, "status", json!({ "phase": "Pending" }));
        drop_unknown_source(claim, None);
        mirror_source(claim);
    },
    prepare_update: |new, old, _| {
        put_back(new, old, "status");
        drop_unknown_source(new, Some(old));
        mirror_source(new);
    },
    validate: |claim| validate_spec(claim.at("/spec"), &Path::new("spec")),
    validate_update,
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    status: Some(Status {
        prepare: |new, old, _| put_back(new, old, "spec"),
        validate: validate_status,
    }),
    updates: &[],
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[("name", |c| c.text("/metadata/name").into())],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: default}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
",
};

fn default(claim: &mut Value) {
    if let Some(status) = child(claim, "status") {
        set_if_empty(status, "phase", "Pending");
        resources::round_up(status.get_mut("capacity"));
        resources::round_up(status.get_mut("allocatedResources"));
    }
    if let Some(spec) = child(claim, "spec") {
        crate::pod::defaults::round_requirements(spec);
        set_default(spec, "volumeMode", "Filesystem");
    }
}

/// Sources other than claims and snapshots are silently ignored in the older of the two fields.
fn drop_unknown_source(claim: &mut Value, old: Option<&Value>) {
    let in_use = |c: &Value| c.has("/spec/dataSource") || c.has("/spec/dataSourceRef");
    // Sources in other namespaces wait for a gate that is off.
    let far = !claim.text("/spec/dataSourceRef/namespace").is_empty();
    if far
        && !old.is_some_and(|o| o.has("/spec/dataSourceRef"))
        && let Some(spec) = claim.get_mut("spec")
    {
        remove(spec, "dataSourceRef");
    }
    let keep =
        claim.has("/spec/dataSourceRef") || old.is_some_and(in_use) || known_source(claim.at("/spec/dataSource"));
    if let Some(spec) = claim.get_mut("spec").filter(|_| !keep) {
        remove(spec, "dataSource");
    }
}

fn known_source(source: &Value) -> bool {
    matches!(
        (source.text("/apiGroup"), source.text("/kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    )
}

/// `dataSource` and `dataSourceRef` say the same, unless the latter names a namespace.
fn mirror_source(claim: &mut Value) {
    let Some(spec) = claim.get_mut("spec") else { return };
    let (old, new) = (spec.at("/dataSource").clone(), spec.at("/dataSourceRef").clone());
    if !old.is_null() && new.is_null() {
        crate::view::set(spec, "dataSourceRef", old);
    } else if old.is_null() && !new.is_null() && new.text("/namespace").is_empty() {
        let mut source = new;
        remove(&mut source, "namespace");
        crate::view::set(spec, "dataSource", source);
    }
}

/// Faults of a claim's spec.
pub fn validate_spec(spec: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let modes = spec.items("/accessModes");
    let place = path.child("accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(&place, "at least 1 access mode is required"));
    }
    if let Some(typed) = spec
        .get("selector")
        .filter(|s| !s.is_null())
        .and_then(|s| LabelSelector::deserialize(s).ok())
    {
        errors.extend(selector::validate(&typed, false, &path.child("selector")));
    }
    errors.extend(
        strings(modes)
            .filter(|m| !MODES.contains(m))
            .map(|m| FieldError::not_supported(&place, m, MODES)),
    );
    let single = |m: &str| m == "ReadWriteOncePod";
    if strings(modes).any(single) && strings(modes).any(|m| !single(m) && MODES.contains(&m)) {
        errors.push(FieldError::forbidden(
            &place,
            "may not use ReadWriteOncePod with other access modes",
        ));
    }
    let place = path.child("resources").key("storage");
    match spec.at("/resources/requests/storage").as_str() {
        None => errors.push(FieldError::required(&place, "")),
        Some(text) if quantity(text).sign() <= 0 => {
            errors.push(FieldError::invalid(
                &place,
                quantity(text).to_string(),
                resources::NOT_POSITIVE,
            ));
        }
        Some(_) => {}
    }
    let class = |key: &str| {
        let own = spec.get(key).and_then(Value::as_str).filter(|own| !own.is_empty());
        own.map(|own| invalid(&path.child(key), own, name::dns1123_subdomain(own)))
            .unwrap_or_default()
    };
    errors.extend(class("storageClassName"));
    if let Some(mode) = spec
        .at("/volumeMode")
        .as_str()
        .filter(|m| !matches!(*m, "Block" | "Filesystem"))
    {
        errors.push(FieldError::not_supported(
            &path.child("volumeMode"),
            mode,
            &["Block", "Filesystem"],
        ));
    }
    for key in ["dataSource", "dataSourceRef"] {
        if let Some(source) = spec.get(key).filter(|s| !s.is_null()) {
            errors.extend(data_source(source, &path.child(key)));
        }
    }
    let (old, new) = (spec.at("/dataSource"), spec.at("/dataSourceRef"));
    // Upstream prints the path itself as an empty object here.
    if !new.text("/namespace").is_empty() {
        if !old.is_null() {
            let why = "may not be specified when dataSourceRef.namespace is specified";
            errors.push(FieldError::invalid(path, json!({}), why));
        }
    } else if !old.is_null() && !new.is_null() && !same(old, new) {
        errors.push(FieldError::invalid(path, json!({}), "must match dataSourceRef"));
    }
    errors.extend(class("volumeAttributesClassName"));
    errors
}

fn data_source(source: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["name", "kind"] {
        if source.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
            errors.push(FieldError::required(&path.child(key), ""));
        }
    }
    let (group, kind) = (source.text("/apiGroup"), source.text("/kind"));
    if group.is_empty() {
        if kind != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(FieldError::invalid(path, kind, why));
        }
    } else {
        errors.extend(invalid(&path.child("apiGroup"), group, name::dns1123_subdomain(group)));
    }
    let namespace = source.text("/namespace");
    if !namespace.is_empty() {
        errors.extend(invalid(
            &path.child("namespace"),
            namespace,
            name::dns1123_label(namespace),
        ));
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let mut errors = validate_spec(new.at("/spec"), &path);
    if !errors.is_empty() && same(new.at("/spec"), old.at("/spec")) {
        errors.clear();
    }
    let mut after = new.at("/spec").clone();
    let mut before = old.at("/spec").clone();
    if old.text("/spec/volumeName").is_empty() {
        put_back(&mut before, new.at("/spec"), "volumeName");
    }
    let class = |c: &Value| {
        c.entries("/metadata/annotations")
            .and_then(|a| a.get(BETA_CLASS))
            .cloned()
    };
    if class(new) != class(old) {
        let place = Path::new("metadata").child("annotations").child(BETA_CLASS);
        let shown = class(new).unwrap_or_else(|| "".into());
        errors.push(FieldError::invalid(&place, shown, "field is immutable"));
    }
    // A claim made before there was a default class may be given one.
    if !old.has("/spec/storageClassName") && class(old).is_none() {
        put_back(&mut after, &before, "storageClassName");
    }
    if new.text("/status/phase") == "Bound" {
        put_back(&mut after, &before, "volumeAttributesClassName");
        let size = before.at("/resources/requests/storage").clone();
        if let Some(requests) = after.pointer_mut("/resources/requests").filter(|r| r.is_object()) {
            crate::view::set(requests, "storage", size);
        }
    }
    if !equal_as("core.v1.PersistentVolumeClaimSpec", &after, &before) {
        let diff = diff::unified(
            &pretty("PersistentVolumeClaimSpec", &before),
            &pretty("PersistentVolumeClaimSpec", &after),
        );
        let why = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{diff}"
        );
        errors.push(FieldError::forbidden(&path, why));
    }
    let size = |c: &Value, p: &str| quantity(c.text(p));
    let (wanted, was) = (
        size(new, "/spec/resources/requests/storage"),
        size(old, "/spec/resources/requests/storage"),
    );
    if wanted < was && wanted <= size(old, "/status/capacity/storage") {
        let place = path.child("resources").child("requests").child("storage");
        errors.push(FieldError::forbidden(
            &place,
            "field can not be less than status.capacity",
        ));
    }
    if !same(new.at("/spec/volumeMode"), old.at("/spec/volumeMode")) {
        let place = Path::new("volumeMode");
        errors.push(FieldError::invalid(
            &place,
            new.at("/spec/volumeMode"),
            "field is immutable",
        ));
    }
    let (wanted, current) = (
        new.at("/spec/volumeAttributesClassName"),
        old.at("/status/currentVolumeAttributesClassName"),
    );
    if !current.is_null() && wanted != old.at("/spec/volumeAttributesClassName") {
        let place = path.child("volumeAttributesClassName");
        let why = |what: &str| {
            format!("update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil")
        };
        match wanted.as_str() {
            None => errors.push(FieldError::forbidden(&place, why("nil"))),
            Some("") => errors.push(FieldError::forbidden(&place, why("empty string"))),
            Some(_) => {}
        }
    }
    errors
}

/// How far a claim's growing may be.
const RESIZE: &[&str] = &[
    "ControllerResizeInfeasible",
    "ControllerResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizePending",
];

fn validate_status(new: &Value, _: &Value) -> FieldErrors {
    let path = Path::new("status");
    let mut errors = Vec::new();
    if new.items("/spec/resources").is_empty()
        && !new.has("/status/accessModes")
        && new.text("/status/phase") == "Bound"
    {
        return errors;
    }
    let amount_fault = |amount: &Value, place: &Path| {
        let size = quantity(amount.as_str().unwrap_or_default()).value();
        (size < 0).then(|| FieldError::invalid(place, size, "must be a valid resource quantity"))
    };
    for (resource, amount) in new.entries("/status/capacity").into_iter().flatten() {
        errors.extend(amount_fault(amount, &path.child("capacity").key(resource)));
    }
    let place = path.child("allocatedResourceStatuses");
    for (resource, state) in new.entries("/status/allocatedResourceStatuses").into_iter().flatten() {
        errors.extend(resource_key(resource, &place));
        if !state.as_str().is_some_and(|s| RESIZE.contains(&s)) {
            errors.push(FieldError::not_supported(&place, resource, RESIZE));
        }
    }
    let place = path.child("allocatedResources");
    for (resource, amount) in new.entries("/status/allocatedResources").into_iter().flatten() {
        let found = resource_key(resource, &place);
        if found.is_empty() {
            let at = place.key(resource);
            match amount_fault(amount, &at) {
                Some(fault) => errors.push(fault),
                None => errors.extend(resources::validate_quantity(
                    "storage",
                    amount.as_str().unwrap_or_default(),
                    &at,
                )),
            }
        }
        errors.extend(found);
    }
    errors
}

/// Faults of a resource's name in a claim's status: among Kubernetes' own there is only storage.
fn resource_key(resource: &str, path: &Path) -> FieldErrors {
    let found = invalid(path, resource, name::qualified_name(resource));
    if found.is_empty() && resources::is_native(resource) && resource != "storage" {
        return vec![FieldError::not_supported(path, BadValue::plain(resource), &["storage"])];
    }
    found
}

/// `RWO,ROX`: each mode once, in a fixed order.
pub(crate) fn short_modes(modes: &[Value]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let found: Vec<&str> = short
        .iter()
        .filter(|(long, _)| strings(modes).any(|m| m == *long))
        .map(|(_, s)| *s)
        .collect();
    found.join(",")
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", "string", 0, "Whether the claim is pending, bound or lost."),
    column("Volume", "string", 0, "The volume that the claim is bound to."),
    column("Capacity", "string", 0, "The size of that volume."),
    column("Access Modes", "string", 0, "How that volume can be mounted."),
    column("StorageClass", "string", 0, "The class that the claim asks for."),
    column(
        "VolumeAttributesClass",
        "string",
        0,
        "The attributes that the claim asks for.",
    ),
    AGE,
    column("VolumeMode", "string", 1, "Whether the volume has a file system."),
];

fn row(claim: &Value, now: &Timestamp) -> Vec<Value> {
    let mut phase = claim.text("/status/phase");
    if claim.has("/metadata/deletionTimestamp") {
        phase = "Terminating";
    }
    let bound = !claim.text("/spec/volumeName").is_empty();
    let modes = short_modes(claim.items("/status/accessModes"));
    let annotation = claim
        .entries("/metadata/annotations")
        .and_then(|a| a.get(BETA_CLASS))
        .and_then(Value::as_str);
    let unset = |text: &str| {
        if text.is_empty() {
            "<unset>".to_string()
        } else {
            text.to_string()
        }
    };
    vec![
        claim.text("/metadata/name").into(),
        phase.into(),
        claim.text("/spec/volumeName").into(),
        if bound {
            match claim.text("/status/capacity/storage") {
                "" => "0".into(),
                size => size.into(),
            }
        } else {
            "".into()
        },
        if bound { modes.into() } else { "".into() },
        annotation
            .unwrap_or_else(|| claim.text("/spec/storageClassName"))
            .into(),
        unset(claim.text("/spec/volumeAttributesClassName")).into(),
        table::age(claim, now),
        unset(claim.text("/spec/volumeMode")).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_says_how_much_and_how() {
        let texts: Vec<String> = validate_spec(&json!({"volumeMode": "x"}), &Path::new("spec"))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
                "spec.volumeMode: Unsupported value: \"x\": supported values: \"Block\", \"Filesystem\"",
            ]
        );
    }
}
