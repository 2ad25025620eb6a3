//! What may change in a pod that exists: next to nothing in its spec, ephemeral containers and resources through
//! subresources of their own.

use super::amounts::quality;
use super::containers::{image_spaces, is_sidecar};
use super::{MIRROR, scheduling};
use crate::Context;
use crate::diff::unified;
use crate::internal::pretty;
use crate::view::{View, equal_as, put_back, remove, same, set};
use serde_json::Value;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, quote};
use steersman_schema::name;

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const MUTABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Faults of a plain update. Runs the rules of new pods over the new one first.
pub fn validate(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = super::checked(new, Some(old), super::metadata_and_spec);
    errors.extend(annotations(new, old));
    let path = Path::new("spec");
    for key in ["containers", "initContainers"] {
        let (a, b) = (new.at("/spec").get(key), old.at("/spec").get(key));
        let (a, b) = (list(a), list(b));
        let place = path.child(key);
        if a.len() != b.len() {
            errors.push(FieldError::forbidden(
                &place,
                "pod updates may not add or remove containers",
            ));
            return errors;
        }
        for (i, container) in a.iter().enumerate() {
            let at = place.index(i);
            if container.text("/image").is_empty() {
                errors.push(FieldError::required(&at.child("image"), ""));
            }
            errors.extend(image_spaces(container, &at));
        }
    }
    let place = path.child("activeDeadlineSeconds");
    let (after, before) = (
        new.at("/spec/activeDeadlineSeconds").as_i64(),
        old.at("/spec/activeDeadlineSeconds").as_i64(),
    );
    let most = i64::from(i32::MAX);
    match (after, before) {
        (Some(seconds), _) if !(0..=most).contains(&seconds) => {
            errors.push(FieldError::invalid(&place, seconds, name::inclusive_range(0, most)));
            return errors;
        }
        (Some(seconds), Some(was)) if was < seconds => {
            errors.push(FieldError::invalid(
                &place,
                seconds,
                "must be less than or equal to previous value",
            ));
            return errors;
        }
        (None, Some(_)) => {
            let why = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&place, Value::Null, why));
        }
        _ => {}
    }
    errors.extend(only_added_tolerations(new, old, &path.child("tolerations")));
    errors.extend(only_removed_gates(new, old, &path.child("schedulingGates")));
    if !equal_as("core.v1.PodSpec", new.at("/spec"), old.at("/spec")) {
        errors.extend(frozen(new, old, &path));
    }
    errors
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Faults of annotations that are fixed for the life of a pod.
pub fn annotations(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("metadata").child("annotations");
    let empty = serde_json::Map::new();
    let after = new.entries("/metadata/annotations").unwrap_or(&empty);
    let before = old.entries("/metadata/annotations").unwrap_or(&empty);
    let mut errors = Vec::new();
    let mut fault = |key: &str, armor: &str, mirror: &str| {
        if key.starts_with(APP_ARMOR) {
            errors.push(FieldError::forbidden(&path.key(key), armor));
        }
        if key == MIRROR {
            errors.push(FieldError::forbidden(&path.key(key), mirror));
        }
    };
    for (key, _) in before.iter().filter(|(k, v)| after.get(*k) != Some(v)) {
        let mirror = "may not remove or update mirror pod annotation";
        fault(key, "may not remove or update AppArmor annotations", mirror);
    }
    for (key, _) in after.iter().filter(|(k, _)| !before.contains_key(*k)) {
        fault(
            key,
            "may not add AppArmor annotations",
            "may not add mirror pod annotation",
        );
    }
    errors
}

fn only_added_tolerations(new: &Value, old: &Value, path: &Path) -> FieldErrors {
    let after = new.items("/spec/tolerations");
    let plain = |t: &Value| {
        let mut t = t.clone();
        remove(&mut t, "tolerationSeconds");
        t
    };
    let kept = |t: &Value| after.iter().any(|a| same(&plain(a), &plain(t)));
    if !old.items("/spec/tolerations").iter().all(kept) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        return vec![FieldError::forbidden(path, why)];
    }
    scheduling::tolerations(after, path)
}

fn only_removed_gates(new: &Value, old: &Value, path: &Path) -> FieldErrors {
    let before: Vec<&str> = old
        .items("/spec/schedulingGates")
        .iter()
        .map(|g| g.text("/name"))
        .collect();
    let gates = new.items("/spec/schedulingGates");
    // Of gates with one name upstream names the last.
    let last = |i: usize, g: &Value| {
        !gates[i + 1..]
            .iter()
            .any(|later| later.text("/name") == g.text("/name"))
    };
    gates
        .iter()
        .enumerate()
        .filter(|(i, g)| !before.contains(&g.text("/name")) && last(*i, g))
        .map(|(i, g)| {
            let why = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                g.text("/name")
            );
            FieldError::forbidden(&path.index(i).child("name"), why)
        })
        .collect()
}

