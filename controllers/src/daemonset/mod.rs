//! Runs one pod of a DaemonSet on every node that its template accepts.
//!
//! Owns: pods and controllerrevisions that its selector selects. Watches: daemonsets, pods, nodes, controllerrevisions.
//! Writes: pods, controllerrevisions, daemonsets/status, events. [`place`] says where pods belong, [`decide`] what to do,
//! [`past`] which revision the template is; this file does it.
//!
//! What stays true: pods are bound by the default scheduler (a pod's affinity names its node); without surge there is never
//! more than one pod that is not being deleted per node; a pod that failed on a node is replaced after a pause that doubles
//! from one second to fifteen minutes.

pub mod decide;
mod past;
pub mod place;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use steersman_runtime::client::{ApiError, Patch};
use steersman_runtime::events::{EventType, reference};
use steersman_runtime::informer::IndexId;
use steersman_runtime::{Event, Informer, Key, WorkQueue};
use steersman_types::ObjectMeta;
use steersman_types::api::apps::v1::{ControllerRevision, DaemonSet};
use steersman_types::api::core::v1::{Node, Pod};
use tokio::time::Instant;
use tracing::info;

use crate::act::{Action, Executor, Written};
use crate::context::Context;
use crate::own::OwnWrites;
use crate::owners::Claims;
use crate::{fleet, history, labels, owners, templates};
use decide::{Observed, Plan, decide};

const WORKERS: usize = 2;
/// After a conflict.
const AGAIN: Duration = Duration::from_millis(20);
/// The pause before a failed pod is replaced.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// A set by UID and the generation that was acted upon, and a node.
type PauseKey = (String, i64, String);

struct Daemons {
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    orphans: IndexId,
    orphan_revisions: IndexId,
    executor: Executor,
    own: OwnWrites<Key>,
    /// The last pause per node, and when it began.
    pauses: Mutex<HashMap<PauseKey, (Duration, Instant)>>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let sets = context.informers.of::<DaemonSet>();
        let pods = context.informers.of::<Pod>();
        let nodes = context.informers.of::<Node>();
        let revisions = context.informers.of::<ControllerRevision>();
        let own = OwnWrites::new([
            ("daemonsets", sets.progress()),
            ("pods", pods.progress()),
            ("controllerrevisions", revisions.progress()),
        ]);
        let this = Arc::new(Daemons {
            orphans: owners::orphans(&pods),
            orphan_revisions: owners::orphans(&revisions),
            executor: context.executor("daemonset-controller"),
            sets,
            pods,
            nodes,
            revisions,
            own,
            pauses: Mutex::default(),
        });
        this.sets.synced().await;
        this.pods.synced().await;
        this.nodes.synced().await;
        this.revisions.synced().await;
        let queue = context.queue();
        this.watch(&queue);
        queue
            .run("DaemonSet", WORKERS, move |key| reconcile(this.clone(), key))
            .await;
        Ok(())
    })
}

fn selects(set: &DaemonSet, labels: Option<&BTreeMap<String, String>>) -> bool {
    labels::selects(set.spec.as_ref().map(|s| &s.selector), labels)
}

impl Daemons {
    fn watch(&self, queue: &WorkQueue<Key>) {
        let adding = queue.clone();
        self.sets
            .on_event(move |event| adding.add(Key::of(event.object().as_ref())));
        owners::follow(&self.pods, &self.sets, queue.clone(), |set: &DaemonSet, meta| {
            selects(set, meta.labels.as_ref())
        });
        // A revision that appears with an owner is our own work, or somebody's who may still be at it (upstream looks at
        // it with the next change only, too).
        let matters = |event: &Event<ControllerRevision>| !matches!(event, Event::Added(revision) if owners::controller_of(&revision.metadata).is_some());
        let selecting = |set: &DaemonSet, meta: &ObjectMeta| selects(set, meta.labels.as_ref());
        owners::follow_some(&self.revisions, &self.sets, queue.clone(), selecting, matters);
        let (adding, sets) = (queue.clone(), self.sets.clone());
        self.nodes.on_event(move |event| {
            for set in sets.list() {
                if node_matters(&set, event) {
                    adding.add(Key::of(set.as_ref()));
                }
            }
        });
    }

