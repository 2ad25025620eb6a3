//! Who owns what: controller references, and adopting or releasing by selector.

use std::sync::Arc;

use steersman_runtime::informer::Object;
use steersman_types::{ObjectMeta, OwnerReference, Typed};

/// The reference with `controller: true`.
#[must_use]
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// A reference that makes `owner` the managing controller and lets foreground deletion wait for the dependent.
#[must_use]
pub fn reference_to<T: Typed>(owner: &T) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: T::API_VERSION.to_owned(),
        kind: T::KIND.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What an owner should do about one object of its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the owner's.
    Own,
    /// Selected and nobody's: becomes the owner's.
    Adopt,
    /// The owner's, but not selected any more: let go.
    Release,
    /// Not its business.
    Ignore,
}

/// Pure: `selected` says whether the owner's selector matches; `owner_going` whether the owner is being deleted.
#[must_use]
pub fn claim(object: &ObjectMeta, owner_uid: &str, selected: bool, owner_going: bool) -> Claim {
    match controller_of(object) {
        Some(owner) if owner.uid != owner_uid => Claim::Ignore,
        Some(_) if selected => Claim::Own,
        Some(_) if owner_going => Claim::Ignore,
        Some(_) => Claim::Release,
        None if !selected || owner_going || object.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The patch that adopts: bound to the object's UID.
#[must_use]
pub fn adopt_patch(owner: &OwnerReference, object: &ObjectMeta) -> serde_json::Value {
    serde_json::json!({"metadata": {
        "ownerReferences": [{
            "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid,
            "controller": true, "blockOwnerDeletion": true,
        }],
        "uid": object.uid,
    }})
}

/// The patch that releases: removes the one reference.
#[must_use]
pub fn release_patch(owner_uid: &str, object: &ObjectMeta) -> serde_json::Value {
    serde_json::json!({"metadata": {
        "ownerReferences": [{"$patch": "delete", "uid": owner_uid}],
        "uid": object.uid,
    }})
}

/// `namespace/name` of a reference's owner, when the reference is to this kind.
#[must_use]
pub fn owner_key<T: Typed, O: Object>(object: &Arc<O>) -> Option<steersman_runtime::Key> {
    let owner = controller_of(object.meta())?;
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    (owner.kind == T::KIND && group == T::GROUP)
        .then(|| steersman_runtime::Key::new(object.meta().namespace.as_deref().unwrap_or_default(), &owner.name))
}
