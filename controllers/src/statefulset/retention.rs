//! Who owns a claim, so that the garbage collector removes it as `persistentVolumeClaimRetentionPolicy` says. Pure.
//!
//! Retain keeps claims without an owner; deletion with the set makes the set the owner; deletion on scaling down makes the
//! pod that goes away the owner. A claim that somebody else controls, or that an earlier set or pod of the same name owns,
//! is left alone.

use steersman_types::api::apps::v1::StatefulSet;
use steersman_types::api::core::v1::{PersistentVolumeClaim, Pod};
use steersman_types::{OwnerReference, Typed};

use super::member;
use crate::owners;

/// Whether claims go (with the set, when scaled down).
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set
        .spec
        .as_ref()
        .and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    let goes = |text: Option<&String>| text.is_some_and(|t| t == "Delete");
    (
        goes(policy.and_then(|p| p.when_deleted.as_ref())),
        goes(policy.and_then(|p| p.when_scaled.as_ref())),
    )
}

fn refers<T: Typed>(reference: &OwnerReference, object: &T) -> bool {
    reference.api_version == T::API_VERSION
        && reference.kind == T::KIND
        && Some(&reference.name) == object.metadata().name.as_ref()
}

fn refs(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

/// A reference to an object of this name that is another one.
fn is_stale<T: Typed>(claim: &PersistentVolumeClaim, object: &T) -> bool {
    let first = refs(claim).iter().find(|r| refers(r, object));
    first.is_some_and(|r| Some(&r.uid) != object.metadata().uid.as_ref())
}

fn owned_by<T: Typed>(claim: &PersistentVolumeClaim, object: &T) -> Option<bool> {
    let uid = object.metadata().uid.as_deref().unwrap_or_default();
    refs(claim)
        .iter()
        .find(|r| r.uid == uid)
        .map(|r| r.controller == Some(true))
}

/// Somebody else controls the claim although the policy wants to.
#[must_use]
pub fn has_rival(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    if policy(set) == (false, false) {
        return false;
    }
    refs(claim).iter().any(|r| {
        if refers(r, set) {
            Some(&r.uid) != set.metadata.uid.as_ref()
        } else if refers(r, pod) {
            Some(&r.uid) != pod.metadata.uid.as_ref()
        } else {
            r.controller == Some(true)
        }
    })
}

/// Whether (set, pod) should own the claim.
fn wanted(set: &StatefulSet, pod: &Pod) -> (bool, bool) {
    let (deleted, scaled) = policy(set);
    let inside = member::ordinal(pod).is_some_and(|n| member::position(set, n).is_some());
    let leaves = scaled && !inside;
    (deleted && !leaves, leaves)
}

/// The claim with the owners it should have; `None` when it has them, or is to be left alone.
#[must_use]
pub fn corrected(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> Option<PersistentVolumeClaim> {
    if is_stale(claim, set) || is_stale(claim, pod) {
        return None;
    }
    let (by_set, by_pod) = (owned_by(claim, set), owned_by(claim, pod));
    let rival = has_rival(set, pod, claim);
    let right = if rival {
        by_set.is_none() && by_pod.is_none()
    } else {
        // Owning without controlling is to be put right as well.
        (by_set == Some(true), by_pod == Some(true)) == wanted(set, pod)
            && by_set != Some(false)
            && by_pod != Some(false)
    };
    if right {
        return None;
    }
    let mut kept: Vec<OwnerReference> = refs(claim)
        .iter()
        .filter(|r| !refers(r, set) && !refers(r, pod))
        .cloned()
        .collect();
    if !rival {
        let (set_owns, pod_owns) = wanted(set, pod);
        kept.extend(pod_owns.then(|| owners::reference_to(pod)));
        kept.extend(set_owns.then(|| owners::reference_to(set)));
    }
    let mut updated = claim.clone();
    updated.metadata.owner_references = Some(kept).filter(|r| !r.is_empty());
    Some(updated)
}

/// Whether a claim that will be deleted with an earlier pod of this name is still there: the new pod must wait for it.
#[must_use]
pub fn blocks_creation(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    policy(set).1 && is_stale(claim, pod)
}
