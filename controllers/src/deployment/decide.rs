//! The plan of one run for one Deployment. Pure.
//!
//! Words: the *new* set is the one with the Deployment's template, all others are *old*; a set is *active* when its
//! wanted size is not zero; a *scaling event* is a change of `spec.replicas` that the active sets have not been told of
//! yet (their desired-replicas annotation differs).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use steersman_runtime::events::{EventType, reference};
use steersman_types::api::apps::v1::{Deployment, ReplicaSet};

use super::{revision, rollout, status};
use crate::act::Action;
use crate::labels;

/// What the caches say about one Deployment.
#[derive(Clone, Debug)]
pub struct Observed {
    pub deployment: Arc<Deployment>,
    /// Sets that it owns.
    pub sets: Vec<Arc<ReplicaSet>>,
    pub adopt: Vec<Arc<ReplicaSet>>,
    pub release: Vec<Arc<ReplicaSet>>,
    /// Names of owned sets with pods that have not finished.
    pub sets_with_pods: BTreeSet<String>,
    pub now: Timestamp,
}

impl Observed {
    #[must_use]
    pub fn of(deployment: Arc<Deployment>) -> Self {
        Self {
            deployment,
            sets: Vec::new(),
            adopt: Vec::new(),
            release: Vec::new(),
            sets_with_pods: BTreeSet::new(),
            now: Timestamp::UNIX_EPOCH,
        }
    }
}

/// What to do: create the new set first, then the other actions in order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub create: Option<ReplicaSet>,
    pub actions: Vec<Action>,
    /// When to look for a missed progress deadline.
    pub again: Option<Duration>,
}

/// One owned set while the plan is made.
#[derive(Clone, Debug)]
pub(super) struct Sized {
    /// As it will be written.
    pub set: ReplicaSet,
    pub before: i32,
    pub size: i32,
    /// Written although the size stays.
    pub touched: bool,
}

