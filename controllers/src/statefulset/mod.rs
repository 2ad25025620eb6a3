//! Keeps a StatefulSet's pods: each with a number, a name and claims of its own, made in order and removed in reverse.
//!
//! Owns: pods and controllerrevisions that its selector selects, and, where its retention policy says so, claims. Watches:
//! statefulsets, pods, controllerrevisions, persistentvolumeclaims. Writes: pods, persistentvolumeclaims,
//! controllerrevisions, statefulsets/status, events. [`member`] knows a pod's identity, [`retention`] who owns a claim,
//! [`decide`] what to do next, [`past`] which revisions there are; this file does it.
//!
//! What stays true: a number never has two pods (a pod is made only when its name is free, deleted only by its UID, and
//! nothing is decided before the caches show the last writes); in ordered management a pod is made or removed only
//! when all before it are available.

pub mod decide;
pub mod member;
mod past;
pub mod retention;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use steersman_runtime::client::ApiError;
use steersman_runtime::events::{EventType, reference};
use steersman_runtime::informer::IndexId;
use steersman_runtime::{Event, Informer, Key, WorkQueue};
use steersman_types::api::apps::v1::{ControllerRevision, StatefulSet};
use steersman_types::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::act::{Action, Executor, Written};
use crate::context::Context;
use crate::own::OwnWrites;
use crate::owners::Claims;
use crate::{history, labels, owners};
use decide::{Observed, Step, Version, decide};
use past::Update;

const WORKERS: usize = 5;
/// After a conflict.
const AGAIN: Duration = Duration::from_millis(20);
/// Steps of a parallel set at the same time.
const IN_FLIGHT: usize = 32;
/// Revisions of other templates with the same name before giving up until later.
const COLLISIONS: i32 = 16;

struct Sets {
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    revisions: Informer<ControllerRevision>,
    orphans: IndexId,
    orphan_revisions: IndexId,
    executor: Executor,
    own: OwnWrites<Key>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let sets = context.informers.of::<StatefulSet>();
        let pods = context.informers.of::<Pod>();
        let claims = context.informers.of::<PersistentVolumeClaim>();
        let revisions = context.informers.of::<ControllerRevision>();
        let own = OwnWrites::new([
            ("statefulsets", sets.progress()),
            ("pods", pods.progress()),
            ("persistentvolumeclaims", claims.progress()),
            ("controllerrevisions", revisions.progress()),
        ]);
        let this = Arc::new(Sets {
            orphans: owners::orphans(&pods),
            orphan_revisions: owners::orphans(&revisions),
            executor: context.executor("statefulset-controller"),
            sets,
            pods,
            claims,
            revisions,
            own,
        });
        this.sets.synced().await;
        this.pods.synced().await;
        this.claims.synced().await;
        this.revisions.synced().await;
        let queue = context.queue();
        this.watch(&queue);
        queue
            .run("StatefulSet", WORKERS, move |key| reconcile(this.clone(), key))
            .await;
        Ok(())
    })
}

fn selects(set: &StatefulSet, labels: Option<&BTreeMap<String, String>>) -> bool {
    labels::selects(set.spec.as_ref().map(|s| &s.selector), labels)
}

fn name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

impl Sets {
    fn watch(&self, queue: &WorkQueue<Key>) {
        let adding = queue.clone();
        self.sets
            .on_event(move |event| adding.add(Key::of(event.object().as_ref())));
        owners::follow(&self.pods, &self.sets, queue.clone(), |set: &StatefulSet, meta| {
            selects(set, meta.labels.as_ref())
        });
        // A pod may wait until a claim of that name is gone.
        let (adding, sets) = (queue.clone(), self.sets.clone());
        self.claims.on_event(move |event| {
            let Event::Deleted(claim) = event else { return };
            for set in sets.list_in(claim.metadata.namespace.as_deref().unwrap_or_default()) {
                let templates = set.spec.iter().flat_map(|s| s.volume_claim_templates.iter().flatten());
                let mut prefixes =
                    templates.filter_map(|t| Some(format!("{}-{}-", t.metadata.name.as_ref()?, name(&set))));
                let claim = claim.metadata.name.as_deref().unwrap_or_default();
                if prefixes.any(|prefix| claim.starts_with(&prefix)) {
                    adding.add(Key::of(set.as_ref()));
                }
            }
        });
    }

    fn pods_of(&self, set: &StatefulSet, key: &Key) -> Claims<Pod> {
        let mut pods = self.pods.owned_by(set.metadata.uid.as_deref().unwrap_or_default());
        pods.extend(self.pods.by_index(self.orphans, &key.namespace));
        Claims::sort(pods, &set.metadata, |pod: &Pod| {
            selects(set, pod.metadata.labels.as_ref()) && member::is_member(set, pod)
        })
    }

    fn revisions_of(&self, set: &StatefulSet, key: &Key) -> Claims<ControllerRevision> {
        let mut revisions = self.revisions.owned_by(set.metadata.uid.as_deref().unwrap_or_default());
        revisions.extend(self.revisions.by_index(self.orphan_revisions, &key.namespace));
        Claims::sort(revisions, &set.metadata, |r: &ControllerRevision| {
            selects(set, r.metadata.labels.as_ref())
        })
    }

