//! Which pods and claims of a StatefulSet to create, change and delete. Pure.
//!
//! Words: *replicas* are the pods of the wanted numbers, there or still to be made; the *condemned* have other numbers;
//! *ordered* is the default management policy, under which one thing happens at a time and each pod waits for those
//! before it; *parallel* waits for nobody when scaling.
//!
//! A plan is a list of rounds. The steps of a round are independent of each other; a round begins when the one before
//! succeeded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use steersman_types::api::apps::v1::{StatefulSet, StatefulSetStatus};
use steersman_types::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};

use super::{member, retention};
use crate::deployment::rollout::scaled;
use crate::pods;

/// What the caches say about one set.
#[derive(Clone, Debug)]
pub struct Observed {
    pub set: Arc<StatefulSet>,
    /// The pods it owns.
    pub pods: Vec<Arc<Pod>>,
    /// Claims of its namespace, by name; those that its pods could use are enough.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    pub now: Timestamp,
}

/// A template and the name of the revision that holds it.
#[derive(Clone, Debug)]
pub struct Version {
    pub name: String,
    pub template: PodTemplateSpec,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Claims first, then the pod.
    Create {
        pod: Box<Pod>,
        claims: Vec<PersistentVolumeClaim>,
    },
    /// The pod cannot be made now; the text says why.
    Fail {
        pod: String,
        error: String,
    },
    /// A pending pod lacks claims.
    Claims {
        pod: String,
        claims: Vec<PersistentVolumeClaim>,
    },
    /// The claim gets other owners.
    Own {
        pod: String,
        claim: Box<PersistentVolumeClaim>,
        /// Somebody else controls it, which is worth an event.
        rival: bool,
    },
    /// The pod's labels or volumes are not those of its number.
    Correct {
        pod: Box<Pod>,
    },
    Delete {
        pod: Arc<Pod>,
    },
}

/// What to do, and the status to write if it differs from the set's.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub rounds: Vec<Vec<Step>>,
    pub status: StatefulSetStatus,
    pub again: Option<Duration>,
}

/// A replica: there, or to be made.
enum Replica {
    There(Arc<Pod>),
    New(Box<Pod>),
}

impl Replica {
    fn pod(&self) -> &Pod {
        match self {
            Self::There(pod) => pod,
            Self::New(pod) => pod,
        }
    }
}

struct View<'a> {
    seen: &'a Observed,
    set: &'a StatefulSet,
    min_ready: i32,
    ordered: bool,
}

impl View<'_> {
    fn ready(pod: &Pod) -> bool {
        pods::phase(pod) == "Running" && pods::is_ready(pod)
    }

    fn available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready, self.seen.now)
    }

    fn unavailable(&self, pod: &Pod) -> bool {
        !self.available(pod) || pods::is_terminating(pod) || pods::is_finished(pod)
    }

    fn claim(&self, name: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        self.seen.claims.get(name)
    }

    /// Claims of the pod that do not exist; an error when one is on its way out.
    fn missing_claims(&self, ordinal: i64) -> Result<Vec<PersistentVolumeClaim>, String> {
        let mut missing = Vec::new();
        for claim in member::claims(self.set, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            match self.claim(&name) {
                None => missing.push(claim),
                Some(there) if there.metadata.deletion_timestamp.is_some() => {
                    return Err(format!("pvc {name} is being deleted"));
                }
                Some(_) => {}
            }
        }
        Ok(missing)
    }

    /// Claims of the pod with other owners than the policy wants.
    fn ownership(&self, pod: &Pod) -> Vec<Step> {
        let Some(ordinal) = member::ordinal(pod) else {
            return Vec::new();
        };
        let name = pod.metadata.name.clone().unwrap_or_default();
        let claims = member::claim_names(self.set, ordinal);
        let claims = claims.values().filter_map(|claim| self.claim(claim));
        claims
            .filter_map(|claim| {
                let corrected = retention::corrected(self.set, pod, claim)?;
                Some(Step::Own {
                    pod: name.clone(),
                    claim: Box::new(corrected),
                    rival: retention::has_rival(self.set, pod, claim),
                })
            })
            .collect()
    }
}

