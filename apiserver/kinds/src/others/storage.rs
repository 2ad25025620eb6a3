//! Kinds of storage.k8s.io: classes, CSI drivers and their nodes and capacities, attachments.

use super::rules::{IMMUTABLE, Rules, fixed, free_metadata, keep_metadata, label_selector};
use super::volume;
use crate::pod::volumes::csi_driver;
use crate::pod::warnings::deprecated_node_label;
use crate::view::{View, equal, equal_as, invalid, same, strings};
use crate::{internal, meta, nothing, resources, selector};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

/// Bytes of all parameters, or of attachment metadata, together.
const PARAMETERS_BYTES: usize = 256 * 1024;
const PARAMETERS_MAX: usize = 512;
const MESSAGE_MAX: usize = 1024;
const NODE_ID_MAX: usize = 256;
const RECLAIM: &[&str] = &["Delete", "Retain"];
const BINDING: &[&str] = &["Immediate", "WaitForFirstConsumer"];
const FS_GROUP: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
/// Seconds of a token's life.
const TOKEN_MIN: i64 = 600;
const TOKEN_MAX: i64 = 1 << 32;
const PERIOD_MIN: i64 = 10;
const TOKENS_IN_SECRETS: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";

pub static CLASS: Rules = Rules {
    validate: validate_class,
    validate_update: |new, old| {
        let mut errors = validate_class(new);
        for key in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            let (after, before) = (at(new, key), at(old, key));
            // Absent parameters and empty ones are the same map.
            if !same(after, before) {
                errors.push(FieldError::invalid(&Path::new(key), after, IMMUTABLE));
            }
        }
        errors
    },
    warnings: |class, _| {
        let mut warnings = Vec::new();
        for (i, term) in class.items("/allowedTopologies").iter().enumerate() {
            let path = Path::new("allowedTopologies").index(i).child("matchLabelExpressions");
            for (i, expression) in term.items("/matchLabelExpressions").iter().enumerate() {
                if let Some(why) = deprecated_node_label(expression.text("/key")) {
                    warnings.push(format!("{}: {why}", path.index(i).child("key")));
                }
            }
        }
        warnings
    },
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