    /// Claims with the names that pods of the set have or will have.
    fn claims_of(
        &self,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        key: &Key,
    ) -> BTreeMap<String, Arc<PersistentVolumeClaim>> {
        let count = i64::try_from(member::window(set, pods)).unwrap_or(i64::MAX);
        let wanted = member::first(set)..member::first(set).saturating_add(count);
        let condemned = pods
            .iter()
            .filter_map(|pod| member::ordinal(pod))
            .filter(|n| !wanted.contains(n));
        let templates = set.spec.as_ref().and_then(|s| s.volume_claim_templates.as_ref());
        if templates.is_none_or(Vec::is_empty) {
            return BTreeMap::new();
        }
        wanted
            .clone()
            .chain(condemned)
            .flat_map(|ordinal| member::claim_names(set, ordinal).into_values())
            .filter_map(|name| Some((name.clone(), self.claims.get(&key.namespace, &name)?)))
            .collect()
    }

    /// The revision of the present template, and how many collisions of names there were.
    async fn settle_history(
        &self,
        key: &Key,
        set: &StatefulSet,
        update: Update,
    ) -> Result<(ControllerRevision, i32), ApiError> {
        let mut collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let number = match update {
            Update::Is(revision) => return Ok((revision.as_ref().clone(), collisions)),
            Update::Renumber(revision) => {
                let written = self.executor.one(Action::update(revision.as_ref())).await?;
                self.own.wrote(key, &[written]);
                return Ok((*revision, collisions));
            }
            Update::Create(number) => number,
        };
        let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let data = history::patch(&template);
        for _ in 0..COLLISIONS {
            let hash = history::hash(&data, Some(collisions));
            let revision = history::new(set, &template, number, history::HASH, &hash);
            if let Some((created, written)) = history::create(&self.executor, &revision, &template).await? {
                self.own.wrote(key, &written);
                return Ok((created, collisions));
            }
            collisions = collisions.saturating_add(1);
        }
        Err(ApiError::Decode(format!("no free name for a revision of {key}")))
    }

    /// The rounds in order; within one, steps in growing batches, or one by one.
    async fn act(&self, key: &Key, set: &StatefulSet, rounds: Vec<Vec<Step>>) -> Result<(), String> {
        let ordered = set.spec.as_ref().and_then(|s| s.pod_management_policy.as_deref()) != Some("Parallel");
        for round in rounds {
            let mut steps = round.into_iter();
            let mut batch = 1;
            while steps.len() > 0 {
                let now: Vec<Step> = steps.by_ref().take(batch).collect();
                let outcomes: Vec<_> = futures::stream::iter(now)
                    .map(|step| self.step(key, set, step))
                    .buffered(IN_FLIGHT)
                    .collect()
                    .await;
                outcomes.into_iter().collect::<Result<Vec<()>, String>>()?;
                if !ordered {
                    batch *= 2;
                }
            }
        }
        Ok(())
    }

    async fn step(&self, key: &Key, set: &StatefulSet, step: Step) -> Result<(), String> {
        match step {
            Step::Create { pod, claims } => {
                let name = pod.metadata.name.clone().unwrap_or_default();
                if let Err(error) = self.create_claims(key, set, &name, claims).await {
                    return self.told(set, "Create", &name, Err(error)).await;
                }
                match self.executor.one(Action::create(pod.as_ref())).await {
                    // The cache is behind, or somebody else's pod is in the way.
                    Err(error) if error.is_already_exists() => Err(error.to_string()),
                    outcome => self.noted(key, set, "Create", &name, outcome).await,
                }
            }
            Step::Fail { pod, error } => self.told(set, "Create", &pod, Err(error)).await,
            Step::Claims { pod, claims } => self.create_claims(key, set, &pod, claims).await,
            Step::Own { pod, claim, rival } => self.own_claim(key, set, &pod, &claim, rival).await,
            Step::Correct { pod } => {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let outcome = self.executor.one(Action::update(pod.as_ref())).await;
                self.noted(key, set, "Update", &name, outcome).await
            }
            Step::Delete { pod } => {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let outcome = self.executor.one(Action::delete(pod.as_ref())).await;
                self.noted(key, set, "Delete", &name, outcome).await
            }
        }
    }

