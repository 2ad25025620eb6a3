//! What a ReplicaSet needs: which pods to claim, how many to create, which to delete, what its status says. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use steersman_types::Time;
use steersman_types::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use steersman_types::api::core::v1::Pod;

use super::rank;
use crate::owners::{self, Claim};
use crate::{labels, pods};

/// Creations or deletions per run.
pub const BURST: usize = 500;

/// What the caches say about one set.
#[derive(Clone, Debug)]
pub struct Observed {
    pub set: Arc<ReplicaSet>,
    /// The pods it owns and those of its namespace that nobody owns.
    pub pods: Vec<Arc<Pod>>,
    /// Pods of the sets with the same owner.
    pub related: Vec<Arc<Pod>>,
    pub now: Timestamp,
}

/// What to do. Claims first, then deletions, then creations.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    pub create: usize,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that count as replicas, before creations and deletions.
    pub active: Vec<Arc<Pod>>,
    pub terminating: usize,
    /// When a pod becomes available only by time passing.
    pub again: Option<Duration>,
}

/// See [`Plan`].
#[must_use]
pub fn decide(seen: &Observed) -> Plan {
    let set = seen.set.as_ref();
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let going = set.metadata.deletion_timestamp.is_some();
    let selector = set.spec.as_ref().map(|s| &s.selector);
    let mut plan = Plan::default();
    for pod in &seen.pods {
        let selected = labels::selects(selector, pod.metadata.labels.as_ref());
        // A pod that is finished is neither adopted nor counted.
        let claim = owners::claim(&pod.metadata, uid, selected, going);
        match claim {
            Claim::Ignore => continue,
            Claim::Release => {
                plan.release.push(pod.clone());
                continue;
            }
            Claim::Adopt if !pods::is_active(pod) => continue,
            Claim::Adopt => plan.adopt.push(pod.clone()),
            Claim::Own => {}
        }
        if pods::is_active(pod) {
            plan.active.push(pod.clone());
        } else if pods::is_terminating(pod) && !pods::is_finished(pod) {
            plan.terminating += 1;
        }
    }
    if !going {
        let wanted = replicas(set);
        if plan.active.len() < wanted {
            plan.create = (wanted - plan.active.len()).min(BURST);
        } else {
            let count = (plan.active.len() - wanted).min(BURST);
            plan.delete = rank::to_delete(&plan.active, &seen.related, count, seen.now);
        }
    }
    plan.again = pods::next_available(plan.active.iter().map(Arc::as_ref), min_ready(set), seen.now);
    plan
}

/// `spec.replicas`, one when absent.
#[must_use]
pub fn replicas(set: &ReplicaSet) -> usize {
    usize::try_from(set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)).unwrap_or(0)
}

fn min_ready(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

/// The status to be written, if the present one is not up to date: it describes the pods as observed. `failure` is the
/// text of what went wrong while acting.
#[must_use]
pub fn status(seen: &Observed, plan: &Plan, failure: Option<&str>) -> Option<ReplicaSetStatus> {
    let set = seen.set.as_ref();
    let old = set.status.clone().unwrap_or_default();
    let template = set
        .spec
        .as_ref()
        .and_then(|s| s.template.as_ref())
        .and_then(|t| t.metadata.as_ref());
    let template = template.and_then(|m| m.labels.clone()).unwrap_or_default();
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(plan.active.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let mut new = ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&|pod| labels::all_of(&template, pod.metadata.labels.as_ref()))),
        ready_replicas: Some(count(&pods::is_ready)),
        available_replicas: Some(count(&|pod| pods::is_available(pod, min_ready(set), seen.now))),
        terminating_replicas: i32::try_from(plan.terminating).ok(),
        observed_generation: set.metadata.generation,
        conditions: old.conditions.clone(),
    };
    let conditions = new.conditions.get_or_insert_default();
    let known = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
    match failure {
        Some(text) if !known => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(
                if plan.create > 0 {
                    "FailedCreate"
                } else {
                    "FailedDelete"
                }
                .into(),
            ),
            message: Some(text.to_owned()),
            last_transition_time: Some(Time(seen.now)),
        }),
        None if known => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        _ => {}
    }
    (!same(&old, &new)).then_some(new)
}

/// Equal where an absent number is zero.
fn same(a: &ReplicaSetStatus, b: &ReplicaSetStatus) -> bool {
    let numbers = |s: &ReplicaSetStatus| {
        [
            Some(s.replicas),
            s.fully_labeled_replicas,
            s.ready_replicas,
            s.available_replicas,
            s.terminating_replicas,
        ]
        .map(|n| n.unwrap_or(0))
    };
    let conditions = |s: &ReplicaSetStatus| s.conditions.clone().unwrap_or_default();
    numbers(a) == numbers(b) && a.observed_generation == b.observed_generation && conditions(a) == conditions(b)
}