pub static ATTRIBUTES_CLASS: Rules = Rules {
    validate: validate_attributes,
    validate_update: |new, old| {
        let mut errors = Vec::new();
        if new.text("/driverName") != old.text("/driverName") {
            let why = "updates to driverName are forbidden.";
            errors.push(FieldError::forbidden(&Path::new("driverName"), why));
        }
        if at(new, "parameters") != at(old, "parameters") {
            let why = "updates to parameters are forbidden.";
            errors.push(FieldError::forbidden(&Path::new("parameters"), why));
        }
        errors.extend(validate_attributes(new));
        errors
    },
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

pub static DRIVER: Rules = Rules {
    validate: validate_driver,
    validate_update: |new, old| {
        let mut errors = validate_driver(new);
        let path = Path::new("spec");
        let (after, before) = (new.at("/spec"), old.at("/spec"));
        let shown = at(after, "attachRequired");
        errors.extend(fixed(
            shown,
            at(before, "attachRequired"),
            shown,
            &path.child("attachedRequired"),
        ));
        let shown = at(after, "volumeLifecycleModes");
        let place = path.child("volumeLifecycleModes");
        errors.extend(fixed(shown, at(before, "volumeLifecycleModes"), shown, &place));
        errors
    },
    warnings: |driver, old| {
        let requests = driver.at("/spec/tokenRequests");
        let news = old.is_none_or(|o| !equal(o.at("/spec/tokenRequests"), requests));
        let unset = !driver.has("/spec/serviceAccountTokenInSecrets");
        let warn = news && unset && !driver.items("/spec/tokenRequests").is_empty();
        warn.then(|| TOKENS_IN_SECRETS.to_string()).into_iter().collect()
    },
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

pub static NODE: Rules = Rules {
    validate: validate_node,
    validate_update: |new, old| {
        let mut errors = validate_node(new);
        for before in old.items("/spec/drivers") {
            let own = before.text("/name");
            for after in new.items("/spec/drivers").iter().filter(|d| d.text("/name") == own) {
                let (mut after, mut before) = (after.clone(), before.clone());
                // What can be attached may change.
                crate::view::remove(&mut after, "allocatable");
                crate::view::remove(&mut before, "allocatable");
                let shown = BadValue::Raw(internal::compact("CSINodeDriver", &after));
                errors.extend(fixed(&after, &before, shown, &Path::new("spec").child("drivers")));
            }
        }
        errors
    },
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

pub static CAPACITY: Rules = Rules {
    validate: |capacity| validate_capacity(capacity, false),
    validate_update: |new, old| {
        let topology = old.at("/nodeTopology");
        let lenient = !label_selector(topology, false, &Path::default()).is_empty();
        let mut errors = validate_capacity(new, lenient);
        let after = new.at("/nodeTopology");
        if !equal(after, topology) {
            let shown = selector::shown(after);
            errors.push(FieldError::invalid(&Path::new("nodeTopology"), shown, IMMUTABLE));
        }
        let (after, before) = (new.text("/storageClassName"), old.text("/storageClassName"));
        if after != before {
            errors.push(FieldError::invalid(&Path::new("storageClassName"), after, IMMUTABLE));
        }
        errors
    },
    warnings: |capacity, _| {
        let mut warnings = Vec::new();
        let path = Path::new("nodeTopology");
        for (i, expression) in capacity.items("/nodeTopology/matchExpressions").iter().enumerate() {
            if let Some(why) = deprecated_node_label(expression.text("/key")) {
                let place = path.child("matchExpressions").index(i).child("key");
                warnings.push(format!("{place}: {why}"));
            }
        }
        let labels = capacity.entries("/nodeTopology/matchLabels").into_iter().flatten();
        for (key, why) in labels.filter_map(|(key, _)| Some((key, deprecated_node_label(key)?))) {
            warnings.push(format!("{}: {why}", path.child("matchLabels").child(key)));
        }
        warnings
    },
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

pub static ATTACHMENT: Rules = Rules {
    validate: validate_attachment,
    validate_update: changed_attachment,
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    prepare_status: keep_metadata,
    validate_status: changed_attachment,
};

fn at<'a>(object: &'a Value, key: &str) -> &'a Value {
    object.get(key).unwrap_or(&Value::Null)
}

fn provisioner(text: &str, path: &Path) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let lower = text.to_lowercase();
    let found = name::qualified_name(&lower);
    invalid(path, &lower, found)
}

fn parameters(map: &Value, path: &Path) -> FieldErrors {
    let entries: Vec<(&String, &Value)> = map.as_object().into_iter().flatten().collect();
    if entries.len() > PARAMETERS_MAX {
        return vec![FieldError::too_long(path, PARAMETERS_MAX)];
    }
    let mut errors = Vec::new();
    if entries.iter().any(|(key, _)| key.is_empty()) {
        errors.push(FieldError::invalid(path, "", "field can not be empty."));
    }
    let size: usize = entries
        .iter()
        .map(|(k, v)| k.len() + v.as_str().map_or(0, str::len))
        .sum();
    if size > PARAMETERS_BYTES {
        errors.push(FieldError::too_long(path, PARAMETERS_BYTES));
    }
    errors
}

fn validate_class(class: &Value) -> FieldErrors {
    let mut errors = provisioner(class.text("/provisioner"), &Path::new("provisioner"));
    errors.extend(parameters(at(class, "parameters"), &Path::new("parameters")));
    let policy = class.text("/reclaimPolicy");
    if !policy.is_empty() && !RECLAIM.contains(&policy) {
        errors.push(FieldError::not_supported(&Path::new("reclaimPolicy"), policy, RECLAIM));
    }
    let path = Path::new("volumeBindingMode");
    match class.at("/volumeBindingMode").as_str() {
        None => errors.push(FieldError::required(&path, "")),
        Some(mode) if !BINDING.contains(&mode) => errors.push(FieldError::not_supported(&path, mode, BINDING)),
        Some(_) => {}
    }
    let mut seen: Vec<BTreeMap<String, BTreeSet<String>>> = Vec::new();
    // Upstream compares with as many empty terms as there are terms, too.
    let terms = class.items("/allowedTopologies");
    for (i, term) in terms.iter().enumerate() {
        let path = Path::new("allowedTopologies").index(i);
        let (map, found) = topology_term(term, &path);
        errors.extend(found);
        let empty = if map.is_empty() { terms.len() } else { 0 };
        let repeats = seen.iter().filter(|s| **s == map).count() + empty;
        let place = path.child("matchLabelExpressions");
        errors.extend((0..repeats).map(|_| FieldError::duplicate(&place, "")));
        seen.push(map);
    }
    errors
}

fn topology_term(term: &Value, path: &Path) -> (BTreeMap<String, BTreeSet<String>>, FieldErrors) {
    let mut errors = Vec::new();
    let mut map = BTreeMap::new();
    for (i, expression) in term.items("/matchLabelExpressions").iter().enumerate() {
        let path = path.child("matchLabelExpressions").index(i);
        let place = path.child("values");
        let mut values = BTreeSet::new();
        if expression.items("/values").is_empty() {
            errors.push(FieldError::required(&place, ""));
        }
        for (i, value) in strings(expression.items("/values")).enumerate() {
            if !values.insert(value.to_string()) {
                errors.push(FieldError::duplicate(&place.index(i), value));
            }
        }
        let key = expression.text("/key");
        errors.extend(invalid(&path.child("key"), key, name::qualified_name(key)));
        if map.insert(key.to_string(), values).is_some() {
            errors.push(FieldError::duplicate(&path.child("key"), key));
        }
    }
    (map, errors)
}

fn validate_attributes(class: &Value) -> FieldErrors {
    let mut errors = provisioner(class.text("/driverName"), &Path::new("driverName"));
    let path = Path::new("parameters");
    let map = at(class, "parameters");
    errors.extend(parameters(map, &path));
    if map.as_object().is_none_or(serde_json::Map::is_empty) {
        errors.push(FieldError::required(&path, "must contain at least one key/value pair"));
    }
    errors
}

fn validate_driver(driver: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let spec = driver.at("/spec");
    let mut errors = Vec::new();
    if let Some(other) = spec.at("/fsGroupPolicy").as_str().filter(|p| !FS_GROUP.contains(p)) {
        errors.push(FieldError::not_supported(&path.child("fsGroupPolicy"), other, FS_GROUP));
    }
    let mut audiences = BTreeSet::new();
    for (i, request) in spec.items("/tokenRequests").iter().enumerate() {
        let path = path.child("tokenRequests").index(i);
        let audience = request.text("/audience");
        if !audiences.insert(audience) {
            errors.push(FieldError::duplicate(&path.child("audience"), audience));
            continue;
        }
        let place = path.child("expirationSeconds");
        match request.at("/expirationSeconds").as_i64() {
            Some(seconds) if seconds < TOKEN_MIN => {
                let why = "may not specify a duration less than 10 minutes";
                errors.push(FieldError::invalid(&place, seconds, why));
            }
            Some(seconds) if seconds > TOKEN_MAX => {
                let why = "may not specify a duration larger than 2^32 seconds";
                errors.push(FieldError::invalid(&place, seconds, why));
            }
            _ => {}
        }
    }
    let known = ["Persistent", "Ephemeral"];
    for mode in strings(spec.items("/volumeLifecycleModes")).filter(|m| !known.contains(m)) {
        errors.push(FieldError::not_supported(
            &path.child("volumeLifecycleModes"),
            mode,
            &known,
        ));
    }
    if let Some(period) = spec
        .at("/nodeAllocatableUpdatePeriodSeconds")
        .as_i64()
        .filter(|p| *p < PERIOD_MIN)
    {
        let place = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.push(FieldError::invalid(
            &place,
            period,
            "must be greater than or equal to 10 seconds",
        ));
    }
    let in_secrets = spec.at("/serviceAccountTokenInSecrets");
    if !in_secrets.is_null() && spec.items("/tokenRequests").is_empty() {
        let place = path.child("serviceAccountTokenInSecrets");
        let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.push(FieldError::invalid(&place, in_secrets, why));
    }
    errors
}

fn validate_node(node: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    for (i, driver) in node.items("/spec/drivers").iter().enumerate() {
        let path = Path::new("spec").child("drivers").index(i);
        let own = driver.text("/name");
        errors.extend(csi_driver(own, &path.child("name")));
        let (id, place) = (driver.text("/nodeID"), path.child("nodeID"));
        if id.is_empty() {
            errors.push(FieldError::required(&place, ""));
        }
        if id.len() > NODE_ID_MAX {
            let why = format!("must be {NODE_ID_MAX} characters or less");
            errors.push(FieldError::invalid(&place, id, why));
        }
        if let Some(count) = driver.at("/allocatable/count").as_i64() {
            let place = path.child("allocatable").child("count");
            errors.extend(crate::view::non_negative(&place, count));
        }
        if !names.insert(own) {
            errors.push(FieldError::duplicate(&path.child("name"), own));
        }
        let mut keys = BTreeSet::new();
        for key in strings(driver.items("/topologyKeys")) {
            if key.is_empty() {
                errors.push(FieldError::required(&path, ""));
            }
            if !keys.insert(key) {
                errors.push(FieldError::duplicate(&path, key));
            }
            errors.extend(invalid(&path, key, name::qualified_name(key)));
        }
    }
    errors
}

fn validate_capacity(capacity: &Value, lenient: bool) -> FieldErrors {
    let mut errors = label_selector(capacity.at("/nodeTopology"), lenient, &Path::new("nodeTopology"));
    let class = capacity.text("/storageClassName");
    errors.extend(invalid(
        &Path::new("storageClassName"),
        class,
        name::dns1123_subdomain(class),
    ));
    if let Some(size) = capacity.at("/capacity").as_str() {
        errors.extend(resources::non_negative(
            &resources::quantity(size),
            &Path::new("capacity"),
        ));
    }
    errors
}

fn validate_attachment(attachment: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let spec = attachment.at("/spec");
    let mut errors = csi_driver(spec.text("/attacher"), &path.child("attacher"));
    let place = path.child("source");
    let (inline, named) = (
        spec.at("/source/inlineVolumeSpec"),
        spec.at("/source/persistentVolumeName"),
    );
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.is_null(), named.as_str()) {
        (true, None) => errors.push(FieldError::required(&place, one)),
        (false, Some(_)) => errors.push(FieldError::forbidden(&place, one)),
        (true, Some("")) => {
            let why = "must specify non empty persistentVolumeName";
            errors.push(FieldError::required(&place.child("persistentVolumeName"), why));
        }
        (true, Some(_)) => {}
        (false, None) => errors.extend(volume::inline(inline, &place.child("inlineVolumeSpec"))),
    }
    let node = spec.text("/nodeName");
    errors.extend(invalid(&path.child("nodeName"), node, name::dns1123_subdomain(node)));
    errors.extend(attachment_status(attachment.at("/status")));
    if let Some(named) = named.as_str() {
        let place = Path::new("spec.source.persistentVolumeName");
        errors.extend(invalid(&place, named, name::dns1123_subdomain(named)));
    }
    errors
}

