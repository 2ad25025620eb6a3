//! A node's pods: it makes and removes mirror pods of its own, reports their status, and evicts those bound to it.

use serde_json::Value;
use steersman_auth::authz::node::references;
use steersman_auth::lister::{items, text};

use super::{NodeRestriction, Verdict, refuse, shown};
use crate::service_account::is_mirror;
use crate::{Operation, Request};

pub(super) async fn own(plugin: &NodeRestriction, node: &str, request: &Request) -> Verdict {
    match request.operation {
        Operation::Create => create(plugin, node, request).await,
        Operation::Delete => {
            let pod = plugin.find("pods", Some(&request.namespace), &request.name).await?;
            if text(&pod, "/spec/nodeName") != node {
                let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
                return refuse(request, why);
            }
            Ok(())
        }
        other => {
            let what = format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                shown(other)
            );
            refuse(request, what)
        }
    }
}

async fn create(plugin: &NodeRestriction, node: &str, request: &Request) -> Verdict {
    let Some(pod) = &request.object else { return Ok(()) };
    if !is_mirror(pod) {
        let why = "pod does not have \"kubernetes.io/config.mirror\" annotation, node";
        return refuse(request, format!("{why} {node:?} can only create mirror pods"));
    }
    if text(pod, "/spec/nodeName") != node {
        return refuse(
            request,
            format!("node {node:?} can only create pods with spec.nodeName set to itself"),
        );
    }
    let only = |what: &str| {
        refuse(
            request,
            format!("node {node:?} can only create pods with {what} set to itself"),
        )
    };
    let owner = match items(pod, "/metadata/ownerReferences") {
        [owner] => owner,
        [] => return only("an owner reference"),
        _ => return only("a single owner reference"),
    };
    let flag = |name: &str| owner.get(name).and_then(Value::as_bool) == Some(true);
    if text(owner, "/apiVersion") != "v1" || text(owner, "/kind") != "Node" || text(owner, "/name") != node {
        return only("an owner reference");
    }
    if !flag("controller") {
        return only("a controller owner reference");
    }
    if flag("blockOwnerDeletion") {
        let why = format!("node {node:?} must not set blockOwnerDeletion on an owner reference");
        return refuse(request, why);
    }
    let object = plugin.find("nodes", None, node).await?;
    let (given, found) = (text(owner, "/uid"), text(&object, "/metadata/uid"));
    if given != found {
        return refuse(
            request,
            format!("node {node} UID mismatch: expected {given} got {found}"),
        );
    }
    match api_reference(pod) {
        Err(why) => refuse(request, format!("error checking mirror pod for API references: {why}")),
        Ok(Some(what)) => refuse(
            request,
            format!("node {node:?} can not create pods that reference {what}"),
        ),
        Ok(None) => Ok(()),
    }
}

/// What of the API a pod refers to, in upstream's words; the error names a volume of a kind that nobody knows.
fn api_reference(pod: &Value) -> Result<Option<&'static str>, String> {
    /// Volume sources that reach for nothing in the API.
    const LOCAL: [&str; 22] = [
        "awsElasticBlockStore",
        "azureDisk",
        "cephfs",
        "cinder",
        "downwardAPI",
        "emptyDir",
        "fc",
        "flexVolume",
        "flocker",
        "gcePersistentDisk",
        "gitRepo",
        "hostPath",
        "image",
        "iscsi",
        "nfs",
        "photonPersistentDisk",
        "portworxVolume",
        "quobyte",
        "rbd",
        "scaleIO",
        "storageos",
        "vsphereVolume",
    ];
    const REACHING: [(&str, &str); 7] = [
        ("configMap", "configmaps (via configmap volumes)"),
        ("secret", "secrets (via secret volumes)"),
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
        ("azureFile", "secrets (via azureFile volumes)"),
    ];
    const PROJECTED: [(&str, &str); 5] = [
        ("configMap", "configmaps (via projected volumes)"),
        ("secret", "secrets (via projected volumes)"),
        ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let is = |value: &Value, name: &str| value.get(name).is_some_and(|v| !v.is_null());
    if !text(spec, "/serviceAccountName").is_empty() || !text(spec, "/serviceAccount").is_empty() {
        return Ok(Some("serviceaccounts"));
    }
    if !references::secrets(spec).is_empty() {
        return Ok(Some("secrets"));
    }
    if !references::config_maps(spec).is_empty() {
        return Ok(Some("configmaps"));
    }
    if !items(spec, "/resourceClaims").is_empty() {
        return Ok(Some("resourceclaims"));
    }
    for volume in items(spec, "/volumes") {
        if LOCAL.iter().any(|name| is(volume, name)) {
            continue;
        }
        if let Some((_, what)) = REACHING.iter().find(|(name, _)| is(volume, name)) {
            return Ok(Some(what));
        }
        let name = text(volume, "/name");
        if !is(volume, "projected") {
            return Err(format!("unknown volume type for volume  {name:?}"));
        }
        for source in items(volume, "/projected/sources") {
            match PROJECTED.iter().find(|(name, _)| is(source, name)) {
                Some((_, what)) => return Ok(Some(what)),
                None if is(source, "downwardAPI") => {}
                None => return Err(format!("unknown source for projected volume {name:?}")),
            }
        }
    }
    Ok(None)
}

pub(super) fn status(node: &str, request: &Request) -> Verdict {
    if request.operation != Operation::Update {
        return refuse(request, format!("unexpected operation {:?}", shown(request.operation)));
    }
    let (Some(new), Some(old)) = (&request.object, request.old.as_deref()) else {
        return Ok(());
    };
    if text(old, "/spec/nodeName") != node {
        let why = format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself");
        return refuse(request, why);
    }
    let set = |value: Option<&Value>| value.filter(|v| v.as_object().is_some_and(|m| !m.is_empty())).cloned();
    if set(new.pointer("/metadata/labels")) != set(old.pointer("/metadata/labels")) {
        return refuse(
            request,
            format!("node {node:?} cannot update labels through pod status"),
        );
    }
    if items(new, "/status/resourceClaimStatuses") != items(old, "/status/resourceClaimStatuses") {
        return refuse(request, format!("node {node:?} cannot update resource claim statues"));
    }
    let extended = |pod: &Value| {
        pod.pointer("/status/extendedResourceClaimStatus")
            .filter(|v| !v.is_null())
            .cloned()
    };
    if extended(new) != extended(old) {
        return refuse(
            request,
            format!("node {node:?} cannot update extended resource claim status"),
        );
    }
    Ok(())
}

pub(super) async fn eviction(plugin: &NodeRestriction, node: &str, request: &Request) -> Verdict {
    if request.operation != Operation::Create {
        return refuse(request, format!("unexpected operation {}", shown(request.operation)));
    }
    let in_body = request
        .object
        .as_ref()
        .map(|o| text(o, "/metadata/name"))
        .unwrap_or_default();
    let name = if request.name.is_empty() {
        in_body
    } else {
        &request.name
    };
    if name.is_empty() {
        return refuse(request, "could not determine pod from request data");
    }
    let pod = plugin.find("pods", Some(&request.namespace), name).await?;
    if text(&pod, "/spec/nodeName") != node {
        return refuse(
            request,
            format!("node {node} can only evict pods with spec.nodeName set to itself"),
        );
    }
    Ok(())
}
