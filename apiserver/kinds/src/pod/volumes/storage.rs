//! Sources that are storage from elsewhere: disks of clouds, network file systems, CSI.

use super::{need, secret_ref};
use crate::view::{View, invalid};
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

/// The rule admits 0; upstream's words do not.
const PARTITION: &str = "must be between 1 and 255, inclusive";

pub(super) fn disk(source: &Value, path: &Path, id: &str) -> FieldErrors {
    let mut errors = need(source, path, &[id]);
    let partition = source.int("/partition");
    if !(0..=255).contains(&partition) {
        errors.push(FieldError::invalid(&path.child("partition"), partition, PARTITION));
    }
    errors
}

pub(super) fn nfs(source: &Value, path: &Path) -> FieldErrors {
    let mut errors = need(source, path, &["server", "path"]);
    let target = source.text("/path");
    if !target.starts_with('/') {
        errors.push(FieldError::invalid(
            &path.child("path"),
            target,
            "must be an absolute path",
        ));
    }
    errors
}

pub(super) fn iscsi_length(source: &Value, volume: &str, path: &Path) -> FieldErrors {
    if source.has("/initiatorName") && volume.len() + 1 + source.text("/targetPortal").len() > 64 {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        return vec![FieldError::invalid(&path.child("name"), volume, why)];
    }
    Vec::new()
}

/// `iqn.2001-04.com.example:x`, `eui.` with 16 letters or digits, `naa.` with 32.
pub fn iscsi_name_fault(text: &str) -> Option<&'static str> {
    let good = match text.get(..3) {
        Some("iqn") => iqn(text),
        Some("eui") => text.len() == 20 && text.bytes().skip(4).all(|c| c.is_ascii_alphanumeric()),
        Some("naa") => text.len() == 36 && text.bytes().skip(4).all(|c| c.is_ascii_alphanumeric()),
        _ => return Some("must be valid format starting with iqn, eui, or naa"),
    };
    (!good).then_some("must be valid format")
}

fn iqn(text: &str) -> bool {
    let Some((date, authority)) = text.strip_prefix("iqn.").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let Some((domain, tail)) = authority.split_once(':') else {
        return false;
    };
    let dated = date.len() == 7
        && date
            .bytes()
            .enumerate()
            .all(|(i, c)| if i == 4 { c == b'-' } else { c.is_ascii_digit() });
    let named = !domain.is_empty()
        && domain
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'));
    dated
        && named
        && !tail.is_empty()
        && !tail.contains([',', ';', '*', '&', '$', '|'])
        && !tail.contains(char::is_whitespace)
}

pub(super) fn iscsi(source: &Value, path: &Path) -> FieldErrors {
    let mut errors = need(source, path, &["targetPortal", "iqn"]);
    let qualified = source.text("/iqn");
    if !qualified.is_empty()
        && let Some(why) = iscsi_name_fault(qualified)
    {
        errors.push(FieldError::invalid(&path.child("iqn"), qualified, why));
    }
    let lun = source.int("/lun");
    if !(0..=255).contains(&lun) {
        errors.push(FieldError::invalid(
            &path.child("lun"),
            lun,
            name::inclusive_range(0, 255),
        ));
    }
    if (source.flag("/chapAuthDiscovery") || source.flag("/chapAuthSession")) && !source.has("/secretRef") {
        errors.push(FieldError::required(&path.child("secretRef"), ""));
    }
    if source.has("/initiatorName") {
        let initiator = source.text("/initiatorName");
        if let Some(why) = iscsi_name_fault(initiator) {
            errors.push(FieldError::invalid(&path.child("initiatorname"), initiator, why));
        }
    }
    errors
}

pub(super) fn flocker(source: &Value, path: &Path) -> FieldErrors {
    let (dataset, uuid) = (source.text("/datasetName"), source.text("/datasetUUID"));
    let mut errors = Vec::new();
    if dataset.is_empty() && uuid.is_empty() {
        errors.push(FieldError::required(
            path,
            "one of datasetName and datasetUUID is required",
        ));
    }
    if !dataset.is_empty() && !uuid.is_empty() {
        let why = "datasetName and datasetUUID can not be specified simultaneously";
        errors.push(FieldError::invalid(path, "resource", why));
    }
    if dataset.contains('/') {
        errors.push(FieldError::invalid(
            &path.child("datasetName"),
            dataset,
            "must not contain '/'",
        ));
    }
    errors
}

