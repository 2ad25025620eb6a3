//! The status of a pod: written by its kubelet, and by the scheduler before there is one.

use super::update;
use super::{claims, node_name, volumes};
use crate::Context;
use crate::internal;
use crate::view::{View, each_mut, invalid, put_back, remove, set};
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const NOT_BACK: &str = "may not be transitioned to non-terminated state";

/// Puts back the spec and the owners; keeps observed generations that an older client leaves out.
pub fn prepare(new: &mut Value, old: &Value, _: &Context) {
    put_back(new, old, "spec");
    if let Some(metadata) = new.get_mut("metadata") {
        put_back(metadata, old.at("/metadata"), "ownerReferences");
        put_back(metadata, old.at("/metadata"), "deletionTimestamp");
    }
    let before = old.at("/status");
    let Some(status) = crate::view::child(new, "status") else {
        return;
    };
    if !before.has("/nodeAllocatableResourceClaimStatuses") {
        // Waits for a gate that is off.
        remove(status, "nodeAllocatableResourceClaimStatuses");
    }
    drop_volume_status(status, before);
    for key in ["qosClass", "observedGeneration"] {
        if crate::view::same(status.get(key).unwrap_or(&Value::Null), &Value::Null) {
            put_back(status, before, key);
        }
    }
    let mut seen: Vec<(String, i64)> = before
        .items("/conditions")
        .iter()
        .map(|c| (c.text("/type").to_string(), c.int("/observedGeneration")))
        .collect();
    for condition in each_mut(status, "/conditions") {
        let kind = condition.text("/type").to_string();
        let was = seen
            .iter()
            .position(|(k, _)| *k == kind)
            .map(|i| seen.remove(i).1)
            .unwrap_or_default();
        if condition.int("/observedGeneration") == 0 && was != 0 {
            set(condition, "observedGeneration", was);
        }
    }
    if let Some(list) = status.get("hostIPs")
        && list.as_array().is_some_and(Vec::is_empty)
    {
        remove(status, "hostIPs");
    }
}

/// Takes away what a kubelet says of image volumes, behind a gate that is off, unless it is there already.
fn drop_volume_status(status: &mut Value, before: &Value) {
    let lists = [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ];
    let mounts = |list: &&str| {
        before
            .items(&format!("/{list}"))
            .iter()
            .flat_map(|s| s.items("/volumeMounts"))
    };
    if lists.iter().flat_map(mounts).any(|mount| mount.has("/volumeStatus")) {
        return;
    }
    for list in lists {
        for container in each_mut(status, &format!("/{list}")) {
            each_mut(container, "/volumeMounts").for_each(|mount| remove(mount, "volumeStatus"));
        }
    }
}

