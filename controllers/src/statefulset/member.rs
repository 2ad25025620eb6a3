//! One pod of a StatefulSet: its number, its identity, its volumes. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use steersman_types::ObjectMeta;
use steersman_types::api::apps::v1::StatefulSet;
use steersman_types::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};

use crate::fleet;

/// Label with the name of the revision that a pod was made from.
pub const REVISION: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// Pods that are made in one run at most.
const BURST: usize = 500;

/// `(set's name, number)` in a pod's name.
fn parse(name: &str) -> Option<(&str, i64)> {
    let (parent, number) = name.rsplit_once('-')?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    // As upstream, which reads 32 bits.
    let number: i32 = digits.then(|| number.parse().ok()).flatten()?;
    Some((parent, i64::from(number)))
}

/// The pod's number; `None` when its name has none.
#[must_use]
pub fn ordinal(pod: &Pod) -> Option<i64> {
    parse(pod.metadata.name.as_deref()?).map(|(_, number)| number)
}

/// Whether the pod's name says that it belongs to the set.
#[must_use]
pub fn is_member(set: &StatefulSet, pod: &Pod) -> bool {
    let parent = pod.metadata.name.as_deref().and_then(parse).map(|(parent, _)| parent);
    parent.is_some() && parent == set.metadata.name.as_deref()
}

/// `spec.ordinals.start`.
#[must_use]
pub fn first(set: &StatefulSet) -> i64 {
    let ordinals = set.spec.as_ref().and_then(|s| s.ordinals.as_ref());
    i64::from(ordinals.and_then(|o| o.start).unwrap_or(0))
}

/// `spec.replicas`, one when absent.
#[must_use]
pub fn replicas(set: &StatefulSet) -> usize {
    usize::try_from(set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)).unwrap_or(0)
}

/// Where among the replicas a number is; `None` outside of the wanted range.
#[must_use]
pub fn position(set: &StatefulSet, ordinal: i64) -> Option<usize> {
    let position = usize::try_from(ordinal.checked_sub(first(set))?).ok()?;
    (position < replicas(set)).then_some(position)
}

/// How many replicas are looked at in one run: as far as there are pods, and [`BURST`] more.
#[must_use]
pub fn window(set: &StatefulSet, pods: &[Arc<Pod>]) -> usize {
    let places = pods.iter().filter_map(|pod| position(set, ordinal(pod)?));
    let reached = places.max().map_or(0, |last| last + 1);
    replicas(set).min(reached.saturating_add(BURST))
}

fn set_name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// The revision a pod was made from; empty when it has none.
#[must_use]
pub fn revision(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|l| l.get(REVISION)).map_or("", String::as_str)
}

/// The names of a pod's claims, by the name of the template, which is also that of the volume.
#[must_use]
pub fn claim_names(set: &StatefulSet, ordinal: i64) -> BTreeMap<String, String> {
    let templates = set.spec.iter().flat_map(|s| s.volume_claim_templates.iter().flatten());
    templates
        .filter_map(|template| template.metadata.name.clone())
        .map(|volume| {
            let claim = format!("{volume}-{}-{ordinal}", set_name(set));
            (volume, claim)
        })
        .collect()
}

/// The claims a pod of this number needs.
#[must_use]
pub fn claims(set: &StatefulSet, ordinal: i64) -> Vec<PersistentVolumeClaim> {
    let names = claim_names(set, ordinal);
    let selector = set.spec.as_ref().and_then(|s| s.selector.match_labels.clone());
    let templates = set.spec.iter().flat_map(|s| s.volume_claim_templates.iter().flatten());
    templates
        .filter_map(|template| {
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(selector.clone().unwrap_or_default());
            Some(PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(names.get(template.metadata.name.as_ref()?)?.clone()),
                    namespace: set.metadata.namespace.clone(),
                    labels: Some(labels),
                    annotations: template.metadata.annotations.clone(),
                    finalizers: template.metadata.finalizers.clone(),
                    ..ObjectMeta::default()
                },
                spec: template.spec.clone(),
                status: None,
            })
        })
        .collect()
}

/// Whether name and labels are those of a member.
#[must_use]
pub fn has_identity(set: &StatefulSet, pod: &Pod) -> bool {
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get(POD_NAME));
    is_member(set, pod) && label == pod.metadata.name.as_ref()
}

/// Whether the pod mounts the claims of its number.
#[must_use]
pub fn has_storage(set: &StatefulSet, pod: &Pod) -> bool {
    let Some(ordinal) = ordinal(pod) else { return false };
    let volumes: Vec<&Volume> = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).collect();
    claim_names(set, ordinal).iter().all(|(name, claim)| {
        let source = volumes.iter().find(|v| v.name == *name);
        let source = source.and_then(|v| v.persistent_volume_claim.as_ref());
        source.is_some_and(|source| source.claim_name == *claim)
    })
}

/// Gives the pod the labels of its number.
pub fn identify(pod: &mut Pod, ordinal: i64) {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name);
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
}

/// Lets the pod's volumes be the claims of its number; other volumes stay.
pub fn store(set: &StatefulSet, pod: &mut Pod, ordinal: i64) {
    let claims = claim_names(set, ordinal);
    let spec = pod.spec.get_or_insert_default();
    let others = spec.volumes.take().unwrap_or_default();
    let mut volumes: Vec<Volume> = claims
        .iter()
        .map(|(name, claim)| Volume {
            name: name.clone(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    volumes.extend(others.into_iter().filter(|v| !claims.contains_key(&v.name)));
    spec.volumes = Some(volumes).filter(|v| !v.is_empty());
}

/// A new pod of the set.
#[must_use]
pub fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i64) -> Pod {
    let mut pod = fleet::pod_from_template(template, set);
    let name = format!("{}-{ordinal}", set_name(set));
    pod.metadata.generate_name = Some(format!("{}-", set_name(set)));
    pod.metadata.name = Some(name.clone());
    identify(&mut pod, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    let service = set.spec.as_ref().and_then(|s| s.service_name.clone());
    spec.subdomain = service.filter(|s| !s.is_empty());
    store(set, &mut pod, ordinal);
    pod
}