    fn revisions_of(&self, set: &DaemonSet, key: &Key) -> Claims<ControllerRevision> {
        let mut revisions = self.revisions.owned_by(set.metadata.uid.as_deref().unwrap_or_default());
        revisions.extend(self.revisions.by_index(self.orphan_revisions, &key.namespace));
        Claims::sort(revisions, &set.metadata, |r: &ControllerRevision| {
            selects(set, r.metadata.labels.as_ref())
        })
    }

    fn pods_of(&self, set: &DaemonSet, key: &Key) -> Claims<Pod> {
        let mut pods = self.pods.owned_by(set.metadata.uid.as_deref().unwrap_or_default());
        pods.extend(self.pods.by_index(self.orphans, &key.namespace));
        Claims::sort(pods, &set.metadata, |pod: &Pod| {
            selects(set, pod.metadata.labels.as_ref())
        })
    }

    /// Pauses of the set that are still running.
    fn pauses_of(&self, set: &DaemonSet) -> BTreeMap<String, Duration> {
        let (uid, generation) = identity(set);
        let pauses = self.pauses.lock();
        let mine = pauses.iter().filter(|((u, g, _), _)| *u == uid && *g == generation);
        mine.filter_map(|((_, _, node), (pause, since))| {
            let left = pause.checked_sub(since.elapsed()).filter(|left| !left.is_zero())?;
            Some((node.clone(), left))
        })
        .collect()
    }

    /// A pod failed on a node: the next pause is twice as long, unless it was quiet for long.
    fn pause(&self, set: &DaemonSet, node: &str) {
        let (uid, generation) = identity(set);
        let mut pauses = self.pauses.lock();
        pauses.retain(|_, (_, since)| since.elapsed() < LONGEST_PAUSE * 2);
        let entry = pauses.entry((uid, generation, node.to_owned()));
        entry
            .and_modify(|(pause, since)| {
                *pause = (*pause * 2).min(LONGEST_PAUSE);
                *since = Instant::now();
            })
            .or_insert((PAUSE, Instant::now()));
    }

    async fn update_revision(&self, revision: &ControllerRevision) -> Result<Written, ApiError> {
        self.executor.one(Action::update(revision)).await
    }

    /// The hash of the revision that the template is, which is made or renumbered when it has to be.
    async fn settle_history(
        &self,
        key: &Key,
        set: &DaemonSet,
        past: &past::Past,
        pods: &[Arc<Pod>],
    ) -> Result<String, ApiError> {
        let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let Some(current) = &past.current else {
            let collisions = set.status.as_ref().and_then(|s| s.collision_count);
            let hash = templates::hash(&template, collisions);
            let revision = history::new(set, &template, past.number, place::HASH, &hash);
            let Some((_, written)) = history::create(&self.executor, &revision, &template).await? else {
                self.count_collision(key, set).await?;
                return Err(ApiError::Decode(format!("hash collision of {key}'s revisions")));
            };
            self.own.wrote(key, &written);
            return Ok(hash);
        };
        let hash = past::hash(current);
        for pod in pods.iter().filter(|_| !past.duplicates.is_empty()) {
            if pod.metadata.labels.as_ref().and_then(|l| l.get(place::HASH)) != Some(&hash) {
                let patch = serde_json::json!({"metadata": {"labels": {place::HASH: hash}}});
                let action = Action::patch(pod.as_ref(), None, Patch::Merge(patch));
                self.own.wrote(key, &[self.executor.one(action).await?]);
            }
        }
        for duplicate in &past.duplicates {
            let written = self.executor.one(Action::delete(duplicate.as_ref())).await?;
            self.own.wrote(key, &[written]);
        }
        if current.revision < past.number {
            let written = self.update_revision(&history::renumbered(current, past.number)).await?;
            self.own.wrote(key, &[written]);
        }
        Ok(hash)
    }

    /// Another template has the same hash: the count becomes part of it from now on.
    async fn count_collision(&self, key: &Key, set: &DaemonSet) -> Result<(), ApiError> {
        let mut counted = set.clone();
        let status = counted.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
        info!(daemonset = %key, "Found a hash collision for DaemonSet - bumping collisionCount to resolve it");
        let written = self.executor.one(Action::update_status(&counted)).await?;
        self.own.wrote(key, &[written]);
        Ok(())
    }

