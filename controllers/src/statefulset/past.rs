//! Which of a StatefulSet's revisions its pods have, which they should get, and which may go. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use steersman_types::api::apps::v1::{ControllerRevision, StatefulSet};
use steersman_types::api::core::v1::Pod;

use super::member;
use crate::history;

/// The revision of the present template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Update {
    /// The newest one: nothing changed.
    Is(Arc<ControllerRevision>),
    /// An old one under a new number: a rollback.
    Renumber(Box<ControllerRevision>),
    /// None holds it: to be made with this number.
    Create(i64),
}

/// The revisions of a set.
#[derive(Clone, Debug)]
pub(super) struct Past {
    pub update: Update,
    /// The one that `status.currentRevision` names, if it is there.
    pub current: Option<Arc<ControllerRevision>>,
    /// All, oldest first.
    pub revisions: Vec<Arc<ControllerRevision>>,
}

pub(super) fn sort(set: &StatefulSet, mut revisions: Vec<Arc<ControllerRevision>>) -> Past {
    history::sort(&mut revisions);
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let next = history::newest(&revisions).saturating_add(1);
    let update = match revisions
        .iter()
        .rposition(|revision| history::holds(revision, &template))
    {
        None => Update::Create(next),
        Some(i) if i + 1 == revisions.len() => Update::Is(revisions[i].clone()),
        Some(i) => Update::Renumber(Box::new(history::renumbered(&revisions[i], next))),
    };
    let current = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
    Past {
        update,
        current: revisions
            .iter()
            .find(|r| r.metadata.name.as_deref() == current && current.is_some())
            .cloned(),
        revisions,
    }
}

/// Revisions beyond the limit that neither the set nor a pod uses.
pub(super) fn surplus(
    set: &StatefulSet,
    revisions: &[Arc<ControllerRevision>],
    pods: &[Arc<Pod>],
    used: [&String; 2],
) -> Vec<Arc<ControllerRevision>> {
    let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    // A negative limit keeps everything.
    let Ok(limit) = usize::try_from(limit) else {
        return Vec::new();
    };
    let mut live: BTreeSet<&str> = pods.iter().map(|pod| member::revision(pod)).collect();
    live.extend(used.into_iter().map(String::as_str));
    history::surplus(revisions, limit, |r| {
        live.contains(r.metadata.name.as_deref().unwrap_or_default())
    })
}
