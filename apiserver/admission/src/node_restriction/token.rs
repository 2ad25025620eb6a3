//! Tokens that a node asks for: only bound to a pod that runs on it, and for an audience that the pod asks for.

use std::collections::BTreeSet;

use serde_json::Value;
use steersman_auth::Attributes;
use steersman_auth::lister::{items, strings, text};

use super::{NodeRestriction, Verdict, refuse};
use crate::Request;

pub(super) async fn request(plugin: &NodeRestriction, node: &str, request: &Request) -> Verdict {
    let Some(object) = &request.object else { return Ok(()) };
    let reference = object.pointer("/spec/boundObjectRef").unwrap_or(&Value::Null);
    let (name, uid) = (text(reference, "/name"), text(reference, "/uid"));
    if text(reference, "/apiVersion") != "v1" || text(reference, "/kind") != "Pod" || name.is_empty() {
        return refuse(request, "node requested token not bound to a pod");
    }
    if uid.is_empty() {
        return refuse(request, "node requested token with a pod binding without a uid");
    }
    let pod = plugin.find("pods", Some(&request.namespace), name).await?;
    if text(&pod, "/metadata/uid") != uid {
        return refuse(
            request,
            format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            ),
        );
    }
    if text(&pod, "/spec/nodeName") != node {
        return refuse(
            request,
            "node requested token bound to a pod scheduled on a different node",
        );
    }
    audience(plugin, request, object, &pod)
}

fn audience(plugin: &NodeRestriction, request: &Request, object: &Value, pod: &Value) -> Verdict {
    let audiences = strings(object, "/spec/audiences");
    let wanted = match audiences.as_slice() {
        [] => "",
        [one] => one,
        _ => return refuse(request, "node may only request 0 or 1 audiences"),
    };
    if asked_for(plugin, pod).contains(wanted) {
        return Ok(());
    }
    // Not in the pod: then the node itself must have been allowed this audience (image credential providers need that).
    let what = Attributes {
        user: request.user.clone(),
        verb: "request-serviceaccounts-token-audience".into(),
        resource_request: true,
        version: "v1".into(),
        resource: wanted.into(),
        namespace: request.namespace.clone(),
        name: request.name.clone(),
        ..Attributes::default()
    };
    let outcome = plugin.authorizer.authorize(&what);
    if outcome.allowed() {
        return Ok(());
    }
    let user = &request.user.name;
    let missing = format!("audience {wanted:?} not found in pod spec volume");
    match outcome.error {
        Some(error) => refuse(
            request,
            format!("{missing}, error authorizing {user} to request tokens for this audience: {error}"),
        ),
        None => refuse(
            request,
            format!("{missing}, {user} is not authorized to request tokens for this audience"),
        ),
    }
}

/// The audiences of a pod's token volumes, and of the CSI drivers behind its other volumes; `""` is the API server's.
fn asked_for(plugin: &NodeRestriction, pod: &Value) -> BTreeSet<String> {
    let namespace = text(pod, "/metadata/namespace");
    let behind_claim = |claim: &str| {
        let claim = plugin
            .cluster
            .get("", "persistentvolumeclaims", Some(namespace), claim)?;
        let volume = plugin
            .cluster
            .get("", "persistentvolumes", None, text(&claim, "/spec/volumeName"))?;
        Some(text(&volume, "/spec/csi/driver").to_owned())
    };
    let mut found = BTreeSet::new();
    for volume in items(pod, "/spec/volumes") {
        for source in items(volume, "/projected/sources") {
            if source.get("serviceAccountToken").is_some_and(Value::is_object) {
                found.insert(text(source, "/serviceAccountToken/audience").to_owned());
            }
        }
        let claim = text(volume, "/persistentVolumeClaim/claimName");
        let driver = if !claim.is_empty() {
            behind_claim(claim)
        } else if volume.get("ephemeral").is_some_and(Value::is_object) {
            behind_claim(&format!("{}-{}", text(pod, "/metadata/name"), text(volume, "/name")))
        } else {
            Some(text(volume, "/csi/driver").to_owned())
        };
        let Some(driver) = driver.filter(|d| !d.is_empty()) else {
            continue;
        };
        if let Some(driver) = plugin.cluster.get("storage.k8s.io", "csidrivers", None, &driver) {
            found.extend(
                items(&driver, "/spec/tokenRequests")
                    .iter()
                    .map(|t| text(t, "/audience").to_owned()),
            );
        }
    }
    found
}