    async fn act(&self, key: &Key, set: &DaemonSet, plan: Plan, hash: &str) -> Option<ApiError> {
        let about = reference(set);
        let mut notes = Vec::new();
        for ended in &plan.ended {
            let (namespace, name) = (&key.namespace, ended.pod.metadata.name.as_deref().unwrap_or_default());
            let (kind, reason, state, verb) = if ended.failed {
                self.pause(set, &ended.node);
                (EventType::Warning, "FailedDaemonPod", "failed", "kill")
            } else {
                (EventType::Normal, "SucceededDaemonPod", "succeeded", "delete")
            };
            let node = &ended.node;
            let message = format!("Found {state} daemon pod {namespace}/{name} on node {node}, will try to {verb} it");
            notes.push(Action::event(about.clone(), kind, reason, message));
        }
        let _ = self.executor.run(notes).await;
        let (written, failure) = fleet::delete(&self.executor, &about, &plan.delete).await;
        self.own.wrote(key, &written);
        let pods = plan.create.iter().map(|node| place::pod(set, node, hash)).collect();
        let (written, failed) = fleet::create(&self.executor, &about, pods).await;
        self.own.wrote(key, &written);
        failure.or(failed)
    }
}

fn identity(set: &DaemonSet) -> (String, i64) {
    let generation = set.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
    (set.metadata.uid.clone().unwrap_or_default(), generation)
}

/// Whether a change of a node changes what the set should do. Pure.
fn node_matters(set: &DaemonSet, event: &Event<Node>) -> bool {
    let Event::Updated { old, new } = event else {
        return true;
    };
    let facts = |node: &Node| {
        (
            node.metadata.labels.clone(),
            node.spec.as_ref().and_then(|s| s.taints.clone()),
        )
    };
    if facts(old) == facts(new) {
        return false;
    }
    let probe = place::probe(set);
    let misscheduled = set.status.as_ref().is_some_and(|s| s.number_misscheduled > 0);
    misscheduled || place::fit(&probe, old) != place::fit(&probe, new)
}

async fn reconcile(this: Arc<Daemons>, key: Key) -> Result<Option<Duration>, String> {
    this.own.seen(&key).await?;
    let Some(set) = this.sets.get_key(&key) else {
        return Ok(None);
    };
    if set.spec.as_ref().is_none_or(|s| labels::is_empty(&s.selector)) {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.".to_owned();
        let note = Action::event(reference(set.as_ref()), EventType::Warning, "SelectingAll", message);
        let _ = this.executor.one(note).await;
        return Ok(None);
    }
    // Its history may be gone before its pods are: nothing sensible can be said or done any more.
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let (pods, revisions) = (this.pods_of(&set, &key), this.revisions_of(&set, &key));
    if pods.pending() || revisions.pending() {
        let (mut written, failure) = owners::settle(&this.executor, set.as_ref(), &pods.adopt, &pods.release).await;
        let (more, failed) = owners::settle(&this.executor, set.as_ref(), &revisions.adopt, &revisions.release).await;
        written.extend(more);
        this.own.wrote(&key, &written);
        return match failure.or(failed) {
            Some(error) => Err(error.to_string()),
            // Decide when the caches show who belongs to whom.
            None => Ok(Some(Duration::from_millis(1))),
        };
    }
    let past = past::sort(&set, revisions.own);
    let hash = match this.settle_history(&key, &set, &past, &pods.own).await {
        Err(error) if error.is_not_found() || error.is_namespace_terminating() => return Ok(None),
        Err(error) if error.is_conflict() => return Ok(Some(AGAIN)),
        outcome => outcome.map_err(|e| format!("failed to construct revisions of DaemonSet: {e}"))?,
    };
    let seen = Observed {
        backoff: this.pauses_of(&set),
        nodes: this.nodes.list(),
        pods: pods.own,
        now: Timestamp::now(),
        set,
    };
    let plan = decide(&seen, &hash);
    let again = plan.again;
    let failure = this.act(&key, &seen.set, plan, &hash).await;
    let mut actions = Vec::new();
    if let Some(status) = decide::status(&seen, &hash) {
        actions.push(Action::update_status(&DaemonSet {
            status: Some(status),
            ..seen.set.as_ref().clone()
        }));
    }
    if failure.is_none() {
        let surplus = past::surplus(&seen.set, &past.old, &seen.pods);
        actions.extend(surplus.iter().map(|revision| Action::delete(revision.as_ref())));
    }
    let (written, outcome) = this.executor.run(actions).await;
    this.own.wrote(&key, &written);
    if let Some(error) = failure {
        return Err(error.to_string());
    }
    match outcome {
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) if error.is_conflict() => Ok(Some(AGAIN)),
        Err(error) => Err(error.to_string()),
        Ok(()) => Ok(again),
    }
}
