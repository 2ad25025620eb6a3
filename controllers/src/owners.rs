//! Who owns what: controller references, following dependents, and adopting or releasing by selector.

use std::sync::Arc;

use steersman_runtime::client::{ApiError, Patch};
use steersman_runtime::informer::{IndexId, Object};
use steersman_runtime::{Event, Informer, Key, WorkQueue};
use steersman_types::{ObjectMeta, OwnerReference, Typed};

use crate::act::{Action, Executor, Written};

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
pub fn owner_key<T: Typed, O: Object>(object: &Arc<O>) -> Option<Key> {
    let owner = controller_of(object.meta())?;
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    (owner.kind == T::KIND && group == T::GROUP)
        .then(|| Key::new(object.meta().namespace.as_deref().unwrap_or_default(), &owner.name))
}

/// Objects without a controller, by namespace.
pub fn orphans<O: Object>(informer: &Informer<O>) -> IndexId {
    informer.add_index(|object: &O| match controller_of(object.meta()) {
        None => vec![object.meta().namespace.clone().unwrap_or_default()],
        Some(_) => Vec::new(),
    })
}

/// Queues the owner of every dependent that changes, before and after; for a dependent that nobody owns, every owner of
/// its namespace that selects it.
pub fn follow<T: Typed, O: Object>(
    dependents: &Informer<O>,
    owners: &Informer<T>,
    queue: WorkQueue<Key>,
    selects: impl Fn(&T, &ObjectMeta) -> bool + Send + Sync + 'static,
) {
    follow_some(dependents, owners, queue, selects, |_| true);
}

/// The same for those changes that `matters` says.
pub fn follow_some<T: Typed, O: Object>(
    dependents: &Informer<O>,
    owners: &Informer<T>,
    queue: WorkQueue<Key>,
    selects: impl Fn(&T, &ObjectMeta) -> bool + Send + Sync + 'static,
    matters: impl Fn(&Event<O>) -> bool + Send + Sync + 'static,
) {
    let owners = owners.clone();
    dependents.on_event(move |event| {
        if !matters(event) {
            return;
        }
        for object in event.old().into_iter().chain([event.object()]) {
            match controller_of(object.meta()) {
                Some(_) => {
                    if let Some(key) = owner_key::<T, O>(object) {
                        queue.add(key);
                    }
                }
                None if matches!(event, Event::Deleted(_)) => {}
                None => {
                    for owner in owners.list_in(object.meta().namespace.as_deref().unwrap_or_default()) {
                        if selects(&owner, object.meta()) {
                            queue.add(Key::of(owner.as_ref()));
                        }
                    }
                }
            }
        }
    });
}

/// Dependents sorted by what their owner should do about them; those to be ignored are left out.
#[derive(Clone, Debug)]
pub struct Claims<O> {
    pub own: Vec<Arc<O>>,
    pub adopt: Vec<Arc<O>>,
    pub release: Vec<Arc<O>>,
}

impl<O: Object> Claims<O> {
    /// Pure. `selected` says whether the owner's selector matches.
    #[must_use]
    pub fn sort(objects: Vec<Arc<O>>, owner: &ObjectMeta, selected: impl Fn(&O) -> bool) -> Self {
        let uid = owner.uid.as_deref().unwrap_or_default();
        let going = owner.deletion_timestamp.is_some();
        let mut claims = Self {
            own: Vec::new(),
            adopt: Vec::new(),
            release: Vec::new(),
        };
        for object in objects {
            let place = match claim(object.meta(), uid, selected(&object), going) {
                Claim::Own => &mut claims.own,
                Claim::Adopt => &mut claims.adopt,
                Claim::Release => &mut claims.release,
                Claim::Ignore => continue,
            };
            place.push(object);
        }
        claims
    }

    /// Whether there is something to adopt or release.
    #[must_use]
    pub fn pending(&self) -> bool {
        !self.adopt.is_empty() || !self.release.is_empty()
    }
}

/// Before adopting, asks the server itself whether the owner is still there and not being deleted: the cache may not know
/// yet, and an adopted object would be collected with its new owner.
///
/// # Errors
/// When the owner is gone or going, or the server does not answer.
pub async fn still_wanted<T: Typed>(executor: &Executor, owner: &T) -> Result<(), ApiError> {
    let meta = owner.metadata();
    let name = meta.name.as_deref().unwrap_or_default();
    let fresh: T = executor.client().get(meta.namespace.as_deref(), name).await?;
    if fresh.metadata().uid != meta.uid || fresh.metadata().deletion_timestamp.is_some() {
        return Err(ApiError::Decode(format!(
            "{name} is gone or has been deleted: not adopting"
        )));
    }
    Ok(())
}

/// Adopts and releases as sorted. An object that is gone, or another one by now, has nothing left to claim.
pub async fn settle<T: Typed, O: Typed>(
    executor: &Executor,
    owner: &T,
    adopt: &[Arc<O>],
    release: &[Arc<O>],
) -> (Vec<Written>, Option<ApiError>) {
    if !adopt.is_empty()
        && let Err(error) = still_wanted(executor, owner).await
    {
        return (Vec::new(), Some(error));
    }
    let reference = reference_to(owner);
    let adopting = adopt
        .iter()
        .map(|object| (object, adopt_patch(&reference, object.metadata())));
    let releasing = release
        .iter()
        .map(|object| (object, release_patch(&reference.uid, object.metadata())));
    let actions = adopting
        .chain(releasing)
        .map(|(object, patch)| Action::patch(object.as_ref(), None, Patch::Strategic(patch)))
        .collect();
    let (mut written, mut failure) = (Vec::new(), None);
    for outcome in executor.all(actions).await {
        match outcome {
            Ok(one) => written.push(one),
            Err(error) if error.is_not_found() || error.is_invalid() => {}
            Err(error) => failure = Some(error),
        }
    }
    (written, failure)
}