fn attachment_status(status: &Value) -> FieldErrors {
    let path = Path::new("status");
    let mut errors = Vec::new();
    let metadata = status.entries("/attachmentMetadata").into_iter().flatten();
    let size: usize = metadata.map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if size > PARAMETERS_BYTES {
        errors.push(FieldError::too_long(
            &path.child("attachmentMetadata"),
            PARAMETERS_BYTES,
        ));
    }
    for key in ["attachError", "detachError"] {
        let (error, path) = (at(status, key), path.child(key));
        if error.text("/message").len() > MESSAGE_MAX {
            // Upstream names the limit of the metadata.
            errors.push(FieldError::too_long(&path.child("message"), PARAMETERS_BYTES));
        }
        let code = error.int("/errorCode");
        if code < 0 {
            let why = name::inclusive_range(0, i64::from(i32::MAX));
            errors.push(FieldError::invalid(&path.child("errorCode"), code, why));
        }
    }
    errors
}

fn changed_attachment(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = validate_attachment(new);
    let (after, before) = (new.at("/spec"), old.at("/spec"));
    let shown = BadValue::Raw(internal::compact("VolumeAttachmentSpec", after));
    if !equal_as("storage.v1.VolumeAttachmentSpec", after, before) {
        errors.push(FieldError::invalid(&Path::new("spec"), shown, IMMUTABLE));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_class_names_who_provisions() {
        let class = json!({"provisioner": "", "reclaimPolicy": "Recycle", "volumeBindingMode": "x"});
        assert_eq!(
            texts(&validate_class(&class)),
            [
                "provisioner: Required value",
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                "volumeBindingMode: Unsupported value: \"x\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ]
        );
    }

    #[test]
    fn an_attachment_has_one_source_and_keeps_it() {
        let old = json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
        assert!(changed_attachment(&old, &old).is_empty());
        let mut new = old.clone();
        new["spec"]["source"] = json!({});
        assert_eq!(
            texts(&changed_attachment(&new, &old)),
            [
                "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                "spec: Invalid value: {\"Attacher\":\"a\",\"Source\":{\"PersistentVolumeName\":null,\"InlineVolumeSpec\":null},\"NodeName\":\"n\"}: field is immutable",
            ]
        );
    }
}