    async fn create_claims(
        &self,
        key: &Key,
        set: &StatefulSet,
        pod: &str,
        claims: Vec<PersistentVolumeClaim>,
    ) -> Result<(), String> {
        let mut errors = Vec::new();
        for claim in claims {
            let (owner, claim_name) = (name(set), claim.metadata.name.clone().unwrap_or_default());
            let (kind, reason, message) = match self.executor.one(Action::create(&claim)).await {
                Ok(written) => {
                    self.own.wrote(key, &[written]);
                    let message = format!("Create Claim {claim_name} Pod {pod} in StatefulSet {owner} success");
                    (EventType::Normal, "SuccessfulCreate", message)
                }
                Err(error) => {
                    errors.push(format!("failed to create PVC {claim_name}: {error}"));
                    if error.is_already_exists() {
                        continue;
                    }
                    let message =
                        format!("Create Claim {claim_name} for Pod {pod} in StatefulSet {owner} failed error: {error}");
                    (EventType::Warning, "FailedCreate", message)
                }
            };
            let _ = self
                .executor
                .one(Action::event(reference(set), kind, reason, message))
                .await;
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    async fn own_claim(
        &self,
        key: &Key,
        set: &StatefulSet,
        pod: &str,
        claim: &PersistentVolumeClaim,
        rival: bool,
    ) -> Result<(), String> {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        if rival {
            let message = format!(
                "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim"
            );
            let note = Action::event(reference(set), EventType::Warning, "ConflictingController", message);
            let _ = self.executor.one(note).await;
        }
        match self.executor.one(Action::update(claim)).await {
            Ok(written) => {
                self.own.wrote(key, &[written]);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                let error = format!("could not update claim {name} for delete policy ownerRefs: {error}");
                self.told(set, "Update", pod, Err(error)).await
            }
        }
    }

    async fn noted(
        &self,
        key: &Key,
        set: &StatefulSet,
        verb: &'static str,
        pod: &str,
        outcome: Result<Written, ApiError>,
    ) -> Result<(), String> {
        let outcome = outcome.map(|written| self.own.wrote(key, &[written]));
        self.told(set, verb, pod, outcome.map_err(|e| e.to_string())).await
    }

    /// Records the event about a pod.
    async fn told(
        &self,
        set: &StatefulSet,
        verb: &'static str,
        pod: &str,
        outcome: Result<(), String>,
    ) -> Result<(), String> {
        let (good, bad) = match verb {
            "Create" => ("SuccessfulCreate", "FailedCreate"),
            "Delete" => ("SuccessfulDelete", "FailedDelete"),
            _ => ("SuccessfulUpdate", "FailedUpdate"),
        };
        let about = format!("{verb} Pod {pod} in StatefulSet {}", name(set));
        let (kind, reason, message) = match &outcome {
            Ok(()) => (EventType::Normal, good, format!("{about} successful")),
            Err(error) => (EventType::Warning, bad, format!("{about} failed error: {error}")),
        };
        let _ = self
            .executor
            .one(Action::event(reference(set), kind, reason, message))
            .await;
        outcome
    }
}

async fn reconcile(this: Arc<Sets>, key: Key) -> Result<Option<Duration>, String> {
    this.own.seen(&key).await?;
    let Some(set) = this.sets.get_key(&key) else {
        return Ok(None);
    };
    let (pods, revisions) = (this.pods_of(&set, &key), this.revisions_of(&set, &key));
    if pods.pending() || !revisions.adopt.is_empty() {
        let (mut written, failure) = owners::settle(&this.executor, set.as_ref(), &pods.adopt, &pods.release).await;
        let (more, failed) = owners::settle(&this.executor, set.as_ref(), &revisions.adopt, &[]).await;
        written.extend(more);
        this.own.wrote(&key, &written);
        return match failure.or(failed) {
            Some(error) => Err(error.to_string()),
            // Decide when the caches show who belongs to whom.
            None => Ok(Some(Duration::from_millis(1))),
        };
    }
    let past = past::sort(&set, revisions.own);
    let (update, collisions) = match this.settle_history(&key, &set, past.update).await {
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) if error.is_conflict() => return Ok(Some(AGAIN)),
        outcome => outcome.map_err(|e| e.to_string())?,
    };
    let current = past.current.as_deref().unwrap_or(&update);
    let version = |revision: &ControllerRevision| {
        let name = revision.metadata.name.clone().unwrap_or_default();
        let template = history::template(revision).ok_or_else(|| format!("revision {name} holds no template"))?;
        Ok::<_, String>(Version { name, template })
    };
    let (current, update) = (version(current)?, version(&update)?);
    let seen = Observed {
        claims: this.claims_of(&set, &pods.own, &key),
        pods: pods.own,
        now: Timestamp::now(),
        set,
    };
    let mut plan = decide(&seen, &current, &update);
    plan.status.collision_count = Some(collisions);
    let failure = this.act(&key, &seen.set, plan.rounds).await;
    let mut actions = Vec::new();
    if decide::differs(seen.set.status.as_ref(), &plan.status) {
        actions.push(Action::update_status(&StatefulSet {
            status: Some(plan.status),
            ..seen.set.as_ref().clone()
        }));
    }
    let surplus = past::surplus(&seen.set, &past.revisions, &seen.pods, [&current.name, &update.name]);
    actions.extend(surplus.iter().map(|revision| Action::delete(revision.as_ref())));
    let (written, outcome) = this.executor.run(actions).await;
    this.own.wrote(&key, &written);
    failure?;
    match outcome {
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) if error.is_conflict() => Ok(Some(AGAIN)),
        Err(error) => Err(error.to_string()),
        Ok(()) => Ok(plan.again),
    }
}
