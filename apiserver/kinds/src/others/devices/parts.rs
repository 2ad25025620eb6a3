//! What claims, classes and slices of devices say in the same words: names, selectors, tolerations and taints, a
//! driver's own data.

use super::{LIST_MAX, each};
use crate::pod::volumes::csi_driver;
use crate::view::{View, invalid, strings};
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

/// Bytes of an expression, and of a driver's own parameters.
const EXPRESSION_MAX: usize = 10 * 1024;

/// Bytes of the part of an attribute's name after the slash.
const ID_MAX: usize = 32;

pub(super) fn label(text: &str, path: &Path) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    invalid(path, text, name::dns1123_label(text))
}

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

pub(super) fn toleration(toleration: &Value, path: &Path) -> FieldErrors {
    let (key, value) = (toleration.text("/key"), toleration.text("/value"));
    let mut errors = Vec::new();
    if !key.is_empty() {
        errors.extend(invalid(&path.child("key"), key, name::qualified_name(key)));
    }
    let place = path.child("operator");
    match toleration.text("/operator") {
        "Exists" if !value.is_empty() => {
            let why = "must be empty for operator `Exists`";
            errors.push(FieldError::invalid(&path.child("value"), value, why));
        }
        "Exists" => {}
        "Equal" => errors.extend(invalid(&path.child("value"), value, name::label_value(value))),
        "" => errors.push(FieldError::required(&place, "")),
        other => errors.push(FieldError::not_supported(&place, other, &["Equal", "Exists"])),
    }
    let effect = toleration.text("/effect");
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(FieldError::not_supported(&path.child("effect"), effect, EFFECTS));
    }
    errors
}

/// Faults of a taint on a device.
pub fn taint(taint: &Value, path: &Path) -> FieldErrors {
    let (key, value) = (taint.text("/key"), taint.text("/value"));
    let mut errors = invalid(&path.child("key"), key, name::qualified_name(key));
    if !value.is_empty() {
        errors.extend(invalid(&path.child("value"), value, name::label_value(value)));
    }
    let place = path.child("effect");
    match taint.text("/effect") {
        "" => errors.push(FieldError::required(&place, "")),
        effect if !EFFECTS.contains(&effect) => {
            errors.push(FieldError::not_supported(&place, effect, EFFECTS));
        }
        _ => {}
    }
    errors
}

pub(super) fn selectors(list: &[Value], path: &Path) -> FieldErrors {
    each(list, LIST_MAX, path, |selector, p| {
        if !selector.has("/cel") {
            return vec![FieldError::required(&p.child("cel"), "")];
        }
        let long = selector.text("/cel/expression").len() > EXPRESSION_MAX;
        let place = p.child("cel").child("expression");
        let fault = || FieldError::too_long(&place, EXPRESSION_MAX);
        long.then(fault).into_iter().collect()
    })
}

pub(super) fn opaque(config: &Value, stored: bool, path: &Path) -> FieldErrors {
    let path = path.child("opaque");
    let own = config.at("/opaque");
    if own.is_null() {
        return vec![FieldError::required(&path, "")];
    }
    let mut errors = csi_driver(own.text("/driver"), &path.child("driver"));
    errors.extend(raw(own.at("/parameters"), stored, &path.child("parameters")));
    errors
}

/// Faults of a driver's own data.
pub(super) fn raw(data: &Value, stored: bool, path: &Path) -> FieldErrors {
    match data {
        Value::Null => vec![FieldError::required(path, "")],
        data if !stored && data.to_string().len() > EXPRESSION_MAX => {
            vec![FieldError::too_long(path, EXPRESSION_MAX)]
        }
        Value::Object(_) => Vec::new(),
        _ => vec![FieldError::invalid(
            path,
            "<value omitted>",
            "must be a valid JSON object",
        )],
    }
}

/// Faults of an attribute's name, with or without a domain.
pub fn attribute_name(text: &str, path: &Path) -> FieldErrors {
    let identifier = |id: &str| {
        let mut errors = Vec::new();
        if id.len() > ID_MAX {
            errors.push(FieldError::too_long(path, ID_MAX));
        }
        errors.extend(invalid(path, id, name::c_identifier(id)));
        errors
    };
    let mut errors = Vec::new();
    match text.split('/').collect::<Vec<_>>()[..] {
        [id] => errors.extend(identifier(id)),
        [domain, id] => {
            if domain.is_empty() {
                errors.push(FieldError::invalid(path, "", "the domain must not be empty"));
            } else {
                errors.extend(csi_driver(domain, path));
            }
            if id.is_empty() {
                errors.push(FieldError::invalid(path, "", "the name must not be empty"));
            } else {
                errors.extend(identifier(id));
            }
        }
        _ => {}
    }
    errors
}

pub(super) fn full_name(text: &str, path: &Path) -> FieldErrors {
    let mut errors = attribute_name(text, path);
    if !text.contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(path, BadValue::typed(text), why));
    }
    errors
}

/// Faults of a pool's name.
pub fn pool_name(text: &str, path: &Path) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    if text.len() > name::SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, name::SUBDOMAIN_MAX));
    }
    for part in text.split('/') {
        errors.extend(invalid(path, part, name::dns1123_subdomain(part)));
    }
    errors
}

/// Faults of conditions that a device's binding waits for.
pub fn binding(holder: &Value, path: &Path) -> FieldErrors {
    const MOST: usize = 4;
    let (good, bad) = (
        holder.items("/bindingConditions"),
        holder.items("/bindingFailureConditions"),
    );
    let (good_path, bad_path) = (path.child("bindingConditions"), path.child("bindingFailureConditions"));
    let check = |v: &Value, p: &Path| {
        let text = v.as_str().unwrap_or_default();
        invalid(p, text, name::qualified_name(text))
    };
    let mut errors = each(good, MOST, &good_path, check);
    errors.extend(each(bad, MOST, &bad_path, check));
    for (list, path) in [(good, &good_path), (bad, &bad_path)] {
        let mut seen = BTreeSet::new();
        for (i, text) in strings(list).enumerate() {
            if !seen.insert(text) {
                errors.push(FieldError::duplicate(&path.index(i), text));
            }
            if std::ptr::eq(list, bad) && strings(good).any(|g| g == text) {
                let why = "bindingFailureConditions must not overlap with bindingConditions";
                errors.push(FieldError::invalid(&path.index(i), text, why));
            }
        }
    }
    if good.is_empty() && !bad.is_empty() {
        let why = "bindingConditions are required to use bindingFailureConditions";
        errors.push(FieldError::invalid(&good_path, holder.at("/bindingConditions"), why));
    }
    if bad.is_empty() && !good.is_empty() {
        let why = "bindingFailureConditions are required to use bindingConditions";
        errors.push(FieldError::invalid(
            &bad_path,
            holder.at("/bindingFailureConditions"),
            why,
        ));
    }
    errors
}
