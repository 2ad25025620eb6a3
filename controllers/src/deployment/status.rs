//! What a Deployment's status says. Pure: `now` is an argument; times are written in whole seconds.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use steersman_types::Time;
use steersman_types::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};

use super::decide::{Observed, Sized};
use super::rollout;
use crate::act::Action;

const PROGRESSING: &str = "Progressing";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

fn condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(second)),
        last_transition_time: Some(Time(second)),
    }
}

fn get<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn reason<'a>(status: &'a DeploymentStatus, kind: &str) -> &'a str {
    get(status, kind).and_then(|c| c.reason.as_deref()).unwrap_or_default()
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != kind);
    }
}

/// Replaces the condition unless status and reason are the same; keeps the transition time while the status stays.
fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(known) = get(status, &new.type_) {
        if known.status == new.status && known.reason == new.reason {
            return;
        }
        if known.status == new.status {
            new.last_transition_time = known.last_transition_time.clone();
        }
    }
    remove(status, &new.type_);
    status.conditions.get_or_insert_default().push(new);
}

fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment
        .spec
        .as_ref()
        .and_then(|s| s.progress_deadline_seconds)
        .filter(|d| *d != i32::MAX)
}

/// Pausing stops the clock of the deadline, resuming starts it anew.
pub(super) fn pause(deployment: &mut Deployment, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let paused = deployment.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
    let status = deployment.status.get_or_insert_default();
    let known = reason(status, PROGRESSING);
    if known == TIMED_OUT {
        return;
    }
    if paused && known != "DeploymentPaused" {
        set(
            status,
            condition(
                PROGRESSING,
                "Unknown",
                "DeploymentPaused",
                "Deployment is paused".into(),
                now,
            ),
        );
    } else if !paused && known == "DeploymentPaused" {
        set(
            status,
            condition(
                PROGRESSING,
                "Unknown",
                "DeploymentResumed",
                "Deployment is resumed".into(),
                now,
            ),
        );
    }
}

/// A set for the template was there without our doing: the clock starts now.
pub(super) fn found(deployment: &mut Deployment, name: &str, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let status = deployment.status.get_or_insert_default();
    if get(status, PROGRESSING).is_none() {
        let message = format!("Found new replica set {name:?}");
        set(
            status,
            condition(PROGRESSING, "True", "FoundNewReplicaSet", message, now),
        );
    }
}

pub(super) fn created(deployment: &mut Deployment, name: &str, now: Timestamp) {
    if deadline(deployment).is_some() {
        let message = format!("Created new replica set {name:?}");
        let status = deployment.status.get_or_insert_default();
        set(
            status,
            condition(PROGRESSING, "True", "NewReplicaSetCreated", message, now),
        );
    }
}

/// The write that reports a set that could not be created.
pub(super) fn creation_failed(deployment: &Deployment, message: String, now: Timestamp) -> Option<Action> {
    deadline(deployment)?;
    let mut deployment = deployment.clone();
    let status = deployment.status.get_or_insert_default();
    set(
        status,
        condition(PROGRESSING, "False", "ReplicaSetCreateError", message, now),
    );
    Some(Action::update_status(&deployment))
}

/// All replicas are of the present template, available and reported for the present generation.
pub(super) fn is_complete(deployment: &Deployment, status: Option<&DeploymentStatus>) -> bool {
    let wanted = rollout::replicas(deployment);
    let empty = DeploymentStatus::default();
    let status = status.unwrap_or(&empty);
    let number = |n: Option<i32>| n.unwrap_or(0);
    number(status.updated_replicas) == wanted
        && number(status.replicas) == wanted
        && number(status.available_replicas) == wanted
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

/// Counts and the Available condition; progress is left as it is (paused, or only scaled).
pub(super) fn scaled(
    deployment: &Deployment,
    sets: &[&Sized],
    new: Option<&Sized>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |of: &dyn Fn(&Sized) -> i32| sets.iter().fold(0i32, |total, s| total.saturating_add(of(s)));
    let available = sum(&|s| s.available());
    let ready = sum(&|s| s.set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0));
    let terminating: Option<i32> = sets
        .iter()
        .map(|s| s.set.status.as_ref().and_then(|s| s.terminating_replicas))
        .sum();
    let wanted = sum(&|s| s.before);
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(&|s| s.actual())),
        updated_replicas: Some(new.map_or(0, Sized::actual)),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        unavailable_replicas: Some(wanted.saturating_sub(available).max(0)),
        terminating_replicas: terminating,
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let minimum = rollout::replicas(deployment).saturating_sub(rollout::max_unavailable(deployment));
    let new = if available >= minimum {
        let text = "Deployment has minimum availability.";
        condition("Available", "True", "MinimumReplicasAvailable", text.into(), now)
    } else {
        let text = "Deployment does not have minimum availability.";
        condition("Available", "False", "MinimumReplicasUnavailable", text.into(), now)
    };
    set(&mut status, new);
    status
}

