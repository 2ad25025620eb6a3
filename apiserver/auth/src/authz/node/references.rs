//! What a pod and a persistent volume refer to: the objects a node may read because it runs the pod.
//!
//! One walk over the pod's spec for everybody who must not miss a reference: the node graph here, NodeRestriction's rules
//! for mirror pods in the admission crate. Containers of all three kinds count.

use serde_json::Value;

use crate::lister::{items, text};

/// The kinds of objects a pod refers to by name, all in its own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    ServiceAccount,
}

/// Every container of a pod spec: init, ordinary, ephemeral.
pub fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["/initContainers", "/containers", "/ephemeralContainers"]
        .into_iter()
        .flat_map(|list| items(spec, list))
}

/// Names of the secrets that a pod spec refers to; some may repeat.
pub fn secrets(spec: &Value) -> Vec<String> {
    let mut names: Vec<&str> = items(spec, "/imagePullSecrets")
        .iter()
        .map(|s| text(s, "/name"))
        .collect();
    for container in containers(spec) {
        names.extend(
            items(container, "/env")
                .iter()
                .map(|e| text(e, "/valueFrom/secretKeyRef/name")),
        );
        names.extend(items(container, "/envFrom").iter().map(|e| text(e, "/secretRef/name")));
    }
    for volume in items(spec, "/volumes") {
        names.push(text(volume, "/secret/secretName"));
        names.push(text(volume, "/azureFile/secretName"));
        names.push(text(volume, "/csi/nodePublishSecretRef/name"));
        for source in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            names.push(text(volume, &format!("/{source}/secretRef/name")));
        }
        names.extend(
            items(volume, "/projected/sources")
                .iter()
                .map(|s| text(s, "/secret/name")),
        );
    }
    names.into_iter().filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

/// Names of the config maps that a pod spec refers to; some may repeat.
pub fn config_maps(spec: &Value) -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    for container in containers(spec) {
        names.extend(
            items(container, "/env")
                .iter()
                .map(|e| text(e, "/valueFrom/configMapKeyRef/name")),
        );
        names.extend(
            items(container, "/envFrom")
                .iter()
                .map(|e| text(e, "/configMapRef/name")),
        );
    }
    for volume in items(spec, "/volumes") {
        names.push(text(volume, "/configMap/name"));
        names.extend(
            items(volume, "/projected/sources")
                .iter()
                .map(|s| text(s, "/configMap/name")),
        );
    }
    names.into_iter().filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

/// Everything that the node running `pod` may read because of it, except the pod itself.
pub(super) fn of_pod(pod: &Value) -> Vec<(Kind, String)> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut out: Vec<(Kind, String)> = Vec::new();
    out.extend(secrets(spec).into_iter().map(|n| (Kind::Secret, n)));
    out.extend(config_maps(spec).into_iter().map(|n| (Kind::ConfigMap, n)));
    out.push((Kind::ServiceAccount, text(spec, "/serviceAccountName").to_owned()));
    for volume in items(spec, "/volumes") {
        out.push((Kind::Claim, text(volume, "/persistentVolumeClaim/claimName").to_owned()));
        if volume.get("ephemeral").is_some_and(Value::is_object) {
            let claim = format!("{}-{}", text(pod, "/metadata/name"), text(volume, "/name"));
            out.push((Kind::Claim, claim));
        }
    }
    let statuses = items(pod, "/status/resourceClaimStatuses");
    for claim in items(spec, "/resourceClaims") {
        let named = text(claim, "/resourceClaimName");
        let made = statuses.iter().find(|s| text(s, "/name") == text(claim, "/name"));
        let made = made.map(|s| text(s, "/resourceClaimName")).unwrap_or_default();
        out.push((
            Kind::ResourceClaim,
            if named.is_empty() { made } else { named }.to_owned(),
        ));
    }
    out.push((
        Kind::ResourceClaim,
        text(pod, "/status/extendedResourceClaimStatus/resourceClaimName").to_owned(),
    ));
    out.retain(|(_, name)| !name.is_empty());
    out.sort();
    out.dedup();
    out
}

/// `(namespace, name)` of the secrets that a node needs to mount a persistent volume. `claim` is the claim's namespace.
pub(super) fn of_volume(volume: &Value, claim: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut add = |namespace: &str, name: &str| {
        if !name.is_empty() {
            let namespace = if namespace.is_empty() { claim } else { namespace };
            out.push((namespace.to_owned(), name.to_owned()));
        }
    };
    add(
        text(volume, "/spec/azureFile/secretNamespace"),
        text(volume, "/spec/azureFile/secretName"),
    );
    for source in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
        let at = |field: &str| text(volume, &format!("/spec/{source}/secretRef/{field}"));
        add(at("namespace"), at("name"));
    }
    for reference in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        let at = |field: &str| text(volume, &format!("/spec/csi/{reference}/{field}"));
        add(at("namespace"), at("name"));
    }
    out
}
