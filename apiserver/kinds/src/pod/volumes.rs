//! Volumes of a pod: each has a name and exactly one source; names of volumes are what mounts refer to.

use super::Options;
use super::env::{field_ref, resource_ref};
use super::projected;
use crate::internal;
use crate::resources::quantity;
use crate::view::{View, invalid};
use crate::{claim, meta};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MORE_THAN_ONE: &str = "may not specify more than 1 volume type";
/// The rule admits 0; upstream's words do not.
const PARTITION: &str = "must be between 1 and 255, inclusive";

/// Volumes without faults, by name.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// Faults of the volumes, and those that have none. `pod_name` is empty where it is not known (templates).
pub fn validate<'a>(list: &'a [Value], pod_name: &str, path: &Path, options: Options) -> (Volumes<'a>, FieldErrors) {
    let mut errors = Vec::new();
    let mut good = Volumes::new();
    let claims: BTreeSet<String> = list
        .iter()
        .filter(|v| v.has("/ephemeral") && !pod_name.is_empty())
        .map(|v| format!("{pod_name}-{}", v.text("/name")))
        .collect();
    for (i, volume) in list.iter().enumerate() {
        let path = path.index(i);
        let own = volume.text("/name");
        let mut found = source(volume, pod_name, &path, options);
        let place = path.child("name");
        if own.is_empty() {
            found.push(FieldError::required(&place, ""));
        } else {
            found.extend(invalid(&place, own, name::dns1123_label(own)));
        }
        if good.contains_key(own) {
            found.push(FieldError::duplicate(&place, own));
        }
        if found.is_empty() {
            good.insert(own, volume);
        }
        errors.extend(found);
        let claim = volume.text("/persistentVolumeClaim/claimName");
        if claims.contains(claim) {
            let place = path.child("persistentVolumeClaim").child("claimName");
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(FieldError::invalid(&place, claim, why));
        }
    }
    (good, errors)
}