impl Sized {
    pub(super) fn name(&self) -> &str {
        self.set.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn available(&self) -> i32 {
        self.set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }

    /// Available pods that stay when the set has shrunk to its wanted size: its controller deletes others first, but
    /// its status may not know of the new size yet.
    pub(super) fn sure(&self) -> i32 {
        self.available().min(self.size)
    }

    /// Pods that its controller has seen.
    pub(super) fn actual(&self) -> i32 {
        self.set.status.as_ref().map_or(0, |s| s.replicas)
    }
}

/// See the module.
#[must_use]
pub fn decide(seen: &Observed) -> Plan {
    let mut deployment = seen.deployment.as_ref().clone();
    let selects_all = deployment.spec.as_ref().is_none_or(|s| labels::is_empty(&s.selector));
    if selects_all {
        return selecting_all(deployment);
    }
    let mut sets: Vec<Sized> = seen
        .sets
        .iter()
        .map(|set| {
            let size = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
            Sized {
                set: set.as_ref().clone(),
                before: size,
                size,
                touched: false,
            }
        })
        .collect();
    // Oldest first; of two sets with the right template the oldest is the new one.
    sets.sort_by(|a, b| {
        let key = |s: &Sized| {
            (
                s.set.metadata.creation_timestamp.as_ref().map(|t| t.0),
                s.set.metadata.name.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    let mut new = sets
        .iter()
        .position(|s| revision::same_template(&deployment, &s.set))
        .map(|i| sets.remove(i));
    let mut old = sets;
    let observed_new = new.clone();
    let mut plan = Plan::default();

    if deployment.metadata.deletion_timestamp.is_some() {
        let sets: Vec<&Sized> = old.iter().chain(new.as_ref()).collect();
        let written = status::scaled(&deployment, &sets, new.as_ref(), seen.now);
        plan.actions.extend(status::write(seen, deployment, written));
        return plan;
    }
    status::pause(&mut deployment, seen.now);
    let newest = revision::newest(&old) + 1;
    if let Some(new) = &mut new {
        new.touched |= revision::annotate(&deployment, &mut new.set, newest, true);
        let wanted = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
        let spec = new.set.spec.get_or_insert_default();
        if spec.min_ready_seconds.unwrap_or(0) != wanted {
            spec.min_ready_seconds = Some(wanted);
            new.touched = true;
        }
        revision::set(&mut deployment, revision::of(&new.set.metadata));
        status::found(&mut deployment, new.name(), seen.now);
    }

    let paused = deployment.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
    let scaling = rollout::scaling_event(&deployment, old.iter().chain(new.as_ref()));
    let progress = !(paused || scaling);
    let mut creating = false;
    if !progress {
        rollout::scale(&deployment, &mut old, &mut new);
    } else if rollout::is_recreate(&deployment) {
        let old_pods = old.iter().any(|s| s.actual() > 0) || old.iter().any(|s| seen.sets_with_pods.contains(s.name()));
        creating = rollout::recreate(&deployment, &mut old, &mut new, old_pods);
    } else {
        creating = rollout::rolling(&deployment, &mut old, &mut new);
    }
    if creating {
        let size = rollout::new_size(&deployment, &old, None);
        let mut set = revision::new_set(&deployment, size);
        revision::annotate(&deployment, &mut set, newest, false);
        revision::set(&mut deployment, revision::of(&set.metadata));
        status::created(
            &mut deployment,
            set.metadata.name.as_deref().unwrap_or_default(),
            seen.now,
        );
        plan.create = Some(set);
    }
    let resized = old.iter().chain(new.as_ref()).any(|s| s.size != s.before);
    plan.actions
        .extend(resize(&deployment, seen, old.iter_mut().chain(new.as_mut())));
    let complete = status::is_complete(&deployment, seen.deployment.status.as_ref());
    if paused || (progress && !resized && !creating && complete) {
        plan.actions.extend(clean_up(&deployment, &old));
    }
    // The status says what was observed, not what was just asked for.
    let all: Vec<&Sized> = old.iter().chain(observed_new.as_ref()).collect();
    let written = if progress {
        status::rolled_out(&deployment, &all, observed_new.as_ref(), seen.now)
    } else {
        status::scaled(&deployment, &all, observed_new.as_ref(), seen.now)
    };
    plan.again = status::look_again(&deployment, &written, seen.now);
    plan.actions.extend(status::write(seen, deployment, written));
    plan
}

fn selecting_all(mut deployment: Deployment) -> Plan {
    let message = "This deployment is selecting all pods. A non-empty selector is required.".to_owned();
    let about = reference(&deployment);
    let mut actions = vec![Action::event(about, EventType::Warning, "SelectingAll", message)];
    let generation = deployment.metadata.generation;
    let status = deployment.status.get_or_insert_default();
    if status.observed_generation < generation {
        status.observed_generation = generation;
        actions.push(Action::update_status(&deployment));
    }
    Plan {
        actions,
        ..Plan::default()
    }
}

/// The writes for sets whose size or annotations changed, each followed by its event. Shrinking comes first.
fn resize<'a>(deployment: &Deployment, seen: &Observed, sets: impl Iterator<Item = &'a mut Sized>) -> Vec<Action> {
    let desired = rollout::replicas(deployment);
    let most = desired.saturating_add(rollout::max_surge(deployment));
    let mut changed: Vec<&mut Sized> = sets.filter(|s| s.size != s.before || s.touched).collect();
    changed.sort_by_key(|s| s.size > s.before);
    let mut actions = Vec::new();
    for sized in changed {
        let name = sized.name().to_owned();
        if sized.size != sized.before {
            sized.set.spec.get_or_insert_default().replicas = Some(sized.size);
            revision::annotate_replicas(&mut sized.set, desired, most);
        }
        actions.push(Action::update(&sized.set));
        if sized.size != sized.before {
            let direction = if sized.size > sized.before { "up" } else { "down" };
            let message = format!(
                "Scaled {direction} replica set {name} from {} to {}",
                sized.before, sized.size
            );
            let about = reference(seen.deployment.as_ref());
            actions.push(Action::event(about, EventType::Normal, "ScalingReplicaSet", message));
        }
    }
    actions
}

/// Deletes the oldest empty sets beyond `revisionHistoryLimit`.
fn clean_up(deployment: &Deployment, old: &[Sized]) -> Vec<Action> {
    let limit = deployment
        .spec
        .as_ref()
        .and_then(|s| s.revision_history_limit)
        .unwrap_or(10);
    if limit == i32::MAX {
        return Vec::new();
    }
    let mut alive: Vec<&Sized> = old
        .iter()
        .filter(|s| s.set.metadata.deletion_timestamp.is_none())
        .collect();
    let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.sort_by_key(|s| {
        (
            revision::of(&s.set.metadata),
            s.set.metadata.creation_timestamp.as_ref().map(|t| t.0),
        )
    });
    let observed = |s: &Sized| s.set.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
    alive
        .into_iter()
        .take(surplus)
        .filter(|s| s.actual() == 0 && s.size == 0 && s.set.metadata.generation.unwrap_or(0) <= observed(s))
        .map(|s| Action::delete(&s.set))
        .collect()
}