/// [`scaled`] plus the progress of a rollout.
pub(super) fn rolled_out(
    deployment: &Deployment,
    sets: &[&Sized],
    new: Option<&Sized>,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = scaled(deployment, sets, new, now);
    let before = deployment.status.clone().unwrap_or_default();
    let done = status.replicas == status.updated_replicas && reason(&before, PROGRESSING) == COMPLETE;
    match deadline(deployment) {
        None => remove(&mut status, PROGRESSING),
        Some(_) if done => {}
        Some(seconds) => progress(deployment, &before, &mut status, new, seconds, now),
    }
    // A failure of the new set, or else of any other, is the Deployment's.
    let failures = new.into_iter().chain(sets.iter().copied()).filter_map(|s| {
        s.set
            .status
            .as_ref()?
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "ReplicaFailure")
    });
    match failures.into_iter().next() {
        Some(failure) => set(
            &mut status,
            DeploymentCondition {
                type_: failure.type_.clone(),
                status: failure.status.clone(),
                reason: failure.reason.clone(),
                message: failure.message.clone(),
                last_transition_time: failure.last_transition_time.clone(),
                last_update_time: failure.last_transition_time.clone(),
            },
        ),
        None => remove(&mut status, "ReplicaFailure"),
    }
    status
}

fn progress(
    deployment: &Deployment,
    before: &DeploymentStatus,
    status: &mut DeploymentStatus,
    new: Option<&Sized>,
    seconds: i32,
    now: Timestamp,
) {
    let who = match new {
        Some(new) => format!("ReplicaSet {:?}", new.name()),
        None => format!(
            "Deployment {:?}",
            deployment.metadata.name.as_deref().unwrap_or_default()
        ),
    };
    let number = |n: Option<i32>| n.unwrap_or(0);
    let old_ones = |s: &DeploymentStatus| number(s.replicas) - number(s.updated_replicas);
    let moved = number(status.updated_replicas) > number(before.updated_replicas)
        || old_ones(status) < old_ones(before)
        || number(status.ready_replicas) > number(before.ready_replicas)
        || number(status.available_replicas) > number(before.available_replicas);
    if is_complete(deployment, Some(status)) {
        let message = format!("{who} has successfully progressed.");
        set(status, condition(PROGRESSING, "True", COMPLETE, message, now));
    } else if moved {
        let mut new = condition(
            PROGRESSING,
            "True",
            "ReplicaSetUpdated",
            format!("{who} is progressing."),
            now,
        );
        // Every bit of progress moves the update time, also with the same reason.
        if let Some(known) = get(before, PROGRESSING)
            && known.status == "True"
        {
            new.last_transition_time = known.last_transition_time.clone();
        }
        remove(status, PROGRESSING);
        set(status, new);
    } else if timed_out(status, seconds, now) {
        let message = format!("{who} has timed out progressing.");
        set(status, condition(PROGRESSING, "False", TIMED_OUT, message, now));
    }
}

fn timed_out(status: &DeploymentStatus, seconds: i32, now: Timestamp) -> bool {
    let Some(known) = get(status, PROGRESSING) else {
        return false;
    };
    match known.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => left(known, seconds, now).is_some_and(|left| left < SignedDuration::ZERO),
    }
}

fn left(known: &DeploymentCondition, seconds: i32, now: Timestamp) -> Option<SignedDuration> {
    let since = known.last_update_time.as_ref()?.0;
    Some(SignedDuration::from_secs(i64::from(seconds)) - now.duration_since(since))
}

/// When the deadline will have passed, if nothing moves until then.
pub(super) fn look_again(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let seconds = deadline(deployment)?;
    let known = get(status, PROGRESSING)?;
    if is_complete(deployment, Some(status)) || known.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let left = left(known, seconds, now)?.max(SignedDuration::ZERO) + SignedDuration::from_secs(1);
    Duration::try_from(left).ok()
}

/// The write of status and revision annotation, if one of both changed.
pub(super) fn write(seen: &Observed, mut deployment: Deployment, status: DeploymentStatus) -> Option<Action> {
    let before = seen.deployment.as_ref();
    let same_annotations = before.metadata.annotations.clone().unwrap_or_default()
        == deployment.metadata.annotations.clone().unwrap_or_default();
    if same_annotations && same(before.status.as_ref(), &status) {
        return None;
    }
    deployment.status = Some(status);
    Some(Action::update_status(&deployment))
}

/// Equal where an absent number is zero and absent conditions are none.
fn same(before: Option<&DeploymentStatus>, after: &DeploymentStatus) -> bool {
    let full = |s: &DeploymentStatus| {
        let zero = |n: Option<i32>| Some(n.unwrap_or(0));
        DeploymentStatus {
            available_replicas: zero(s.available_replicas),
            ready_replicas: zero(s.ready_replicas),
            replicas: zero(s.replicas),
            unavailable_replicas: zero(s.unavailable_replicas),
            updated_replicas: zero(s.updated_replicas),
            terminating_replicas: zero(s.terminating_replicas),
            observed_generation: Some(s.observed_generation.unwrap_or(0)),
            collision_count: s.collision_count,
            conditions: Some(s.conditions.clone().unwrap_or_default()),
        }
    };
    full(before.unwrap_or(&DeploymentStatus::default())) == full(after)
}
