//! What should happen to one object, given the state of its owners and dependents. Pure.

use steersman_runtime::client::Propagation;
use steersman_types::{ObjectMeta, OwnerReference};

/// Deleted owners wait with this finalizer until no dependent blocks them.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Deleted owners wait with this finalizer until no dependent refers to them.
pub const ORPHAN: &str = "orphan";

/// What an owner reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// The owner is there (or the reference cannot be judged): keep the object.
    Solid,
    /// The owner is being deleted in the foreground and waits for its dependents.
    Waiting,
    /// The server has confirmed that it is gone.
    Absent,
    /// Its kind is not known (now): neither there nor gone.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Nothing,
    /// Deleted in the foreground; dependents that block it are still there.
    WaitForDependents,
    /// An owner's kind is not known: look again after the next discovery.
    WaitForDiscovery,
    RemoveFinalizer(&'static str),
    /// Take the references off all dependents, then the finalizer off the object.
    Orphan,
    /// Some owners are there: only forget these others.
    Disown(Vec<String>),
    /// The object and its owners wait for each other: its references stop blocking, and it is looked at again.
    Unblock,
    Delete(Propagation),
}

#[must_use]
pub fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

/// Being deleted in the foreground.
#[must_use]
pub fn is_waiting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND)
}

/// Whether the object itself is in one of the states that the collector has to move on.
#[must_use]
pub fn needs_attention(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && (has_finalizer(meta, FOREGROUND) || has_finalizer(meta, ORPHAN))
}

/// Those that refer to an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dependents {
    pub any: bool,
    /// Some have `blockOwnerDeletion`.
    pub blocking: bool,
    /// Some are being deleted in the foreground themselves. If the object's owner is as well, it may be that very one: a
    /// circle. As upstream's, this finds circles that are none, which costs no more than the order of deletion.
    pub waiting: bool,
}

#[must_use]
pub fn decide(meta: &ObjectMeta, owners: &[(OwnerReference, OwnerState)], dependents: Dependents) -> Decision {
    if meta.deletion_timestamp.is_some() {
        if has_finalizer(meta, ORPHAN) {
            return Decision::Orphan;
        }
        if has_finalizer(meta, FOREGROUND) {
            return if dependents.blocking {
                Decision::WaitForDependents
            } else {
                Decision::RemoveFinalizer(FOREGROUND)
            };
        }
        return Decision::Nothing;
    }
    if owners.is_empty() {
        return Decision::Nothing;
    }
    if owners.iter().any(|(_, state)| *state == OwnerState::Unknown) {
        return Decision::WaitForDiscovery;
    }
    let lost: Vec<String> = owners
        .iter()
        .filter(|(_, state)| *state != OwnerState::Solid)
        .map(|(owner, _)| owner.uid.clone())
        .collect();
    if lost.len() < owners.len() {
        return if lost.is_empty() {
            Decision::Nothing
        } else {
            Decision::Disown(lost)
        };
    }
    let waiting = owners.iter().any(|(_, state)| *state == OwnerState::Waiting);
    // The owner's deleter wanted to see everything below it gone first: so the same for this object's dependents.
    if waiting && dependents.any {
        let blocks = |owner: &OwnerReference| owner.block_owner_deletion == Some(true);
        if dependents.waiting && owners.iter().any(|(owner, _)| blocks(owner)) {
            return Decision::Unblock;
        }
        return Decision::Delete(Propagation::Foreground);
    }
    Decision::Delete(if has_finalizer(meta, ORPHAN) {
        Propagation::Orphan
    } else if has_finalizer(meta, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}
