//! Where containers see volumes: mounts, and block devices. The two share the names and the paths of a container.

use super::{Volumes, descending, no_backsteps};
use crate::view::View;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use steersman_schema::field::{FieldError, FieldErrors, Path};

/// Names of volumes that a list of mounts or devices uses, with the path each is used at.
pub fn used<'a>(list: &'a [Value], place: &str) -> BTreeMap<&'a str, &'a str> {
    list.iter()
        .map(|m| {
            (
                m.text("/name"),
                m.get(place).and_then(Value::as_str).unwrap_or_default(),
            )
        })
        .collect()
}

/// Faults of the mounts of a container.
pub fn mounts(container: &Value, volumes: &Volumes<'_>, path: &Path) -> FieldErrors {
    let list = container.items("/volumeMounts");
    let devices = used(container.items("/volumeDevices"), "devicePath");
    let privileged = container.flag("/securityContext/privileged");
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, mount) in list.iter().enumerate() {
        let at = path.index(i);
        let (own, target) = (mount.text("/name"), mount.text("/mountPath"));
        if own.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
        if !volumes.contains_key(own) {
            errors.push(FieldError::not_found(&at.child("name"), own));
        }
        if target.is_empty() {
            errors.push(FieldError::required(&at.child("mountPath"), ""));
        }
        if !seen.insert(target) {
            errors.push(FieldError::invalid(&at.child("mountPath"), target, "must be unique"));
        }
        if devices.contains_key(own) {
            errors.push(FieldError::invalid(
                &at.child("name"),
                own,
                "must not already exist in volumeDevices",
            ));
        }
        if devices.values().any(|d| *d == target) {
            let why = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(&at.child("mountPath"), target, why));
        }
        let (sub, expression) = (mount.text("/subPath"), mount.text("/subPathExpr"));
        // Here upstream leaves the index out of the path.
        errors.extend(descending(sub, &path.child("subPath")));
        if !expression.is_empty() {
            if !sub.is_empty() {
                let why = "subPathExpr and subPath are mutually exclusive";
                errors.push(FieldError::invalid(&at.child("subPathExpr"), expression, why));
            }
            errors.extend(descending(expression, &path.child("subPathExpr")));
        }
        errors.extend(propagation(mount, privileged, &path.child("mountPropagation")));
        errors.extend(recursive_read_only(mount, &path.child("recursiveReadOnly")));
    }
    errors
}

fn propagation(mount: &Value, privileged: bool, path: &Path) -> FieldErrors {
    let known = ["Bidirectional", "HostToContainer", "None"];
    let Some(mode) = mount.at("/mountPropagation").as_str() else {
        return Vec::new();
    };
    if !known.contains(&mode) {
        return vec![FieldError::not_supported(path, mode, &known)];
    }
    if mode == "Bidirectional" && !privileged {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        return vec![FieldError::forbidden(path, why)];
    }
    Vec::new()
}

fn recursive_read_only(mount: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    match mount.at("/recursiveReadOnly").as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !mount.flag("/readOnly") {
                errors.push(FieldError::forbidden(
                    path,
                    "may only be specified when readOnly is true",
                ));
            }
            if !matches!(mount.at("/mountPropagation").as_str(), None | Some("None")) {
                let why = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(path, why));
            }
        }
        Some(other) => {
            errors.push(FieldError::not_supported(
                path,
                other,
                &["Disabled", "Enabled", "IfPossible"],
            ));
        }
    }
    errors
}

/// Faults of the block devices of a container.
pub fn devices(container: &Value, volumes: &Volumes<'_>, path: &Path) -> FieldErrors {
    let mounted = used(container.items("/volumeMounts"), "mountPath");
    let mut errors = Vec::new();
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in container.items("/volumeDevices").iter().enumerate() {
        let path = path.index(i);
        let (at_name, at_path) = (path.child("name"), path.child("devicePath"));
        let (own, target) = (device.text("/name"), device.text("/devicePath"));
        if own.is_empty() {
            errors.push(FieldError::required(&at_name, ""));
        }
        if names.contains(own) {
            errors.push(FieldError::invalid(&at_name, own, "must be unique"));
        }
        match volumes.get(own) {
            None => errors.push(FieldError::not_found(&at_name, own)),
            Some(v) if !v.has("/persistentVolumeClaim") && !v.has("/ephemeral") => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(&at_name, own, why));
            }
            Some(_) => {}
        }
        if target.is_empty() {
            errors.push(FieldError::required(&at_path, ""));
        }
        if paths.contains(target) {
            errors.push(FieldError::invalid(&at_path, target, "must be unique"));
        }
        if target.is_empty() || no_backsteps(target, &at_path).is_empty() {
            paths.insert(target);
        } else {
            errors.push(FieldError::invalid(
                &at_path,
                target,
                "can not contain backsteps ('..')",
            ));
        }
        if mounted.contains_key(own) {
            errors.push(FieldError::invalid(
                &at_name,
                own,
                "must not already exist in volumeMounts",
            ));
        }
        if mounted.values().any(|m| *m == target) {
            let why = "must not already exist as a path in volumeMounts";
            errors.push(FieldError::invalid(&at_path, target, why));
        }
        if !own.is_empty() {
            names.insert(own);
        }
    }
    errors
}
