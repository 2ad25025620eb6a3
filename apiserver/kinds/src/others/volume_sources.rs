//! The sources that a PersistentVolume may have. Most are as in a pod; those with a secret name its namespace too.

use crate::pod::volumes::{self, csi_driver, need};
use crate::view::{View, invalid};
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

/// Faults of `source`, which is the field `field` of the spec at `path`. `own` is the volume's name.
pub(super) fn validate(field: &str, source: &Value, own: &str, path: &Path) -> FieldErrors {
    let place = path.child(field);
    match field {
        "glusterfs" => glusterfs(source, &place),
        "iscsi" => iscsi(source, own, &place),
        "cinder" => {
            let mut errors = need(source, &place, &["volumeID"]);
            errors.extend(secret(source, &place));
            errors
        }
        "azureFile" => {
            let mut errors = need(source, &place, &["secretName", "shareName"]);
            if source.at("/secretNamespace").as_str() == Some("") {
                errors.push(FieldError::required(&place.child("secretNamespace"), ""));
            }
            errors
        }
        "local" => match source.text("/path") {
            "" => vec![FieldError::required(&place.child("path"), "")],
            target => volumes::no_backsteps(target, &place.child("path")),
        },
        "storageos" => {
            let mut errors = need(source, &place, &["volumeName"]);
            for field in ["volumeName", "volumeNamespace"] {
                let text = source.get(field).and_then(Value::as_str).unwrap_or_default();
                if !text.is_empty() {
                    errors.extend(invalid(&place.child(field), text, name::dns1123_label(text)));
                }
            }
            errors.extend(secret(source, &place));
            errors
        }
        "csi" => csi(source, &place),
        _ => volumes::plain(field, source, path),
    }
}

/// Whether a path means the root, however it is written.
pub(super) fn is_root(text: &str) -> bool {
    let mut depth = 0_usize;
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    text.starts_with('/') && depth == 0
}

fn glusterfs(source: &Value, path: &Path) -> FieldErrors {
    let mut errors = need(source, path, &["endpoints", "path"]);
    let place = path.child("endpointsNamespace");
    match source.at("/endpointsNamespace").as_str() {
        Some("") => {
            let why = "if the endpointnamespace is set, it must be a valid namespace name";
            errors.push(FieldError::invalid(&place, "", why));
        }
        Some(namespace) => errors.extend(invalid(&place, namespace, name::dns1123_label(namespace))),
        None => {}
    }
    errors
}

/// Name and namespace of a secret, where one is named.
fn secret(source: &Value, path: &Path) -> FieldErrors {
    match source.get("secretRef").filter(|s| !s.is_null()) {
        Some(secret) => need(secret, &path.child("secretRef"), &["name", "namespace"]),
        None => Vec::new(),
    }
}

fn iscsi(source: &Value, own: &str, path: &Path) -> FieldErrors {
    let portal = source.text("/targetPortal");
    let mut errors = need(source, path, &["targetPortal"]);
    if source.has("/initiatorName") && own.len() + 1 + portal.len() > 64 {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.push(FieldError::invalid(&path.child("targetportal"), portal, why));
    }
    errors.extend(need(source, path, &["iqn"]));
    let qualified = source.text("/iqn");
    if !qualified.is_empty() && volumes::iscsi_name_fault(qualified).is_some() {
        errors.push(FieldError::invalid(
            &path.child("iqn"),
            qualified,
            "must be valid format",
        ));
    }
    let lun = source.int("/lun");
    if !(0..=255).contains(&lun) {
        let why = name::inclusive_range(0, 255);
        errors.push(FieldError::invalid(&path.child("lun"), lun, why));
    }
    let secret = source.get("secretRef").filter(|s| !s.is_null());
    if (source.flag("/chapAuthDiscovery") || source.flag("/chapAuthSession")) && secret.is_none() {
        errors.push(FieldError::required(&path.child("secretRef"), ""));
    }
    if let Some(secret) = secret {
        errors.extend(need(secret, &path.child("secretRef"), &["name"]));
    }
    if let Some(initiator) = source.at("/initiatorName").as_str()
        && volumes::iscsi_name_fault(initiator).is_some()
    {
        let place = path.child("initiatorname");
        errors.push(FieldError::invalid(&place, initiator, "must be valid format"));
    }
    errors
}

fn csi(source: &Value, path: &Path) -> FieldErrors {
    let mut errors = csi_driver(source.text("/driver"), &path.child("driver"));
    errors.extend(need(source, path, &["volumeHandle"]));
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let Some(secret) = source.get(field).filter(|s| !s.is_null()) else {
            continue;
        };
        let place = path.child(field);
        for (key, check) in [
            ("name", name::dns1123_subdomain as fn(&str) -> Vec<String>),
            ("namespace", name::dns1123_label),
        ] {
            let text = secret.get(key).and_then(Value::as_str).unwrap_or_default();
            errors.extend(super::rules::required(text, &place.child(key), check));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_has_many_names() {
        assert!(["/", "//", "/a/..", "/.."].iter().all(|p| is_root(p)));
        assert!(!["", "a", "/a"].iter().any(|p| is_root(p)));
    }
}
