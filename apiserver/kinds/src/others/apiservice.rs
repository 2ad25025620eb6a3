//! APIServices: who serves a group and version.

use super::rules::{Rules, free_metadata};
use crate::nothing;
use crate::view::{View, invalid};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path, quote};
use steersman_schema::name;

pub static RULES: Rules = Rules {
    validate,
    validate_update: |new, _| validate(new),
    warnings: nothing::warnings,
    // What the name must be is known from the spec: checked there.
    validate_name: |text, _| name::path_segment(text),
    prepare_status: free_metadata,
    validate_status: |new, _| {
        let known = ["True", "False", "Unknown"];
        let path = Path::new("status").child("conditions");
        let conditions = new.items("/status/conditions").iter().enumerate();
        conditions
            .filter(|(_, c)| !known.contains(&c.text("/status")))
            .map(|(i, c)| FieldError::not_supported(&path.index(i).child("status"), c.text("/status"), &known))
            .collect()
    },
};

fn validate(service: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let spec = service.at("/spec");
    let mut errors = Vec::new();
    let (group, version) = (spec.text("/group"), spec.text("/version"));
    let wanted = format!("{version}.{group}");
    let why = format!("must be `spec.version+\".\"+spec.group`: {}", quote(&wanted));
    for (key, pointer) in [("generateName", "/metadata/generateName"), ("name", "/metadata/name")] {
        let own = service.text(pointer);
        if !own.is_empty() && name::path_segment(own).is_empty() && own != wanted {
            let place = Path::new("metadata").child(key);
            errors.push(FieldError::invalid(&place, own, why.as_str()));
        }
    }
    if group.is_empty() && version != "v1" {
        let why = "only v1 may have an empty group and it better be legacy kube";
        errors.push(FieldError::required(&path.child("group"), why));
    }
    if !group.is_empty() {
        errors.extend(invalid(&path.child("group"), group, name::dns1123_subdomain(group)));
    }
    errors.extend(invalid(&path.child("version"), version, name::dns1035_label(version)));
    for (key, pointer, most) in [
        ("groupPriorityMinimum", "/groupPriorityMinimum", 20_000),
        ("versionPriority", "/versionPriority", 1_000),
    ] {
        let number = spec.int(pointer);
        if !(1..=most).contains(&number) {
            let why = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(&path.child(key), number, why));
        }
    }
    let bundle = STANDARD.decode(spec.text("/caBundle")).unwrap_or_default();
    let insecure = spec.flag("/insecureSkipTLSVerify");
    let place = path.child("insecureSkipTLSVerify");
    let reference = spec.at("/service");
    if reference.is_null() {
        if !bundle.is_empty() {
            let shown = format!("{} bytes", bundle.len());
            let why = "local APIServices may not have a caBundle";
            errors.push(FieldError::invalid(&path.child("caBundle"), shown, why));
        }
        if insecure {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid(&place, true, why));
        }
        return errors;
    }
    let path = path.child("service");
    for key in ["namespace", "name"] {
        if reference.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
            errors.push(FieldError::required(&path.child(key), ""));
        }
    }
    let port = reference.int("/port");
    let faults = name::port_number(port);
    if !faults.is_empty() {
        let why = format!("port is not valid: {}", faults.join(", "));
        errors.push(FieldError::invalid(&path.child("port"), port, why));
    }
    if insecure && !bundle.is_empty() {
        errors.push(FieldError::invalid(
            &place,
            true,
            "may not be true if caBundle is present",
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_name_follows_from_version_and_group() {
        let spec = json!({"group": "g.h", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1});
        let service = json!({"metadata": {"name": "x"}, "spec": spec});
        let texts: Vec<String> = validate(&service).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.g.h\""]
        );
    }
}
