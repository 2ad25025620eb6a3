//! Keeps the status of PodDisruptionBudgets, which says how many evictions the API server may grant.
//!
//! Watches: poddisruptionbudgets, pods, and the controllers behind pods. Writes: poddisruptionbudgets/status, pods/status
//! (a `DisruptionTarget` that came to nothing), events. [`decide`] counts, [`scale`] asks, this file does the rest.
//!
//! What stays true: when counting fails, no disruption is allowed; an eviction that was granted counts until its pod is
//! going, at most two minutes.

pub mod decide;
mod scale;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::json;
use steersman_runtime::client::Patch;
use steersman_runtime::events::{EventType, reference};
use steersman_runtime::{Informer, Key, WorkQueue};
use steersman_types::api::core::v1::Pod;
use steersman_types::api::policy::v1::PodDisruptionBudget;

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::labels;
use crate::own::OwnWrites;
use decide::{Observed, decide, needs_scales, stale_in};
use scale::Scales;

const WORKERS: usize = 2;
/// After a conflict.
const AGAIN: Duration = Duration::from_millis(20);

struct Budgets {
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    scales: Scales,
    executor: Executor,
    own: OwnWrites<Key>,
    queue: WorkQueue<Key>,
    /// Pods whose `DisruptionTarget` may come to nothing.
    marked: WorkQueue<Key>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let budgets = context.informers.of::<PodDisruptionBudget>();
        let pods = context.informers.of::<Pod>();
        let executor = context.executor("controllermanager");
        let scales = Scales::new(&context.informers, executor.client().clone());
        let this = Arc::new(Budgets {
            own: OwnWrites::new([("poddisruptionbudgets", budgets.progress())]),
            budgets,
            pods,
            scales,
            executor,
            queue: context.queue(),
            marked: context.queue_named("stale_pod_disruption"),
        });
        this.budgets.synced().await;
        this.pods.synced().await;
        this.scales.synced().await;
        this.watch();
        let (queue, marked, other) = (this.queue.clone(), this.marked.clone(), this.clone());
        tokio::join!(
            queue.run("PodDisruptionBudget", WORKERS, move |key| reconcile(this.clone(), key)),
            marked.run("stale DisruptionTarget", 1, move |key| unmark(other.clone(), key)),
        );
        Ok(())
    })
}

impl Budgets {
    fn watch(self: &Arc<Self>) {
        let queue = self.queue.clone();
        self.budgets
            .on_event(move |event| queue.add(Key::of(event.object().as_ref())));
        let this = self.clone();
        self.pods.on_event(move |event| {
            for pod in event.old().into_iter().chain([event.object()]) {
                for budget in this
                    .budgets
                    .list_in(pod.metadata.namespace.as_deref().unwrap_or_default())
                {
                    if selects(&budget, pod) {
                        this.queue.add(Key::of(budget.as_ref()));
                    }
                }
            }
            if stale_in(event.object(), Timestamp::now()).is_some() {
                this.marked.add(Key::of(event.object().as_ref()));
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<Observed> {
        let budget = self.budgets.get_key(key)?;
        let pods = self.pods.list_in(&key.namespace);
        let pods: Vec<_> = pods.into_iter().filter(|pod| selects(&budget, pod)).collect();
        let scales = if needs_scales(&budget) {
            self.scales.of(&pods).await
        } else {
            Ok(Default::default())
        };
        Some(Observed {
            budget,
            pods,
            scales,
            now: Timestamp::now(),
        })
    }
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    labels::selects(selector, pod.metadata.labels.as_ref())
}

async fn reconcile(this: Arc<Budgets>, key: Key) -> Result<Option<Duration>, String> {
    this.own.seen(&key).await?;
    let Some(seen) = this.observe(&key).await else {
        return Ok(None);
    };
    let plan = decide(&seen);
    let about = reference(seen.budget.as_ref());
    let mut actions: Vec<Action> = plan
        .remarks
        .into_iter()
        .map(|(kind, reason, text)| Action::event(about.clone(), kind, reason, text))
        .collect();
    for pod in &plan.stayed {
        let text = format!(
            "Pod was expected by PDB {}/{} to be deleted but it wasn't",
            key.namespace, key.name
        );
        actions.push(Action::event(
            reference(pod.as_ref()),
            EventType::Warning,
            "NotDeleted",
            text,
        ));
    }
    if let Some(status) = plan.status {
        let mut updated = seen.budget.as_ref().clone();
        updated.status = Some(status);
        actions.push(Action::update_status(&updated));
    }
    let (written, outcome) = this.executor.run(actions).await;
    this.own.wrote(&key, &written);
    match outcome {
        Err(error) if error.is_not_found() => Ok(None),
        // An eviction was granted in between: count again.
        Err(error) if error.is_conflict() => Ok(Some(AGAIN)),
        Err(error) => Err(error.to_string()),
        Ok(()) => Ok(plan.again),
    }
}

/// Takes `DisruptionTarget` back from a pod that stays.
async fn unmark(this: Arc<Budgets>, key: Key) -> Result<Option<Duration>, String> {
    let now = Timestamp::now();
    let Some(pod) = this.pods.get_key(&key) else {
        return Ok(None);
    };
    match stale_in(&pod, now) {
        None => return Ok(None),
        Some(left) if !left.is_zero() => return Ok(Some(left)),
        Some(_) => {}
    }
    let condition = json!({"type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
        "lastTransitionTime": format!("{now:.0}"), "observedGeneration": pod.metadata.generation});
    let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    let action = Action::patch(pod.as_ref(), Some("status"), Patch::Strategic(body));
    match this.executor.one(action).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.to_string()),
        _ => Ok(None),
    }
}
