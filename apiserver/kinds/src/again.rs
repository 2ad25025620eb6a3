//! How often upstream looks at metadata on update: once for every kind, and again in the kind's own checks. A message says
//! a fault once, but the list of causes beside it holds each finding.

use crate::{Kind, meta};
use serde_json::Value;
use steersman_schema::field::FieldErrors;

/// What a kind's own check of an update looks at once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Again {
    /// What changes.
    change: bool,
    /// The new object as if it were created, so many times.
    creation: usize,
}

const NOT: Again = Again {
    change: false,
    creation: 0,
};
const CHANGE: Again = Again {
    change: true,
    creation: 0,
};
const BOTH: Again = Again {
    change: true,
    creation: 1,
};
const CREATION: Again = Again {
    change: false,
    creation: 1,
};

/// `subresource` is empty for the object itself.
fn rule(kind: &Kind, subresource: &str) -> Again {
    match (kind.group, kind.plural, subresource) {
        ("", "events", _) | ("policy", _, _) => NOT,
        ("batch", "cronjobs", "status") | ("storage.k8s.io", "volumeattachments", "status") => NOT,
        ("admissionregistration.k8s.io", _, "status") => NOT,
        ("certificates.k8s.io", _, _) => BOTH,
        (_, _, "status") => CHANGE,
        ("", "persistentvolumes", _) => Again {
            change: false,
            creation: 2,
        },
        ("", "limitranges", _)
        | ("discovery.k8s.io", _, _)
        | ("storage.k8s.io", "csinodes" | "volumeattachments", _)
        | ("flowcontrol.apiserver.k8s.io" | "admissionregistration.k8s.io", _, _) => CREATION,
        (
            "",
            "configmaps"
            | "endpoints"
            | "namespaces"
            | "nodes"
            | "persistentvolumeclaims"
            | "pods"
            | "secrets"
            | "serviceaccounts",
            _,
        )
        | ("apps", "controllerrevisions", _)
        | ("batch", "jobs", _)
        | ("networking.k8s.io", "ingressclasses" | "ingresses" | "ipaddresses", _)
        | ("resource.k8s.io", "deviceclasses" | "resourceclaims", _)
        | ("storage.k8s.io", "storageclasses" | "volumeattributesclasses", _)
        | ("rbac.authorization.k8s.io" | "node.k8s.io" | "apiregistration.k8s.io", _, _) => BOTH,
        _ => CHANGE,
    }
}

/// Every fault of changed metadata, as often as upstream finds it; call after [`meta::prepare_update`].
pub fn validate_update(kind: &Kind, new: &Value, old: &Value, namespaced: bool, subresource: &str) -> FieldErrors {
    let rule = rule(kind, subresource);
    let mut errors = meta::validate_update(new, old, namespaced);
    let mut change = Vec::new();
    if rule.change {
        change.extend(meta::validate_change(new, old));
        change.extend(meta::strange_finalizers(new));
    }
    if !creation_first(kind) {
        errors.append(&mut change);
    }
    for _ in 0..rule.creation {
        errors.extend(meta::validate_create(new, namespaced, kind.validate_name));
    }
    errors.extend(change);
    errors
}

/// Whether the new object is looked at by itself before it is compared with the old one.
fn creation_first(kind: &Kind) -> bool {
    matches!(kind.group, "rbac.authorization.k8s.io" | "node.k8s.io")
        || matches!(
            kind.plural,
            "namespaces" | "nodes" | "jobs" | "ipaddresses" | "storageclasses" | "resourceclaims" | "deviceclasses"
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(kind: &Kind, subresource: &str) -> (usize, usize) {
        let old = json!({"apiVersion": kind.version, "kind": kind.kind, "metadata": {"name": "a", "namespace": "n", "resourceVersion": "1"}});
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"Bad!": "x"});
        new["metadata"]["finalizers"] = json!(["a b"]);
        let errors = validate_update(kind, &new, &old, true, subresource);
        let count = |field: &str| errors.iter().filter(|e| e.field.starts_with(field)).count();
        (count("metadata.labels"), count("metadata.finalizers"))
    }

    #[test]
    fn faults_are_found_as_often_as_upstream_finds_them() {
        assert_eq!(found(&crate::configmap::KIND, ""), (4, 4));
        assert_eq!(found(&crate::deployment::KIND, ""), (3, 2));
        assert_eq!(found(&crate::deployment::KIND, "status"), (3, 2));
        assert_eq!(found(&crate::endpointslice::KIND, ""), (3, 3));
    }
}