pub(super) fn quobyte(source: &Value, path: &Path) -> FieldErrors {
    let why = "must be a host:port pair or multiple pairs separated by commas";
    let registry = source.text("/registry");
    let mut errors = Vec::new();
    if registry.is_empty() {
        errors.push(FieldError::required(&path.child("registry"), why));
    } else if source.text("/tenant").len() >= 65 {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(&path.child("tenant"), why));
    } else {
        let bad = registry.split(',').filter(|pair| pair.matches(':').count() != 1);
        errors.extend(bad.map(|_| FieldError::invalid(&path.child("registry"), registry, why)));
    }
    errors.extend(need(source, path, &["volume"]));
    errors
}

pub(super) fn fibre_channel(source: &Value, path: &Path) -> FieldErrors {
    let (targets, ids) = (source.items("/targetWWNs"), source.items("/wwids"));
    let place = path.child("targetWWNs");
    let mut errors = Vec::new();
    if targets.is_empty() && ids.is_empty() {
        errors.push(FieldError::required(
            &place,
            "must specify either targetWWNs or wwids, but not both",
        ));
    }
    if !targets.is_empty() && !ids.is_empty() {
        errors.push(FieldError::invalid(
            &place,
            targets,
            "targetWWNs and wwids can not be specified simultaneously",
        ));
    }
    if !targets.is_empty() {
        let place = path.child("lun");
        match source.at("/lun").as_i64() {
            None => errors.push(FieldError::required(
                &place,
                "lun is required if targetWWNs is specified",
            )),
            Some(lun) if !(0..=255).contains(&lun) => {
                errors.push(FieldError::invalid(&place, lun, name::inclusive_range(0, 255)));
            }
            Some(_) => {}
        }
    }
    errors
}

pub(super) fn flex(source: &Value, path: &Path) -> FieldErrors {
    let mut errors = need(source, path, &["driver"]);
    for (key, _) in source.entries("/options").into_iter().flatten() {
        let namespace = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(FieldError::invalid(&path.child("options").key(key), key, why));
        }
    }
    errors
}

pub(super) fn azure_disk(source: &Value, path: &Path) -> FieldErrors {
    let mut errors = need(source, path, &["diskName", "diskURI"]);
    let one_of = |field: &str, known: &[&str]| {
        let text = source.get(field).and_then(Value::as_str).filter(|t| !known.contains(t));
        text.map(|t| FieldError::not_supported(&path.child(field), t, known))
    };
    errors.extend(one_of("cachingMode", &["None", "ReadOnly", "ReadWrite"]));
    errors.extend(one_of("kind", &["Dedicated", "Managed", "Shared"]));
    let uri = source.text("/diskURI");
    let (prefix, shown) = match source.text("/kind") {
        "" => return errors,
        "Managed" => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        _ => (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        ),
    };
    if !uri.starts_with(prefix) {
        errors.push(FieldError::not_supported(&path.child("diskURI"), uri, &[shown]));
    }
    errors
}

pub(super) fn storageos(source: &Value, path: &Path) -> FieldErrors {
    let mut errors = need(source, path, &["volumeName"]);
    for field in ["volumeName", "volumeNamespace"] {
        let text = source.get(field).and_then(Value::as_str).unwrap_or_default();
        if !text.is_empty() {
            errors.extend(invalid(&path.child(field), text, name::dns1123_label(text)));
        }
    }
    errors.extend(secret_ref(source, path));
    errors
}

/// Faults of a CSI driver's name.
pub fn csi_driver(driver: &str, path: &Path) -> FieldErrors {
    if driver.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    if driver.len() > 63 {
        errors.push(FieldError::too_long(path, 63));
    }
    errors.extend(invalid(path, driver, name::dns1123_subdomain(&driver.to_lowercase())));
    errors
}

pub(super) fn csi(source: &Value, path: &Path) -> FieldErrors {
    let mut errors = csi_driver(source.text("/driver"), &path.child("driver"));
    if source.has("/nodePublishSecretRef") {
        match source.text("/nodePublishSecretRef/name") {
            "" => errors.push(FieldError::required(
                &path.child("nodePublishSecretRef").child("name"),
                "",
            )),
            secret => errors.extend(invalid(&path.child("name"), secret, name::dns1123_subdomain(secret))),
        }
    }
    errors
}