/// Takes back every change that is allowed; what is left is a fault.
fn frozen(new: &Value, old: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let before = old.at("/spec");
    let mut munged = new.at("/spec").clone();
    for key in ["containers", "initContainers"] {
        let olds = list(before.get(key));
        for (i, container) in crate::view::each_mut(&mut munged, &format!("/{key}")).enumerate() {
            if let Some(was) = olds.get(i) {
                put_back(container, was, "image");
            }
        }
        // Upstream makes the list anew, so that an empty one is none.
        if munged.items(&format!("/{key}")).is_empty() {
            remove(&mut munged, key);
        }
    }
    for key in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(&mut munged, before, key);
    }
    if before.int("/terminationGracePeriodSeconds") < 0 && munged.int("/terminationGracePeriodSeconds") == 1 {
        put_back(&mut munged, before, "terminationGracePeriodSeconds");
    }
    if !before.items("/schedulingGates").is_empty() {
        errors.extend(gated(&mut munged, before, path));
    }
    if !equal_as("core.v1.PodSpec", &munged, before) {
        let why = format!(
            "pod updates may not change fields other than {MUTABLE}\n{}",
            unified(&pretty("PodSpec", before), &pretty("PodSpec", &munged))
        );
        errors.push(FieldError::forbidden(path, why));
    }
    errors
}

/// A pod that waits at a gate may still be told more narrowly where to run.
fn gated(munged: &mut Value, before: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let after = munged.at("/nodeSelector").clone();
    if !same(&after, before.at("/nodeSelector")) {
        let kept = |(k, v): (&String, &Value)| after.get(k) == Some(v);
        if !before.entries("/nodeSelector").into_iter().flatten().all(kept) {
            let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(&path.child("nodeSelector"), after, why));
        }
        put_back(munged, before, "nodeSelector");
    }
    let after = munged.at("/affinity/nodeAffinity").clone();
    let was = before.at("/affinity/nodeAffinity");
    if equal_as("core.v1.NodeAffinity", &after, was) {
        return errors;
    }
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |v: &Value| v.items(&format!("/{required}/nodeSelectorTerms")).to_vec();
    let (new_terms, old_terms) = (terms(&after), terms(was));
    let place = path
        .child("affinity")
        .child("nodeAffinity")
        .child(required)
        .child("nodeSelectorTerms");
    if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let shown = match after.pointer(&format!("/{required}/nodeSelectorTerms")) {
            Some(list) => BadValue::Raw(crate::internal::compact("NodeSelectorTerm", list)),
            None => BadValue::Json(Value::Null),
        };
        errors.push(FieldError::invalid(&place, shown, why));
    } else {
        for (i, (a, b)) in new_terms.iter().zip(&old_terms).enumerate() {
            if !only_additions(a, b) {
                let why = "only additions are allowed (no mutations or deletions)";
                let shown = BadValue::Raw(crate::internal::compact("NodeSelectorTerm", a));
                errors.push(FieldError::invalid(&place.index(i), shown, why));
            }
        }
    }
    let of_pods = munged.has("/affinity/podAffinity") || munged.has("/affinity/podAntiAffinity");
    match munged.get_mut("affinity").filter(|a| a.is_object()) {
        // It came with the affinity to nodes, and says nothing else.
        Some(_) if !before.has("/affinity") && !of_pods => remove(munged, "affinity"),
        Some(affinity) => put_back(affinity, before.at("/affinity"), "nodeAffinity"),
        None => set(munged, "affinity", serde_json::json!({ "nodeAffinity": was })),
    }
    errors
}

fn only_additions(new: &Value, old: &Value) -> bool {
    let lists = ["/matchExpressions", "/matchFields"].map(|p| (new.items(p), old.items(p)));
    if lists.iter().all(|(_, b)| b.is_empty()) {
        return lists.iter().all(|(a, _)| a.is_empty());
    }
    lists
        .iter()
        .all(|(a, b)| a.len() >= b.len() && a.iter().zip(b.iter()).all(|(x, y)| same(x, y)))
}