/// The plan of one run. `current` is the revision that pods outside of an update have, `update` the present template's.
#[must_use]
pub fn decide(seen: &Observed, current: &Version, update: &Version) -> Plan {
    let set = seen.set.as_ref();
    let spec = set.spec.as_ref();
    let view = View {
        seen,
        set,
        min_ready: spec.and_then(|s| s.min_ready_seconds).unwrap_or(0),
        ordered: spec.and_then(|s| s.pod_management_policy.as_deref()) != Some("Parallel"),
    };
    let mut plan = Plan {
        status: status(&view, current, update),
        again: pods::next_available(seen.pods.iter().map(Arc::as_ref), view.min_ready, seen.now),
        ..Plan::default()
    };
    if set.metadata.deletion_timestamp.is_none() {
        let (replicas, condemned) = partition(&view, current, update);
        if scale(&view, &replicas, &condemned, &mut plan.rounds) {
            let deleted = roll(&view, &replicas, update);
            let count = i32::try_from(deleted.len()).unwrap_or(i32::MAX);
            let left = plan.status.current_replicas.unwrap_or(0).saturating_sub(count);
            plan.status.current_replicas = Some(left.max(0));
            plan.rounds.push(deleted);
        }
    }
    plan.rounds.retain(|round| !round.is_empty());
    complete(set, &mut plan.status);
    plan
}

/// Replicas in order of their numbers, and the condemned from the highest number down.
fn partition(view: &View<'_>, current: &Version, update: &Version) -> (Vec<Replica>, Vec<Arc<Pod>>) {
    let set = view.set;
    let count = member::window(set, &view.seen.pods);
    let mut there: Vec<Option<Arc<Pod>>> = vec![None; count];
    let mut condemned = Vec::new();
    for pod in &view.seen.pods {
        // A pod whose name has no number is nobody's.
        let Some(ordinal) = member::ordinal(pod) else { continue };
        match member::position(set, ordinal).and_then(|i| there.get_mut(i)) {
            Some(slot) => *slot = Some(pod.clone()),
            None => condemned.push((ordinal, pod.clone())),
        }
    }
    condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    let replicas = there
        .into_iter()
        .zip(member::first(set)..)
        .map(|(pod, ordinal)| match pod {
            Some(pod) => Replica::There(pod),
            None => {
                let version = if stays_current(set, ordinal) { current } else { update };
                Replica::New(Box::new(member::pod(set, &version.template, &version.name, ordinal)))
            }
        });
    (replicas.collect(), condemned.into_iter().map(|(_, pod)| pod).collect())
}

/// Whether a pod of this number is made from the current revision rather than from the update.
fn stays_current(set: &StatefulSet, ordinal: i64) -> bool {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let below = match (rolling, strategy.and_then(|s| s.type_.as_deref())) {
        (Some(rolling), _) => rolling.partition.unwrap_or(0),
        (None, Some("RollingUpdate")) => set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
        (None, _) => return false,
    };
    ordinal < member::first(set) + i64::from(below)
}

/// Brings the number of pods to the wanted one. Returns whether nothing is in the way of an update.
fn scale(view: &View<'_>, replicas: &[Replica], condemned: &[Arc<Pod>], rounds: &mut Vec<Vec<Step>>) -> bool {
    let mut steps = Vec::new();
    for replica in replicas {
        let goes_on = keep(view, replica, &mut steps);
        if view.ordered && !goes_on {
            rounds.push(steps);
            return false;
        }
    }
    let failed = steps.iter().any(|s| matches!(s, Step::Fail { .. }));
    rounds.push(steps);
    if failed {
        return false;
    }
    rounds.push(condemned.iter().flat_map(|pod| view.ownership(pod)).collect());
    // A finished pod will never be healthy: nobody waits for it (upstream's controller does, and with two of them forever).
    let hopeful = condemned.iter().rev().filter(|pod| !pods::is_finished(pod));
    let mut first_unhealthy = replicas.iter().map(Replica::pod).chain(hopeful.map(Arc::as_ref));
    let first_unhealthy = first_unhealthy
        .find(|pod| view.unavailable(pod))
        .map(|pod| pod.metadata.name.clone());
    let mut deletions = Vec::new();
    for pod in condemned {
        if !pods::is_terminating(pod) {
            let healthy = View::ready(pod) && view.available(pod) || pods::is_finished(pod);
            // An unhealthy pod must not be what the others wait for.
            if view.ordered && !healthy && first_unhealthy.as_ref() != Some(&pod.metadata.name) {
                return false;
            }
            deletions.push(Step::Delete { pod: pod.clone() });
        }
        if view.ordered {
            rounds.push(deletions);
            return false;
        }
    }
    rounds.push(deletions);
    true
}

