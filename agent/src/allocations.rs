//! What of the node's cpu and memory is promised to whom.
//!
//! Written when a pod is taken ([`crate::pods`]) and when its resources change in place ([`crate::pod::worker`]); given
//! back when it has stopped. What stays true: a change that does not fit beside the others is not made.

use std::collections::HashMap;

use parking_lot::Mutex;
use steersman_types::api::core::v1::Pod;
use tokio::sync::Notify;

use crate::env::Allocatable;
use crate::pod::demand::request;

/// The resources that are counted: cpu in thousandths of a core, memory in bytes.
pub const COUNTED: [&str; 2] = ["cpu", "memory"];

/// One number per counted resource.
pub type Amounts = [i64; 2];

/// By pod uid.
#[derive(Default)]
pub struct Allocations {
    held: Mutex<HashMap<String, Amounts>>,
    /// Something was given back: who waits may try again.
    pub freed: Notify,
}

/// A resource of which there is not enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    pub resource: &'static str,
    pub requested: i64,
    pub used: i64,
    pub capacity: i64,
}

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}",
            self.resource, self.requested, self.used, self.capacity
        )
    }
}

/// What a pod asks for.
#[must_use]
pub fn amounts(pod: &Pod) -> Amounts {
    COUNTED.map(|name| request(pod, name))
}

/// Does it fit beside what is used?
#[must_use]
pub fn fits(asked: Amounts, used: Amounts, allocatable: &Allocatable) -> Option<Lacking> {
    COUNTED
        .into_iter()
        .zip(asked.into_iter().zip(used))
        .find_map(|(resource, (requested, used))| {
            let capacity = allocatable.get(resource).copied()?;
            let too_much = requested > 0 && used.saturating_add(requested) > capacity;
            too_much.then_some(Lacking {
                resource,
                requested,
                used,
                capacity,
            })
        })
}

impl Allocations {
    /// What all pods but this one hold.
    #[must_use]
    pub fn of_others(&self, uid: &str) -> Amounts {
        sum(&self.held.lock(), uid)
    }

    /// Gives the pod what it asks for, whatever the others have: it was taken before, or runs already.
    pub fn set(&self, uid: &str, asked: Amounts) {
        self.held.lock().insert(uid.to_owned(), asked);
    }

    /// Gives the pod what it asks for if that fits beside the others.
    ///
    /// # Errors
    /// What there is not enough of; nothing has changed then.
    pub fn change(&self, uid: &str, asked: Amounts, allocatable: &Allocatable) -> Result<(), Lacking> {
        let mut held = self.held.lock();
        if let Some(lacking) = fits(asked, sum(&held, uid), allocatable) {
            return Err(lacking);
        }
        held.insert(uid.to_owned(), asked);
        drop(held);
        self.freed.notify_waiters();
        Ok(())
    }

    /// Whether the pod was taken and has not stopped.
    #[must_use]
    pub fn holds(&self, uid: &str) -> bool {
        self.held.lock().contains_key(uid)
    }

    /// The pod has stopped.
    pub fn release(&self, uid: &str) {
        if self.held.lock().remove(uid).is_some() {
            self.freed.notify_waiters();
        }
    }
}

fn sum(held: &HashMap<String, Amounts>, but: &str) -> Amounts {
    held.iter()
        .filter(|(uid, _)| *uid != but)
        .fold([0, 0], |total, (_, own)| {
            [total[0].saturating_add(own[0]), total[1].saturating_add(own[1])]
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_does_not_fit_changes_nothing_until_another_pod_gives_back() {
        let allocatable = Allocatable::from([("cpu".into(), 2000), ("memory".into(), 100)]);
        let node = Allocations::default();
        node.set("a", [1500, 10]);
        node.set("b", [400, 10]);
        let why = node.change("b", [600, 10], &allocatable).unwrap_err().to_string();
        assert_eq!(
            why,
            "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000"
        );
        assert_eq!(node.of_others("a"), [400, 10]);
        node.release("a");
        assert_eq!(node.change("b", [600, 10], &allocatable), Ok(()));
        assert_eq!(node.of_others("c"), [600, 10]);
    }
}