/// Puts back everything but `spec.ephemeralContainers`.
pub fn prepare_ephemeral(new: &mut Value, old: &Value, _: &Context) {
    let wanted = new.pointer("/spec/ephemeralContainers").cloned();
    keep_metadata(new, old);
    put_back(new, old, "spec");
    put_back(new, old, "status");
    if let Some(spec) = new.get_mut("spec") {
        match wanted {
            Some(list) => set(spec, "ephemeralContainers", list),
            None => remove(spec, "ephemeralContainers"),
        }
    }
}

/// What a write of a subresource leaves of the client's metadata: resourceVersion (and managed fields).
fn keep_metadata(new: &mut Value, old: &Value) {
    let before = old.at("/metadata").clone();
    if let Some(metadata) = new.get_mut("metadata") {
        for key in [
            "deletionTimestamp",
            "generation",
            "selfLink",
            "labels",
            "annotations",
            "finalizers",
            "ownerReferences",
        ] {
            put_back(metadata, &before, key);
        }
    }
}

/// Faults of adding ephemeral containers.
pub fn validate_ephemeral(new: &Value, old: &Value) -> FieldErrors {
    if old
        .entries("/metadata/annotations")
        .is_some_and(|a| a.contains_key(MIRROR))
    {
        return vec![FieldError::forbidden(
            &Path::default(),
            "static pods do not support ephemeral containers",
        )];
    }
    let mut errors = super::checked(new, Some(old), super::metadata_and_spec);
    let path = Path::new("spec").child("ephemeralContainers");
    for was in old.items("/spec/ephemeralContainers") {
        let own = was.text("/name");
        match new
            .items("/spec/ephemeralContainers")
            .iter()
            .rfind(|c| c.text("/name") == own)
        {
            None => {
                let why = format!("existing ephemeral containers {} may not be removed\n", quote(own));
                errors.push(FieldError::forbidden(&path, why));
            }
            Some(now) if !equal_as("core.v1.EphemeralContainer", now, was) => {
                let diff = unified(&pretty("EphemeralContainer", was), &pretty("EphemeralContainer", now));
                let why = format!(
                    "existing ephemeral containers {} may not be changed\n{diff}",
                    quote(own)
                );
                errors.push(FieldError::forbidden(&path, why));
            }
            Some(_) => {}
        }
    }
    errors
}

/// Puts back everything but resources and resize policies of containers, and the pod's own resources.
pub fn prepare_resize(new: &mut Value, old: &Value, _: &Context) {
    let pick = |holder: &Value, key: &str| list(holder.at("/spec").get(key)).to_vec();
    let mut merged = Vec::new();
    for key in ["containers", "initContainers"] {
        let (after, before) = (pick(new, key), pick(old, key));
        let names = |l: &[Value]| l.iter().map(|c| c.text("/name").to_string()).collect::<Vec<_>>();
        if after.len() != before.len() {
            return;
        }
        let list = match names(&after) == names(&before) {
            true => before
                .into_iter()
                .zip(&after)
                .map(|(mut container, wanted)| {
                    put_back(&mut container, wanted, "resources");
                    put_back(&mut container, wanted, "resizePolicy");
                    container
                })
                .collect(),
            false => after,
        };
        merged.push((key, list));
    }
    let resources = new.at("/spec").get("resources").cloned();
    keep_metadata(new, old);
    put_back(new, old, "spec");
    put_back(new, old, "status");
    if let Some(spec) = new.get_mut("spec") {
        for (key, list) in merged {
            if !list.is_empty() {
                set(spec, key, list);
            }
        }
        match resources {
            Some(resources) => set(spec, "resources", resources),
            None => remove(spec, "resources"),
        }
    }
}

