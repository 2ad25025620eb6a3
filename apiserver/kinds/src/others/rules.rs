//! Validation of kinds without a file of their own: one [`Rules`] literal per kind, looked up by `group/plural`.

use crate::view::{View, put_back};
use crate::{Context, selector};
use serde::Deserialize;
use serde_json::Value;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_types::LabelSelector;

use super::{
    addresses, apiservice, devices, flow, ingress, networkpolicy, policy, runtimeclass, slices, storage, volume,
    webhook,
};

pub(super) const IMMUTABLE: &str = "field is immutable";

/// What a kind checks beyond object metadata. See [`crate::Kind`] for what each function is given.
pub struct Rules {
    pub validate: fn(&Value) -> FieldErrors,
    pub validate_update: fn(&Value, &Value) -> FieldErrors,
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    pub validate_name: fn(&str, bool) -> Vec<String>,
    /// What a status write may not touch besides the spec, put back.
    pub prepare_status: fn(&mut Value, &Value, &Context),
    pub validate_status: fn(&Value, &Value) -> FieldErrors,
}

/// The rules of a resource, if it has any.
pub fn rules(id: &str) -> Option<&'static Rules> {
    Some(match id {
        "/persistentvolumes" => &volume::RULES,
        "admissionregistration.k8s.io/mutatingadmissionpolicies" => &policy::MUTATING,
        "admissionregistration.k8s.io/mutatingadmissionpolicybindings" => &policy::MUTATING_BINDING,
        "admissionregistration.k8s.io/mutatingwebhookconfigurations" => &webhook::MUTATING,
        "admissionregistration.k8s.io/validatingadmissionpolicies" => &policy::VALIDATING,
        "admissionregistration.k8s.io/validatingadmissionpolicybindings" => &policy::VALIDATING_BINDING,
        "admissionregistration.k8s.io/validatingwebhookconfigurations" => &webhook::VALIDATING,
        "apiregistration.k8s.io/apiservices" => &apiservice::RULES,
        "flowcontrol.apiserver.k8s.io/flowschemas" => &flow::SCHEMA,
        "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations" => &flow::LEVEL,
        "networking.k8s.io/ingressclasses" => &ingress::CLASS,
        "networking.k8s.io/ingresses" => &ingress::INGRESS,
        "networking.k8s.io/ipaddresses" => &addresses::ADDRESS,
        "networking.k8s.io/networkpolicies" => &networkpolicy::RULES,
        "networking.k8s.io/servicecidrs" => &addresses::SERVICE_CIDR,
        "node.k8s.io/runtimeclasses" => &runtimeclass::RULES,
        "resource.k8s.io/deviceclasses" => &devices::CLASS,
        "resource.k8s.io/resourceclaims" => &devices::CLAIM,
        "resource.k8s.io/resourceclaimtemplates" => &devices::TEMPLATE,
        "resource.k8s.io/resourceslices" => &slices::RULES,
        "storage.k8s.io/csidrivers" => &storage::DRIVER,
        "storage.k8s.io/csinodes" => &storage::NODE,
        "storage.k8s.io/csistoragecapacities" => &storage::CAPACITY,
        "storage.k8s.io/storageclasses" => &storage::CLASS,
        "storage.k8s.io/volumeattachments" => &storage::ATTACHMENT,
        "storage.k8s.io/volumeattributesclasses" => &storage::ATTRIBUTES_CLASS,
        _ => return None,
    })
}

/// A status write of a kind whose metadata it may not change.
pub(super) fn keep_metadata(new: &mut Value, old: &Value, _: &Context) {
    let before = old.at("/metadata");
    if let Some(metadata) = new.get_mut("metadata") {
        for key in [
            "labels",
            "annotations",
            "finalizers",
            "ownerReferences",
            "deletionTimestamp",
        ] {
            put_back(metadata, before, key);
        }
    }
}

/// A status write that may change metadata too.
pub(super) fn free_metadata(_: &mut Value, _: &Value, _: &Context) {}

/// Faults of the selector at `value`, none when there is none.
pub(super) fn label_selector(value: &Value, lenient: bool, path: &Path) -> FieldErrors {
    match LabelSelector::deserialize(value) {
        Ok(typed) if !value.is_null() => selector::validate(&typed, lenient, path),
        _ => Vec::new(),
    }
}

/// `Required` at `path` when `text` is empty, otherwise what `check` says.
pub(super) fn required(text: &str, path: &Path, check: impl FnOnce(&str) -> Vec<String>) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    crate::view::invalid(path, text, check(text))
}

/// The fault of a value that changed although it may not; `shown` is the new value as upstream prints it.
pub(super) fn fixed(new: &Value, old: &Value, shown: impl Into<BadValue>, path: &Path) -> Option<FieldError> {
    (!crate::view::equal(new, old)).then(|| FieldError::invalid(path, shown, IMMUTABLE))
}
