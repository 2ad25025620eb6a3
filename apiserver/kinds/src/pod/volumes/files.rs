//! Files that a volume is filled with, and the paths by which they and the host's are named.

use super::need;
use crate::pod::env::{field_ref, resource_ref};
use crate::view::View;
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

pub(super) fn host_path(source: &Value, path: &Path) -> FieldErrors {
    let target = source.text("/path");
    if target.is_empty() {
        return vec![FieldError::required(&path.child("path"), "")];
    }
    let mut errors = no_backsteps(target, &path.child("path"));
    let kind = source.text("/type");
    let known = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    if !known.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("type"), kind, &known));
    }
    errors
}

/// The fault of file mode bits outside 0..=0777.
pub fn file_mode(source: &Value, field: &str, path: &Path) -> FieldErrors {
    let mode = source
        .get(field)
        .and_then(Value::as_i64)
        .filter(|m| !(0..=0o777).contains(m));
    mode.map(|m| FieldError::invalid(&path.child(field), m, FILE_MODE))
        .into_iter()
        .collect()
}

pub(super) fn keyed(source: &Value, path: &Path, id: &str) -> FieldErrors {
    let mut errors = need(source, path, &[id]);
    errors.extend(file_mode(source, "defaultMode", path));
    for (i, item) in source.items("/items").iter().enumerate() {
        errors.extend(key_to_path(item, &path.child("items").index(i)));
    }
    errors
}

/// Faults of one `key`, `path`, `mode`.
pub fn key_to_path(item: &Value, path: &Path) -> FieldErrors {
    let mut errors = need(item, path, &["key", "path"]);
    errors.extend(local_path(item.text("/path"), &path.child("path")));
    errors.extend(file_mode(item, "mode", path));
    errors
}

/// A relative path that never goes up.
pub fn descending(target: &str, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if target.starts_with('/') {
        errors.push(FieldError::invalid(path, target, "must be a relative path"));
    }
    errors.extend(no_backsteps(target, path));
    errors
}

pub fn no_backsteps(target: &str, path: &Path) -> FieldErrors {
    let goes_up = target.split('/').any(|part| part == "..");
    goes_up
        .then(|| FieldError::invalid(path, target, "must not contain '..'"))
        .into_iter()
        .collect()
}

/// A descending path whose first part does not start with two dots (those are the kubelet's).
pub fn local_path(target: &str, path: &Path) -> FieldErrors {
    let mut errors = descending(target, path);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.push(FieldError::invalid(path, target, "must not start with '..'"));
    }
    errors
}

pub(super) fn downward(source: &Value, path: &Path) -> FieldErrors {
    let mut errors = file_mode(source, "defaultMode", path);
    errors.extend(source.items("/items").iter().flat_map(|file| downward_file(file, path)));
    errors
}

/// Faults of one file of the downward API. Upstream does not number these files.
pub fn downward_file(file: &Value, path: &Path) -> FieldErrors {
    const FIELDS: &[&str] = &[
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
    ];
    let mut errors = need(file, path, &["path"]);
    errors.extend(local_path(file.text("/path"), &path.child("path")));
    let (field, resource) = (file.at("/fieldRef"), file.at("/resourceFieldRef"));
    if !field.is_null() {
        errors.extend(field_ref(field, FIELDS, &path.child("fieldRef")));
        if !resource.is_null() {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(FieldError::invalid(path, "resource", why));
        }
    } else if !resource.is_null() {
        errors.extend(resource_ref(resource, &path.child("resourceFieldRef"), true));
    } else {
        errors.push(FieldError::required(
            path,
            "one of fieldRef and resourceFieldRef is required",
        ));
    }
    errors.extend(file_mode(file, "mode", path));
    errors
}
