//! What a set remembers in annotations, and how a template becomes a name. Pure.

use std::collections::BTreeMap;

use serde_json::Value;
use steersman_types::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use steersman_types::{LabelSelector, ObjectMeta, Typed};

use super::decide::Sized;
use crate::owners;
use crate::templates::{hash, strip};

const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
/// Not copied from a Deployment to its sets.
const PRIVATE: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MOST,
    "deprecated.deployment.rollback.to",
];
/// Longest revision-history annotation.
const HISTORY_LENGTH: usize = 2000;
/// Longest name of an object.
const NAME_LENGTH: usize = 253;

fn number<N: std::str::FromStr>(meta: &ObjectMeta, key: &str) -> Option<N> {
    meta.annotations.as_ref()?.get(key)?.parse().ok()
}

/// The revision annotation, 0 when absent or no number.
pub(super) fn of(meta: &ObjectMeta) -> i64 {
    number(meta, REVISION).unwrap_or(0)
}

/// The highest revision among old sets.
pub(super) fn newest(old: &[Sized]) -> i64 {
    old.iter().map(|s| of(&s.set.metadata)).max().unwrap_or(0)
}

pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    number(&set.metadata, DESIRED).filter(|n| *n >= 0)
}

pub(super) fn most(set: &ReplicaSet) -> Option<i32> {
    number(&set.metadata, MOST).filter(|n| *n >= 0)
}

/// Notes the new set's revision on the Deployment.
pub(super) fn set(deployment: &mut Deployment, revision: i64) {
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.insert(REVISION.to_owned(), revision.to_string());
}

fn put(annotations: &mut BTreeMap<String, String>, key: &str, value: String) -> bool {
    annotations.insert(key.to_owned(), value.clone()).as_ref() != Some(&value)
}

/// Returns whether something changed.
pub(super) fn annotate_replicas(set: &mut ReplicaSet, desired: i32, most: i32) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let first = put(annotations, DESIRED, desired.to_string());
    put(annotations, MOST, most.to_string()) || first
}

/// Brings the new set's annotations up to date: the Deployment's own ones, the revision when it has to grow, the
/// history when an old set becomes the new one again. Returns whether something changed.
pub(super) fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64, exists: bool) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !PRIVATE.contains(&key.as_str()) {
            changed |= put(annotations, key, value.clone());
        }
    }
    let text = annotations.get(REVISION).cloned().unwrap_or_default();
    let before: i64 = match text.parse() {
        Ok(before) => before,
        Err(_) if text.is_empty() => 0,
        // Somebody else's value: left alone.
        Err(_) => return changed,
    };
    if before < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        changed = true;
        if !text.is_empty() {
            let mut history: Vec<&str> = annotations
                .get(HISTORY)
                .map(|h| h.split(',').filter(|r| !r.is_empty()).collect())
                .unwrap_or_default();
            history.push(&text);
            while history.len() > 1 && history.join(",").len() > HISTORY_LENGTH {
                history.remove(0);
            }
            let history = history.join(",");
            annotations.insert(HISTORY.to_owned(), history);
        }
    }
    if !exists {
        let desired = super::rollout::replicas(deployment);
        let most = desired.saturating_add(super::rollout::max_surge(deployment));
        changed |= annotate_replicas(set, desired, most);
    }
    changed
}

/// The set for the present template.
pub(super) fn new_set(deployment: &Deployment, size: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector: LabelSelector = spec.selector;
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH.to_owned(), hash.clone());
    let mut name = deployment.metadata.name.clone().unwrap_or_default();
    name.truncate(NAME_LENGTH - 1 - hash.len());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            owner_references: Some(vec![owners::reference_to(deployment)]),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Whether the set was made for the Deployment's present template, whatever the hash in its labels.
pub(super) fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let canonical = |value: Value| {
        let mut template = value["spec"]["template"].clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove(HASH);
        }
        strip(&mut template);
        template
    };
    canonical(deployment.to_value()) == canonical(set.to_value())
}
