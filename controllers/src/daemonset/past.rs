//! Which of a DaemonSet's revisions is the present template, and which may go. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use steersman_types::api::apps::v1::{ControllerRevision, DaemonSet};
use steersman_types::api::core::v1::Pod;

use super::place;
use crate::history;

/// The revisions of a set, sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// The one that holds the present template.
    pub current: Option<Arc<ControllerRevision>>,
    /// Others that hold it as well, which an interrupted run can leave behind.
    pub duplicates: Vec<Arc<ControllerRevision>>,
    /// Oldest first.
    pub old: Vec<Arc<ControllerRevision>>,
    /// The number that the present revision must have: the highest.
    pub number: i64,
}

/// The label that pods of this revision have; its name for a revision from before there were labels.
pub(super) fn hash(revision: &ControllerRevision) -> String {
    let label = revision.metadata.labels.as_ref().and_then(|l| l.get(place::HASH));
    label.or(revision.metadata.name.as_ref()).cloned().unwrap_or_default()
}

pub(super) fn sort(set: &DaemonSet, revisions: Vec<Arc<ControllerRevision>>) -> Past {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let (mut current, mut old): (Vec<_>, Vec<_>) = revisions
        .into_iter()
        .partition(|revision| history::holds(revision, &template));
    history::sort(&mut current);
    history::sort(&mut old);
    Past {
        number: history::newest(&old).saturating_add(1),
        current: current.pop(),
        duplicates: current,
        old,
    }
}

/// Old revisions beyond the limit that no pod was made from.
pub(super) fn surplus(
    set: &DaemonSet,
    old: &[Arc<ControllerRevision>],
    pods: &[Arc<Pod>],
) -> Vec<Arc<ControllerRevision>> {
    let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    let in_use: BTreeSet<&String> = pods
        .iter()
        .filter_map(|pod| pod.metadata.labels.as_ref()?.get(place::HASH))
        .collect();
    let live = |revision: &ControllerRevision| in_use.contains(&hash(revision));
    // Those in use count against the limit.
    let kept = old.iter().filter(|revision| live(revision)).count();
    history::surplus(old, usize::try_from(limit).unwrap_or(0).saturating_sub(kept), live)
}
