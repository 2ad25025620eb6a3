//! PersistentVolumes: one source, how much it holds, and who may use it.

use super::rules::{IMMUTABLE, Rules};
use super::volume_sources;
use crate::pod::scheduling;
use crate::pod::warnings::deprecated_node_label;
use crate::resources::quantity;
use crate::view::{View, equal_as, invalid, put_back, remove, set, strings};
use crate::{Context, diff, internal, meta};
use serde_json::{Map, Value};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, go_json};
use steersman_schema::name;

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const RECLAIM: &[&str] = &["Delete", "Recycle", "Retain"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const MORE_THAN_ONE: &str = "may not specify more than 1 volume type";
const INLINE: &str = "may not be specified in the context of inline volumes";
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

/// Sources in upstream's order: field, and where a second one is reported.
const SOURCES: &[(&str, &str)] = &[
    ("hostPath", "hostPath"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("nfs", "nfs"),
    ("rbd", "rbd"),
    ("quobyte", "quobyte"),
    ("cephfs", "cephFS"),
    ("iscsi", "iscsi"),
    ("cinder", "cinder"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("scaleIO", "scaleIO"),
    ("local", "local"),
    ("storageos", "storageos"),
    ("csi", "csi"),
];

pub static RULES: Rules = Rules {
    validate,
    validate_update: changed,
    warnings: |volume, _| warnings(volume),
    validate_name: meta::name_subdomain,
    prepare_status,
    validate_status: |_, _| Vec::new(),
};

/// The time of the last change of phase is the server's, unless the client says one.
fn prepare_status(new: &mut Value, old: &Value, context: &Context) {
    let key = "lastPhaseTransitionTime";
    let (after, before) = (new.text("/status/phase").to_string(), old.at("/status"));
    let time = new.at("/status/lastPhaseTransitionTime").clone();
    let unsaid = time.is_null() || &time == before.at("/lastPhaseTransitionTime");
    let Some(status) = new.get_mut("status") else { return };
    if after == before.text("/phase") {
        if time.is_null() {
            put_back(status, before, key);
        }
    } else if unsaid {
        set(status, key, context.now.as_str());
    }
}

fn validate(volume: &Value) -> FieldErrors {
    let mut errors = spec(volume, volume.text("/metadata/name"), false, &Path::new("spec"));
    errors.extend(mount_options(volume));
    errors
}

/// Faults of a volume's spec inside an attachment.
pub(super) fn inline(value: &Value, path: &Path) -> FieldErrors {
    let holder = serde_json::json!({ "spec": value });
    spec(&holder, "", true, path)
}

/// Sources that know mount options.
const MOUNTED: &[&str] = &[
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];

fn mount_options(volume: &Value) -> Option<FieldError> {
    let given = volume
        .entries("/metadata/annotations")
        .is_some_and(|a| a.contains_key(MOUNT_OPTIONS));
    let spec = volume.at("/spec");
    let known = MOUNTED.iter().any(|s| spec.get(*s).is_some_and(|v| !v.is_null()));
    let path = Path::new("metadata").child("annotations").child(MOUNT_OPTIONS);
    let why = "may not specify mount options for this volume type";
    (given && !known).then(|| FieldError::forbidden(&path, why))
}

fn spec(volume: &Value, own: &str, inline: bool, path: &Path) -> FieldErrors {
    let spec = volume.at("/spec");
    let mut errors = Vec::new();
    let capacity = spec.entries("/capacity").filter(|c| !c.is_empty());
    if inline {
        if spec.has("/claimRef") {
            errors.push(FieldError::forbidden(&path.child("claimRef"), INLINE));
        }
        if capacity.is_some() {
            errors.push(FieldError::forbidden(&path.child("capacity"), INLINE));
        }
        if !spec.has("/csi") {
            let why = "has to be specified in the context of inline volumes";
            errors.push(FieldError::required(&path.child("csi"), why));
        }
    }
    errors.extend(access_modes(spec, path));
    if !inline {
        errors.extend(validate_capacity(spec, capacity, &path.child("capacity")));
    }
    let policy = spec.text("/persistentVolumeReclaimPolicy");
    let place = path.child("persistentVolumeReclaimPolicy");
    if inline && !matches!(policy, "" | "Retain") {
        let why = "may only be Retain in the context of inline volumes";
        errors.push(FieldError::forbidden(&place, why));
    } else if !inline && !policy.is_empty() && !RECLAIM.contains(&policy) {
        errors.push(FieldError::not_supported(&place, policy, RECLAIM));
    }
    let affinity = spec.at("/nodeAffinity");
    let at = path.child("nodeAffinity");
    if !affinity.is_null() && inline {
        errors.push(FieldError::forbidden(&at, INLINE));
    } else if affinity.has("/required") {
        let found = scheduling::node_selector(affinity.at("/required"), false, &at.child("required"));
        errors.extend(found);
    } else if !affinity.is_null() {
        let why = "must specify required node constraints";
        errors.push(FieldError::required(&at.child("required"), why));
    }
    let affine = !affinity.is_null() && !inline;
    errors.extend(sources(spec, own, affine, path));
    let root = volume_sources::is_root(spec.text("/hostPath/path"));
    if spec.has("/hostPath") && root && policy == "Recycle" {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(&place, why));
    }
    errors.extend(names(spec, inline, path));
    errors
}

fn access_modes(spec: &Value, path: &Path) -> FieldErrors {
    let place = path.child("accessModes");
    let modes: Vec<&str> = strings(spec.items("/accessModes")).collect();
    if modes.is_empty() {
        return vec![FieldError::required(&place, "")];
    }
    let unknown = modes.iter().filter(|m| !MODES.contains(m));
    let mut errors: FieldErrors = unknown.map(|m| FieldError::not_supported(&place, *m, MODES)).collect();
    let alone = modes.contains(&"ReadWriteOncePod");
    if alone && modes.iter().any(|m| *m != "ReadWriteOncePod" && MODES.contains(m)) {
        let why = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(&place, why));
    }
    errors
}

fn validate_capacity(spec: &Value, capacity: Option<&Map<String, Value>>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if capacity.is_none() {
        errors.push(FieldError::required(path, ""));
    }
    if !capacity.is_some_and(|c| c.len() == 1 && c.contains_key("storage")) {
        let shown = match spec.at("/capacity") {
            Value::Null => BadValue::Json(Value::Null),
            map => BadValue::Raw(go_json(map)),
        };
        errors.push(FieldError::not_supported(path, shown, &["storage"]));
    }
    for (resource, amount) in capacity.into_iter().flatten() {
        let text = amount.as_str().unwrap_or_default();
        let (size, place) = (quantity(text), path.key(resource));
        if size.value() < 0 {
            let why = "must be a valid resource quantity";
            errors.push(FieldError::invalid(&place, size.value(), why));
        }
        if size.sign() <= 0 {
            errors.push(FieldError::invalid(
                &place,
                size.to_string(),
                "must be greater than zero",
            ));
        }
    }
    errors
}

fn sources(spec: &Value, own: &str, affine: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut count = 0;
    for (field, shown) in SOURCES {
        let Some(source) = spec.get(*field).filter(|v| !v.is_null()) else {
            continue;
        };
        count += 1;
        // Upstream never objects to flexVolume as the second.
        if count > 1 && *field != "flexVolume" {
            errors.push(FieldError::forbidden(&path.child(shown), MORE_THAN_ONE));
            continue;
        }
        errors.extend(volume_sources::validate(field, source, own, path));
        if *field == "local" && !affine {
            let why = "Local volume requires node affinity";
            errors.push(FieldError::required(&path.child("nodeAffinity"), why));
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
    errors
}

/// Classes and the mode.
fn names(spec: &Value, inline: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let (class, place) = (spec.text("/storageClassName"), path.child("storageClassName"));
    if inline && !class.is_empty() {
        errors.push(FieldError::forbidden(&place, INLINE));
    } else if !class.is_empty() {
        errors.extend(invalid(&place, class, name::dns1123_subdomain(class)));
    }
    let place = path.child("volumeMode");
    match spec.at("/volumeMode").as_str() {
        Some(mode) if inline && mode != "Filesystem" => {
            let why = "may not specify volumeMode other than Filesystem in the context of inline volumes";
            errors.push(FieldError::forbidden(&place, why));
        }
        Some(mode) if !inline && !VOLUME_MODES.contains(&mode) => {
            errors.push(FieldError::not_supported(&place, mode, VOLUME_MODES));
        }
        _ => {}
    }
    if let Some(class) = spec.at("/volumeAttributesClassName").as_str() {
        let place = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.push(FieldError::required(&place, "an empty string is disallowed"));
        } else {
            errors.extend(invalid(&place, class, name::dns1123_subdomain(class)));
        }
        if !spec.has("/csi") && !inline {
            let why = "has to be specified when using volumeAttributesClassName";
            errors.push(FieldError::required(&path.child("csi"), why));
        }
    }
    errors
}

fn source_of(spec: &Value) -> Value {
    let all = spec.as_object().into_iter().flatten();
    let sources = all.filter(|(k, v)| SOURCES.iter().any(|(s, _)| s == k) && !v.is_null());
    Value::Object(sources.map(|(k, v)| (k.clone(), v.clone())).collect())
}

fn changed(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = validate(new);
    // Upstream says everything but the mount options twice; what repeats is shown once.
    let (mut after, before) = (source_of(new.at("/spec")), source_of(old.at("/spec")));
    // The secret for expansion may be added later.
    if before.has("/csi")
        && !before.has("/csi/controllerExpandSecretRef")
        && let Some(csi) = after.get_mut("csi")
    {
        remove(csi, "controllerExpandSecretRef");
    }
    if !equal_as("core.v1.PersistentVolumeSpec", &after, &before) {
        let shown = |source: &Value| internal::pretty("PersistentVolumeSource", source);
        let diff = diff::unified(&shown(&before), &shown(&after));
        let place = Path::new("spec").child("persistentvolumesource");
        let why = format!("spec.persistentvolumesource is immutable after creation\n{diff}");
        errors.push(FieldError::forbidden(&place, why));
    }
    let (mode, was) = (new.at("/spec/volumeMode"), old.at("/spec/volumeMode"));
    if mode != was {
        errors.push(FieldError::invalid(&Path::new("volumeMode"), mode, IMMUTABLE));
    }
    let (affinity, was) = (new.at("/spec/nodeAffinity"), old.at("/spec/nodeAffinity"));
    if !was.is_null() && !scheduling::same_but_for_old_labels(affinity, was) {
        let shown = match affinity {
            Value::Null => BadValue::Json(Value::Null),
            some => BadValue::Raw(internal::compact("VolumeNodeAffinity", some)),
        };
        let why = format!("{IMMUTABLE}, except for updating from beta label to GA");
        errors.push(FieldError::invalid(&Path::new("nodeAffinity"), shown, why));
    }
    let class = "/spec/volumeAttributesClassName";
    if old.has(class) && !new.has(class) {
        let place = Path::new("spec").child("volumeAttributesClassName");
        let why = "update from non-nil value to nil is forbidden";
        errors.push(FieldError::forbidden(&place, why));
    }
    errors
}

fn warnings(volume: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = volume.at("/spec");
    for (key, why) in [
        (
            "volume.beta.kubernetes.io/storage-class",
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (
            MOUNT_OPTIONS,
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ] {
        if volume
            .entries("/metadata/annotations")
            .is_some_and(|a| a.contains_key(key))
        {
            let path = Path::new("metadata").child("annotations").key(key);
            warnings.push(format!("{path}: {why}"));
        }
    }
    if spec.text("/persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning."
                .into(),
        );
    }
    let terms = spec.items("/nodeAffinity/required/nodeSelectorTerms");
    let at = Path::new("spec")
        .child("nodeAffinity")
        .child("required")
        .child("nodeSelectorTerms");
    for (i, term) in terms.iter().enumerate() {
        for (j, expression) in term.items("/matchExpressions").iter().enumerate() {
            let key = expression.text("/key");
            if let Some(why) = deprecated_node_label(key) {
                let place = at.index(i).child("matchExpressions").index(j).child("key");
                warnings.push(format!("{place}: {key} is {why}"));
            }
        }
    }
    for (source, shown, why) in [
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        (
            "photonPersistentDisk",
            "photonPersistentDisk",
            "deprecated in v1.11, non-functional in v1.16+",
        ),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        (
            "storageos",
            "storageOS",
            "deprecated in v1.22, non-functional in v1.25+",
        ),
        (
            "glusterfs",
            "glusterfs",
            "deprecated in v1.25, non-functional in v1.26+",
        ),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ] {
        if spec.get(source).is_some_and(|v| !v.is_null()) {
            warnings.push(format!("spec.{shown}: {why}"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_has_one_source_and_a_size() {
        let volume = json!({"spec": {"accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}, "nfs": {}}});
        let texts: Vec<String> = validate(&volume).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: null: supported values: \"storage\"",
                "spec.nfs: Forbidden: may not specify more than 1 volume type",
            ]
        );
    }
}