/// What one replica needs. Returns whether the next one may be looked at in ordered management.
fn keep(view: &View<'_>, replica: &Replica, steps: &mut Vec<Step>) -> bool {
    let pod = replica.pod();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let ordinal = member::ordinal(pod).unwrap_or(0);
    let there = match replica {
        Replica::New(pod) => {
            let claims = member::claim_names(view.set, ordinal);
            let mut claims = claims.values().filter_map(|claim| view.claim(claim));
            if claims.any(|claim| retention::blocks_creation(view.set, pod, claim)) {
                return false;
            }
            steps.push(match view.missing_claims(ordinal) {
                Err(error) => Step::Fail { pod: name, error },
                Ok(claims) => Step::Create {
                    pod: pod.clone(),
                    claims,
                },
            });
            return false;
        }
        Replica::There(pod) => pod,
    };
    if pods::is_finished(pod) {
        // Evicted and rebooted pods end either way: always started again, when the old one is gone.
        if !pods::is_terminating(pod) {
            steps.push(Step::Delete { pod: there.clone() });
        }
        return false;
    }
    if pods::phase(pod) == "Pending" {
        match view.missing_claims(ordinal) {
            Ok(claims) if claims.is_empty() => {}
            Ok(claims) => steps.push(Step::Claims { pod: name, claims }),
            Err(error) => {
                steps.push(Step::Fail { pod: name, error });
                return false;
            }
        }
        steps.extend(view.ownership(pod));
    }
    let waits = pods::is_terminating(pod) || !View::ready(pod) || !view.available(pod);
    if waits && view.ordered {
        return false;
    }
    if pods::phase(pod) != "Pending" {
        steps.extend(view.ownership(pod));
    }
    if !member::has_identity(view.set, pod) || !member::has_storage(view.set, pod) {
        let mut corrected = there.as_ref().clone();
        member::identify(&mut corrected, ordinal);
        if !member::has_storage(view.set, pod) {
            member::store(view.set, &mut corrected, ordinal);
        }
        steps.push(Step::Correct {
            pod: Box::new(corrected),
        });
    }
    true
}

/// Deletes pods of another revision, from the highest number down, so that they are made anew.
fn roll(view: &View<'_>, replicas: &[Replica], update: &Version) -> Vec<Step> {
    let strategy = view.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return Vec::new();
    }
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let partition = usize::try_from(rolling.and_then(|r| r.partition).unwrap_or(0)).unwrap_or(0);
    let targets = replicas.iter().skip(partition).rev();
    let outdated =
        |replica: &&Replica| member::revision(replica.pod()) != update.name && !pods::is_terminating(replica.pod());
    let delete = |replica: &Replica| match replica {
        Replica::There(pod) => Some(Step::Delete { pod: pod.clone() }),
        Replica::New(_) => None,
    };
    if let Some(limit) = rolling.and_then(|r| r.max_unavailable.as_ref()) {
        let total = i32::try_from(replicas.len()).unwrap_or(i32::MAX);
        let limit = usize::try_from(scaled(Some(limit), total, false)).unwrap_or(0).max(1);
        let missing = replicas.iter().filter(|r| view.unavailable(r.pod())).count();
        return targets
            .filter(outdated)
            .take(limit.saturating_sub(missing))
            .filter_map(delete)
            .collect();
    }
    for target in targets {
        if outdated(&target) {
            return delete(target).into_iter().collect();
        }
        if view.unavailable(target.pod()) {
            return Vec::new();
        }
    }
    Vec::new()
}

/// The status as observed.
fn status(view: &View<'_>, current: &Version, update: &Version) -> StatefulSetStatus {
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(view.seen.pods.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let created = |pod: &Pod| !pods::phase(pod).is_empty();
    let of = |pod: &Pod, version: &Version| {
        created(pod) && !pods::is_terminating(pod) && member::revision(pod) == version.name
    };
    let old = view.set.status.clone().unwrap_or_default();
    StatefulSetStatus {
        observed_generation: view.set.metadata.generation,
        replicas: count(&created),
        ready_replicas: Some(count(&View::ready)),
        available_replicas: Some(count(&|pod| View::ready(pod) && view.available(pod))),
        current_replicas: Some(count(&|pod| of(pod, current))),
        updated_replicas: Some(count(&|pod| of(pod, update))),
        current_revision: Some(current.name.clone()),
        update_revision: Some(update.name.clone()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions,
    }
}

/// When every replica has the update, it is what is current.
fn complete(set: &StatefulSet, status: &mut StatefulSetStatus) {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let rolling = strategy.and_then(|s| s.type_.as_deref()) == Some("RollingUpdate");
    let wanted = i32::try_from(member::replicas(set)).unwrap_or(i32::MAX);
    let all =
        status.updated_replicas == Some(wanted) && status.ready_replicas == Some(wanted) && status.replicas == wanted;
    if rolling && all {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
}

/// Whether the status on the server is another one.
#[must_use]
pub fn differs(old: Option<&StatefulSetStatus>, new: &StatefulSetStatus) -> bool {
    let Some(old) = old else { return true };
    let numbers = |s: &StatefulSetStatus| {
        [
            Some(s.replicas),
            s.ready_replicas,
            s.available_replicas,
            s.current_replicas,
            s.updated_replicas,
            s.collision_count,
        ]
        .map(|n| n.unwrap_or(0))
    };
    numbers(old) != numbers(new)
        || old.observed_generation < new.observed_generation
        || old.current_revision != new.current_revision
        || old.update_revision != new.update_revision
}