/// Faults of a resize.
pub fn validate_resize(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("spec");
    let nowhere = Path::default();
    if old
        .entries("/metadata/annotations")
        .is_some_and(|a| a.contains_key(MIRROR))
    {
        return vec![FieldError::forbidden(&nowhere, "static pods cannot be resized")];
    }
    if old.text("/spec/os/name") == "windows" {
        return vec![FieldError::forbidden(&nowhere, "windows pods cannot be resized")];
    }
    let mut errors = super::checked(new, Some(old), super::metadata_and_spec);
    let (after, before) = (new.at("/spec"), old.at("/spec"));
    let class = match old.text("/status/qosClass") {
        "" => quality(before),
        class => class,
    };
    if class != quality(after) {
        let why = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&path, new.text("/status/qosClass"), why));
    }
    let running = old
        .items("/status/containerStatuses")
        .iter()
        .find(|s| s.has("/state/running"));
    if running.is_some_and(|s| !s.has("/resources")) {
        errors.push(FieldError::forbidden(
            &path,
            "Pod running on node without support for resize",
        ));
    }
    let mut munged = after.clone();
    errors.extend(pod_level_resize(&mut munged, before, &path));
    let order = ordering(after, before, &path);
    if !order.is_empty() {
        errors.extend(order);
        return errors;
    }
    for key in ["initContainers", "containers"] {
        let (news, olds) = (list(after.get(key)), list(before.get(key)));
        for (i, (a, b)) in news.iter().zip(olds).enumerate() {
            let place = path.child(key).index(i).child("resources");
            for (which, why) in [
                ("requests", "resource requests cannot be removed"),
                ("limits", "resource limits cannot be removed"),
            ] {
                if taken_away(a.at("/resources"), b.at("/resources"), which) {
                    errors.push(FieldError::forbidden(&place.child(which), why));
                }
            }
        }
    }
    errors.extend(container_resize(&mut munged, before, &path));
    if errors.is_empty() && !same(&munged, before) {
        errors.push(FieldError::forbidden(
            &path,
            "only cpu and memory resources are mutable",
        ));
    }
    errors
}

fn taken_away(new: &Value, old: &Value, which: &str) -> bool {
    let of = |v: &Value| v.get(which).and_then(Value::as_object).cloned().unwrap_or_default();
    let after = of(new);
    of(old).keys().any(|k| !after.contains_key(k))
}

fn pod_level_resize(munged: &mut Value, before: &Value, path: &Path) -> FieldErrors {
    let (after, was) = (munged.at("/resources").clone(), before.at("/resources"));
    let place = path.child("resources");
    if after.is_null() && was.is_null() {
        return Vec::new();
    }
    if after.is_null() {
        return vec![FieldError::forbidden(&place, "pod-level resources cannot be removed")];
    }
    let mut errors = Vec::new();
    for which in ["requests", "limits"] {
        if taken_away(&after, was, which) {
            let why = format!("pod-level resource {which} cannot be removed");
            errors.push(FieldError::forbidden(&place.child(which), why));
        }
    }
    undo_cpu_memory(munged, before);
    if !same(munged.at("/resources"), was) {
        errors.push(FieldError::forbidden(
            path,
            "only cpu and memory resources are mutable at pod-level",
        ));
    }
    errors
}

/// Makes cpu and memory of `holder.resources` what they were.
fn undo_cpu_memory(holder: &mut Value, before: &Value) {
    let Some(resources) = crate::view::child(holder, "resources") else {
        return;
    };
    for which in ["limits", "requests"] {
        if let Some(map) = crate::view::child(resources, which) {
            let was = before.at(&format!("/resources/{which}"));
            put_back(map, was, "cpu");
            put_back(map, was, "memory");
        }
    }
}

fn ordering(after: &Value, before: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["containers", "initContainers"] {
        let (news, olds) = (list(after.get(key)), list(before.get(key)));
        let place = path.child(key);
        if news.len() != olds.len() {
            errors.push(FieldError::forbidden(
                &place,
                format!("{key} may not be added or removed on resize"),
            ));
            continue;
        }
        for (i, (a, b)) in news.iter().zip(olds).enumerate() {
            if a.text("/name") != b.text("/name") {
                let why = format!("{key} may not be renamed or reordered on resize");
                errors.push(FieldError::forbidden(&place.index(i).child("name"), why));
            }
        }
    }
    errors
}

fn container_resize(munged: &mut Value, before: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["containers", "initContainers"] {
        let olds = list(before.get(key)).to_vec();
        for (i, container) in crate::view::each_mut(munged, &format!("/{key}")).enumerate() {
            let Some(was) = olds.get(i) else { continue };
            let regular = key == "containers";
            let changed = !same(container, was);
            undo_cpu_memory(container, was);
            if !same(container, was) {
                errors.push(match regular {
                    true => FieldError::forbidden(path, "only cpu and memory resources are mutable"),
                    false => FieldError::forbidden(
                        &path.child("initContainers").index(i),
                        "only cpu and memory resources for init or sidecar containers are mutable",
                    ),
                });
            }
            let restarts = |p: &Value| p.text("/restartPolicy") == "RestartContainer";
            if !regular && changed && !is_sidecar(container) && container.items("/resizePolicy").iter().any(restarts) {
                let why = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
                errors.push(FieldError::forbidden(&path.child("initContainers").index(i), why));
            }
        }
    }
    errors
}
