//! Claims that are made for a pod: the templates of its ephemeral volumes.
//!
//! StatefulSets' templates for claims and those for device claims have the same rules for metadata.

use crate::view::View;
use crate::{claim, meta};
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};

pub(super) fn ephemeral(source: &Value, volume: &str, pod_name: &str, path: &Path) -> FieldErrors {
    let place = path.child("ephemeral").child("volumeClaimTemplate");
    let mut errors = match source.get("volumeClaimTemplate").filter(|t| !t.is_null()) {
        None => vec![FieldError::required(&place, "")],
        Some(template) => claim_template(template, &place),
    };
    if !pod_name.is_empty() && !volume.is_empty() {
        let claim = format!("{pod_name}-{volume}");
        for message in meta::name_subdomain(&claim, false) {
            let why = format!("PVC name {}: {message}", steersman_schema::field::quote(&claim));
            errors.push(FieldError::invalid(&path.child("name"), volume, why));
        }
    }
    errors
}

/// Fields of metadata that templates for claims may not have, in upstream's order and with its names.
const NOT_IN_TEMPLATES: &[(&str, &str)] = &[
    ("name", "name"),
    ("generateName", "generateName"),
    ("namespace", "namespace"),
    ("selfLink", "selfLink"),
    ("uid", "uID"),
    ("resourceVersion", "resourceVersion"),
    ("generation", "generation"),
    ("creationTimestamp", "creationTimestamp"),
    ("deletionTimestamp", "deletionTimestamp"),
    ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
    ("ownerReferences", "ownerReferences"),
    ("finalizers", "finalizers"),
    ("managedFields", "managedFields"),
];

/// Faults of the metadata in a template for claims.
pub fn template_metadata(metadata: &Value, place: &Path) -> FieldErrors {
    let mut errors = meta::validate_annotations(metadata.at("/annotations"), &place.child("annotations"));
    let labels = metadata.entries("/labels").into_iter().flatten();
    let labels = labels.map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()));
    errors.extend(meta::validate_labels(labels, &place.child("labels")));
    for (key, shown) in NOT_IN_TEMPLATES {
        // A list that is there and empty counts as set.
        if metadata.has(&format!("/{key}")) {
            errors.push(FieldError::forbidden(&place.child(shown), "cannot be set"));
        }
    }
    errors
}

/// Faults of a template for claims.
pub fn claim_template(template: &Value, path: &Path) -> FieldErrors {
    let mut errors = template_metadata(template.at("/metadata"), &path.child("metadata"));
    errors.extend(claim::validate_spec(template.at("/spec"), &path.child("spec")));
    errors
}
