//! Rules of `metav1.Condition`, for the statuses that hold them.

use crate::view::View;
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

/// Faults of `metav1.Condition`s: types unique, and each one complete.
pub fn validate_conditions(conditions: &[Value], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        let kind = condition.text("/type");
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        } else {
            seen.push(kind);
        }
        errors.extend(
            name::qualified_name(kind)
                .into_iter()
                .map(|m| FieldError::invalid(&path.child("type"), kind, m)),
        );
        let status = condition.text("/status");
        if !matches!(status, "True" | "False" | "Unknown") {
            errors.push(FieldError::not_supported(
                &path.child("status"),
                status,
                &["False", "True", "Unknown"],
            ));
        }
        if condition.int("/observedGeneration") < 0 {
            let why = "must be greater than or equal to zero";
            let place = path.child("observedGeneration");
            errors.push(FieldError::invalid(&place, condition.int("/observedGeneration"), why));
        }
        if !condition.has("/lastTransitionTime") {
            errors.push(FieldError::required(&path.child("lastTransitionTime"), ""));
        }
        let reason = condition.text("/reason");
        let place = path.child("reason");
        if reason.is_empty() {
            errors.push(FieldError::required(&place, ""));
        } else if !good_reason(reason) {
            errors.push(FieldError::invalid(&place, reason, "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"));
        }
        if reason.len() > 1024 {
            errors.push(FieldError::too_long(&place, 1024));
        }
        if condition.text("/message").len() > 32 * 1024 {
            errors.push(FieldError::too_long(&path.child("message"), 32 * 1024));
        }
    }
    errors
}

fn good_reason(reason: &str) -> bool {
    let b = reason.as_bytes();
    b.first().is_some_and(u8::is_ascii_alphabetic)
        && b.last().is_some_and(|c| c.is_ascii_alphanumeric() || *c == b'_')
        && b.iter()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b',' | b':'))
}
