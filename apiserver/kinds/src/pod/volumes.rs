//! Volumes of a pod: each has a name and exactly one source; names of volumes are what mounts refer to.

mod files;
mod mounts;
mod storage;
mod templates;

pub use files::{descending, downward_file, file_mode, key_to_path, local_path, no_backsteps};
pub use mounts::{devices, mounts};
pub use storage::{csi_driver, iscsi_name_fault};
pub use templates::{claim_template, template_metadata};

use super::{Options, projected};
use crate::internal;
use crate::resources::quantity;
use crate::view::{View, invalid};
use files::{downward, host_path, keyed};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;
use storage::{azure_disk, csi, disk, fibre_channel, flex, flocker, iscsi, iscsi_length, nfs, quobyte, storageos};
use templates::ephemeral;

const MORE_THAN_ONE: &str = "may not specify more than 1 volume type";

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