/// Faults of a new status.
pub fn validate(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = update::annotations(new, old);
    let path = Path::new("status");
    let (status, before) = (new.at("/status"), old.at("/status"));
    for (i, condition) in status.items("/conditions").iter().enumerate() {
        let at = path.child("conditions").index(i);
        let number = condition.int("/observedGeneration");
        if number < 0 {
            let why = "must be a non-negative integer";
            errors.push(FieldError::invalid(&at.child("observedGeneration"), number, why));
        }
        let kind = condition.text("/type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            // Upstream spells this path with a capital.
            errors.extend(invalid(&at.child("Type"), kind, name::qualified_name(kind)));
        }
    }
    let (nominated, was) = (status.text("/nominatedNodeName"), before.text("/nominatedNodeName"));
    let place = path.child("nominatedNodeName");
    if nominated != was && !nominated.is_empty() {
        errors.extend(node_name(nominated, &place));
        if !old.text("/spec/nodeName").is_empty() {
            let why = "may not be set on pods that are already bound to a node";
            errors.push(FieldError::forbidden(&place, why));
        }
    }
    let number = status.int("/observedGeneration");
    if number < 0 {
        let why = "must be a non-negative integer";
        errors.push(FieldError::invalid(&path.child("observedGeneration"), number, why));
    }
    let class = status.text("/qosClass");
    if class != before.text("/qosClass") {
        errors.push(FieldError::invalid(
            &path.child("qosClass"),
            class,
            "field is immutable",
        ));
    }
    let spec = old.at("/spec");
    for (key, list) in [
        ("containerStatuses", "/containers"),
        ("initContainerStatuses", "/initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        errors.extend(transitions(status, before, key, spec, list, &path.child(key)));
    }
    errors.extend(claim_statuses(
        status,
        new.at("/spec"),
        &path.child("resourceClaimStatuses"),
    ));
    errors.extend(claims::extended(status, new.at("/spec"), &path));
    errors.extend(addresses(status, before, "podIPs", &path.child("podIPs")));
    let hosts = status.items("/hostIPs");
    if let Some(first) = hosts.first()
        && first.text("/ip") != status.text("/hostIP")
    {
        let place = path.child("hostIPs").index(0).child("ip");
        errors.push(FieldError::invalid(
            &place,
            first.text("/ip"),
            "must be equal to `hostIP`",
        ));
    }
    errors.extend(addresses(status, before, "hostIPs", &path.child("hostIPs")));
    errors.extend(users(status, new.text("/spec/os/name"), &path));
    errors.extend(claims::health(status, new.at("/spec"), &path));
    errors
}

/// A container that has ended stays ended, unless its policies restart it.
fn transitions(status: &Value, before: &Value, key: &str, spec: &Value, list: &str, path: &Path) -> FieldErrors {
    let rules = |c: &Value| {
        c.items("/restartPolicyRules")
            .iter()
            .any(|r| r.text("/action") == "RestartAllContainers")
    };
    let everything = ["/containers", "/initContainers"]
        .iter()
        .any(|l| spec.items(l).iter().any(rules));
    if everything && !list.is_empty() {
        return Vec::new();
    }
    let pointer = format!("/{key}");
    let mut errors = Vec::new();
    for (i, was) in before.items(&pointer).iter().enumerate() {
        let Some(code) = was
            .at("/state/terminated")
            .as_object()
            .map(|_| was.int("/state/terminated/exitCode"))
        else {
            continue;
        };
        let own = was.text("/name");
        let back = status.items(&pointer).iter().find(|s| s.text("/name") == own);
        if back.is_none_or(|s| s.has("/state/terminated")) {
            continue;
        }
        let container = spec
            .items(list)
            .iter()
            .find(|c| !list.is_empty() && c.text("/name") == own);
        if !container.is_some_and(|c| restarts(c, spec, code)) {
            errors.push(FieldError::forbidden(&path.index(i).child("state"), NOT_BACK));
        }
    }
    errors
}

/// Whether the container is started again after it ended with `code`.
fn restarts(container: &Value, spec: &Value, code: i64) -> bool {
    let policy = |text: &str| match text {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    };
    let own = container.text("/restartPolicy");
    if own.is_empty() {
        return policy(spec.text("/restartPolicy"));
    }
    let matches = |rule: &Value| {
        let listed = rule.items("/exitCodes/values").iter().any(|v| v.as_i64() == Some(code));
        match rule.text("/exitCodes/operator") {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    };
    container.items("/restartPolicyRules").iter().any(matches) || policy(own)
}

fn claim_statuses(status: &Value, spec: &Value, path: &Path) -> FieldErrors {
    let known = volumes::claim_names(spec);
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, claim) in status.items("/resourceClaimStatuses").iter().enumerate() {
        let at = path.index(i);
        let own = claim.text("/name");
        if !known.contains(own) {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(&at.child("name"), own, why));
        }
        if !seen.insert(own) {
            errors.push(FieldError::duplicate(&at.child("name"), own));
        }
        if let Some(made) = claim.at("/resourceClaimName").as_str() {
            let place = at.child("resourceClaimName");
            // A pointer in Go: printed as JSON.
            let faults = name::dns1123_subdomain(made).into_iter();
            errors.extend(faults.map(|m| FieldError::invalid(&place, BadValue::typed(made), m)));
        }
    }
    errors
}

fn addresses(status: &Value, before: &Value, key: &str, path: &Path) -> FieldErrors {
    let pointer = format!("/{key}");
    let old: Vec<String> = before
        .items(&pointer)
        .iter()
        .map(|ip| ip.text("/ip").to_string())
        .collect();
    let list: Vec<&str> = status.items(&pointer).iter().map(|ip| ip.text("/ip")).collect();
    let mut errors = Vec::new();
    for (i, ip) in list.iter().enumerate() {
        errors.extend(name::ip_legacy(&path.index(i), ip, &old));
    }
    let bad = list
        .iter()
        .enumerate()
        .find(|(_, ip)| name::parse_ip_sloppy(ip).is_none());
    if let Some((i, ip)) = bad.filter(|_| list.len() > 1) {
        let why = format!("failed to check for dual stack with error:invalid IP[{i}]: {ip}");
        errors.push(FieldError::internal(path, why));
    }
    let v6 = list.iter().filter(|ip| ip.contains(':')).count();
    if list.len() > 1 && (bad.is_some() || v6 == 0 || v6 == list.len() || list.len() > 2) {
        let why = "may specify no more than one IP for each IP family";
        let shown = BadValue::Raw(internal::compact("PodIP", status.at(&pointer)));
        errors.push(FieldError::invalid(path, shown, why));
    }
    errors
}

fn users(status: &Value, os: &str, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for key in [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ] {
        for (i, container) in status.items(&format!("/{key}")).iter().enumerate() {
            let user = container.at("/user/linux");
            let at = path.child(key).index(i).child("user").child("linux");
            if user.is_null() {
                continue;
            }
            if os == "windows" {
                errors.push(FieldError::forbidden(&at, "cannot be set for a windows pod"));
                continue;
            }
            let mut id = |number: i64, at: Path| {
                errors.extend(
                    name::unix_id(number)
                        .into_iter()
                        .map(|m| FieldError::invalid(&at, number, m)),
                );
            };
            id(user.int("/uid"), at.child("uid"));
            id(user.int("/gid"), at.child("gid"));
            for (j, group) in user.items("/supplementalGroups").iter().enumerate() {
                id(
                    group.as_i64().unwrap_or_default(),
                    at.child("supplementalGroups").index(j),
                );
            }
        }
    }
    errors
}