/// Sources in the order in which upstream looks at them: field, and the field that a second one is reported at.
const SOURCES: &[(&str, &str)] = &[
    ("emptyDir", "emptyDir"),
    ("hostPath", "hostPath"),
    ("gitRepo", "gitRepo"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", "secret"),
    ("nfs", "nfs"),
    ("iscsi", "iscsi"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd"),
    ("cinder", "cinder"),
    ("cephfs", "cephFS"),
    ("quobyte", "quobyte"),
    ("downwardAPI", "downwarAPI"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("configMap", "configMap"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("storageos", "storageos"),
    ("projected", "projected"),
    ("scaleIO", "scaleIO"),
    ("csi", "csi"),
    ("ephemeral", "ephemeral"),
    ("image", "image"),
];

/// Whether `volume` has any source.
pub fn has_source(volume: &Value) -> bool {
    SOURCES
        .iter()
        .any(|(field, _)| volume.get(*field).is_some_and(|v| !v.is_null()))
}

fn source(volume: &Value, pod_name: &str, path: &Path, options: Options) -> FieldErrors {
    let mut errors = Vec::new();
    let mut count = 0;
    for (field, shown) in SOURCES {
        let Some(source) = volume.get(*field).filter(|v| !v.is_null()) else {
            continue;
        };
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(&path.child(shown), MORE_THAN_ONE));
        } else {
            errors.extend(one(field, source, volume, pod_name, path, options));
        }
        if *field == "iscsi" {
            errors.extend(iscsi_length(source, volume.text("/name"), path));
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
    errors
}

fn one(field: &str, s: &Value, volume: &Value, pod_name: &str, path: &Path, options: Options) -> FieldErrors {
    let place = path.child(field);
    match field {
        "emptyDir" => empty_dir(s, &place),
        "hostPath" => host_path(s, &place),
        "gitRepo" => {
            let mut errors = need(s, &place, &["repository"]);
            errors.extend(descending(s.text("/directory"), &place.child("directory")));
            errors
        }
        "gcePersistentDisk" => disk(s, &path.child("persistentDisk"), "pdName"),
        "awsElasticBlockStore" => disk(s, &place, "volumeID"),
        "secret" => keyed(s, &place, "secretName"),
        "configMap" => keyed(s, &place, "name"),
        "nfs" => nfs(s, &place),
        "iscsi" => iscsi(s, &place),
        "glusterfs" => need(s, &place, &["endpoints", "path"]),
        "flocker" => flocker(s, &place),
        "persistentVolumeClaim" => need(s, &place, &["claimName"]),
        "rbd" => {
            let mut errors = need_items(s, &place, "monitors");
            errors.extend(need(s, &place, &["image"]));
            errors
        }
        "cinder" => {
            let mut errors = need(s, &place, &["volumeID"]);
            errors.extend(secret_ref(s, &place));
            errors
        }
        "cephfs" => need_items(s, &place, "monitors"),
        "quobyte" => quobyte(s, &place),
        "downwardAPI" => downward(s, &place),
        "fc" => fibre_channel(s, &place),
        "flexVolume" => flex(s, &place),
        "azureFile" => need(s, &place, &["secretName", "shareName"]),
        "vsphereVolume" => need(s, &place, &["volumePath"]),
        "photonPersistentDisk" => need(s, &place, &["pdID"]),
        "portworxVolume" => need(s, &place, &["volumeID"]),
        "azureDisk" => azure_disk(s, &place),
        "storageos" => storageos(s, &place),
        "projected" => projected::validate(s, &place, options),
        "scaleIO" => need(s, &place, &["gateway", "system", "volumeName"]),
        "csi" => csi(s, &place),
        "ephemeral" => ephemeral(s, volume.text("/name"), pod_name, path),
        "image" => {
            let mut errors = Vec::new();
            if options.pod {
                errors.extend(need(s, &place, &["reference"]));
            }
            errors.extend(super::containers::pull_policy(
                s.text("/pullPolicy"),
                &place.child("pullPolicy"),
            ));
            errors
        }
        _ => Vec::new(),
    }
}

/// Faults of a source that is the same in a PersistentVolume; `path` is that of the object around it.
pub fn plain(field: &str, source: &Value, path: &Path) -> FieldErrors {
    let options = Options {
        pod: false,
        lenient: false,
        labelled: false,
    };
    one(field, source, &Value::Null, "", path, options)
}

/// A fault for each of `fields` that is empty.
pub fn need(source: &Value, path: &Path, fields: &[&str]) -> FieldErrors {
    let empty = |f: &&&str| source.get(**f).and_then(Value::as_str).is_none_or(str::is_empty);
    fields
        .iter()
        .filter(empty)
        .map(|f| FieldError::required(&path.child(f), ""))
        .collect()
}

fn need_items(source: &Value, path: &Path, field: &str) -> FieldErrors {
    let empty = source.items(&format!("/{field}")).is_empty();
    empty
        .then(|| FieldError::required(&path.child(field), ""))
        .into_iter()
        .collect()
}

fn secret_ref(source: &Value, path: &Path) -> FieldErrors {
    match source.get("secretRef").filter(|v| !v.is_null()) {
        Some(secret) => need(secret, &path.child("secretRef"), &["name"]),
        None => Vec::new(),
    }
}

fn empty_dir(source: &Value, path: &Path) -> FieldErrors {
    let limit = source.text("/sizeLimit");
    if limit.is_empty() || quantity(limit).sign() >= 0 {
        return Vec::new();
    }
    vec![FieldError::forbidden(
        &path.child("sizeLimit"),
        "SizeLimit field must be a valid resource quantity",
    )]
}

fn host_path(source: &Value, path: &Path) -> FieldErrors {
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

fn disk(source: &Value, path: &Path, id: &str) -> FieldErrors {
    let mut errors = need(source, path, &[id]);
    let partition = source.int("/partition");
    if !(0..=255).contains(&partition) {
        errors.push(FieldError::invalid(&path.child("partition"), partition, PARTITION));
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

fn keyed(source: &Value, path: &Path, id: &str) -> FieldErrors {
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

fn nfs(source: &Value, path: &Path) -> FieldErrors {
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

fn iscsi_length(source: &Value, volume: &str, path: &Path) -> FieldErrors {
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

fn iscsi(source: &Value, path: &Path) -> FieldErrors {
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

fn flocker(source: &Value, path: &Path) -> FieldErrors {
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

fn quobyte(source: &Value, path: &Path) -> FieldErrors {
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

fn downward(source: &Value, path: &Path) -> FieldErrors {
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

fn fibre_channel(source: &Value, path: &Path) -> FieldErrors {
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

fn flex(source: &Value, path: &Path) -> FieldErrors {
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

fn azure_disk(source: &Value, path: &Path) -> FieldErrors {
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

fn storageos(source: &Value, path: &Path) -> FieldErrors {
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

fn csi(source: &Value, path: &Path) -> FieldErrors {
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

fn ephemeral(source: &Value, volume: &str, pod_name: &str, path: &Path) -> FieldErrors {
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

/// Faults of `resourceClaims` of a pod. `mirror` pods may have none.
pub fn resource_claims(list: &[Value], mirror: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (i, claim) in list.iter().enumerate() {
        if mirror {
            errors.push(FieldError::forbidden(
                &Path::default(),
                "static pods do not support resource claims",
            ));
            continue;
        }
        let path = path.index(i);
        let (own, place) = (claim.text("/name"), path.child("name"));
        if own.is_empty() {
            errors.push(FieldError::required(&place, ""));
        } else if seen.contains(&own) {
            errors.push(FieldError::duplicate(&place, own));
        } else {
            errors.extend(invalid(&place, own, name::dns1123_label(own)));
            seen.push(own);
        }
        let shown = |claim: &Value| BadValue::Raw(internal::compact("PodResourceClaim", claim));
        let named = claim.has("/resourceClaimName");
        let templated = claim.has("/resourceClaimTemplateName");
        if named && templated {
            let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
            errors.push(FieldError::invalid(&path, shown(claim), why));
        }
        if !named && !templated {
            let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
            errors.push(FieldError::invalid(&path, shown(claim), why));
        }
        for field in ["resourceClaimName", "resourceClaimTemplateName"] {
            let found = claim.get(field).and_then(Value::as_str);
            errors.extend(
                found
                    .into_iter()
                    .flat_map(|t| invalid(&path.child(field), t, name::dns1123_subdomain(t))),
            );
        }
    }
    errors
}

/// Names of the pod's resource claims.
pub fn claim_names(spec: &Value) -> BTreeSet<&str> {
    spec.items("/resourceClaims")
        .iter()
        .map(|c| c.text("/name"))
        .filter(|n| !n.is_empty())
        .collect()
}
