//! The loop around the decision: wait for a pod, decide, assume, bind in the background, report what failed.
//!
//! One task decides, one pod after the other; bindings and status writes run beside it, at most [`MOST_BINDINGS`] at a
//! time. A lost API server ends nothing: bindings fail, pods go back to the queue, informers reconnect.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use steersman_runtime::events::{EventType, Recorder, reference};
use steersman_runtime::{ApiError, Client, Informers, Patch};
use steersman_types::Typed;
use steersman_types::api::core::v1::{Node, Pod};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::decide::{Placement, Unschedulable, decide};
use crate::plugins::ALL;
use crate::pod::PodInfo;
use crate::state::State;

/// Bindings and status writes under way at once; more wait, and with them the next decision.
const MOST_BINDINGS: usize = 64;
/// Longest event message (upstream: `maxEventMessage`, 1024 bytes with the rest of the note).
const LONGEST_MESSAGE: usize = 1024;
/// How long the loop sleeps at most when nothing is due.
const IDLE: Duration = Duration::from_mins(1);

/// Everything the running scheduler shares with its background tasks.
pub struct Scheduler {
    client: Client,
    recorder: Recorder,
    state: Mutex<State>,
    changed: Notify,
    slots: Arc<Semaphore>,
}

impl Scheduler {
    /// Follows pods and nodes; handlers change the state and wake the loop.
    #[must_use]
    pub fn start(client: Client, recorder: Recorder, informers: &Informers, scheduler_name: &str) -> Arc<Self> {
        let scheduler = Arc::new(Self {
            client,
            recorder,
            state: Mutex::new(State::new(scheduler_name, ALL)),
            changed: Notify::new(),
            slots: Arc::new(Semaphore::new(MOST_BINDINGS)),
        });
        let follower = Arc::downgrade(&scheduler);
        informers.of::<Node>().on_event(move |event| {
            if let Some(s) = follower.upgrade() {
                s.state.lock().on_node(event, Instant::now());
                s.changed.notify_one();
            }
        });
        let follower = Arc::downgrade(&scheduler);
        informers.of::<Pod>().on_event(move |event| {
            if let Some(s) = follower.upgrade() {
                s.state.lock().on_pod(event, Instant::now());
                s.changed.notify_one();
            }
        });
        scheduler
    }

    /// Pods by where they wait: active, backing off, unschedulable.
    #[must_use]
    pub fn pending(&self) -> (usize, usize, usize) {
        self.state.lock().counts()
    }

    /// Schedules until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut start = 0;
        loop {
            let next = self.state.lock().pop(Instant::now());
            let Some((pod, snapshot)) = next else {
                let due = self.state.lock().next_due().unwrap_or_else(|| Instant::now() + IDLE);
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                    () = stop.cancelled() => return,
                }
                continue;
            };
            let placement = decide(ALL, &pod, &snapshot, start, rand::random());
            let slot = tokio::select! {
                slot = self.slots.clone().acquire_owned() => slot,
                () = stop.cancelled() => return,
            };
            match placement {
                Placement::Node { name, next_start } => {
                    start = next_start;
                    if self.state.lock().assume(&pod, &name) {
                        let scheduler = self.clone();
                        tokio::spawn(async move {
                            scheduler.bind(&pod, &name).await;
                            drop(slot);
                        });
                    }
                }
                Placement::Unschedulable(why) => {
                    self.state.lock().failed(&pod.key, &why, Instant::now());
                    let scheduler = self.clone();
                    tokio::spawn(async move {
                        scheduler.report(&pod, &why).await;
                        drop(slot);
                    });
                }
            }
        }
    }

    async fn bind(&self, pod: &PodInfo, node: &str) {
        let key = &pod.key;
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"namespace": key.namespace, "name": key.name, "uid": key.uid},
            "target": {"kind": "Node", "name": node},
        });
        match self
            .client
            .create_subresource::<Pod>(Some(&key.namespace), &key.name, "binding", &binding)
            .await
        {
            Ok(_) => {
                info!(pod = %key, node, "successfully bound pod to node");
                let text = format!("Successfully assigned {key} to {node}");
                self.recorder
                    .event(&reference(&*pod.pod), EventType::Normal, "Scheduled", &text);
            }
            Err(error) => {
                self.state.lock().binding_failed(key, Instant::now());
                self.changed.notify_one();
                // Gone or bound by somebody else: the informer will tell, and nobody needs to hear of it.
                if !(error.is_not_found() || error.is_conflict()) {
                    warn!(pod = %key, node, %error, "binding failed");
                    let text = format!("running Bind plugin \"DefaultBinder\": {error}");
                    self.note_failure(pod, "SchedulerError", &text).await;
                }
            }
        }
    }

    async fn report(&self, pod: &PodInfo, why: &Unschedulable) {
        debug!(pod = %pod.key, "unable to schedule pod; no fit; waiting");
        self.note_failure(pod, "Unschedulable", &why.message()).await;
    }

    /// The event, and the pod's `PodScheduled` condition if it says something else so far.
    async fn note_failure(&self, pod: &PodInfo, reason: &str, message: &str) {
        self.recorder.event(
            &reference(&*pod.pod),
            EventType::Warning,
            "FailedScheduling",
            truncated(message),
        );
        if has_condition(&pod.pod, reason, message) {
            return;
        }
        let now = steersman_types::jiff::Timestamp::now();
        let since = transition_time(&pod.pod).map_or_else(|| json!(format!("{now:.0}")), |t| json!(t));
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastProbeTime": null, "lastTransitionTime": since, "observedGeneration": pod.pod.metadata().generation,
        });
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.key.uid}, "status": {"conditions": [condition]}}));
        let done = self
            .client
            .patch::<Pod>(&patch, Some(&pod.key.namespace), &pod.key.name, Some("status"))
            .await;
        if let Err(error) = done.map(drop).or_else(ignore_gone) {
            warn!(pod = %pod.key, %error, "updating the PodScheduled condition failed");
        }
    }
}

fn ignore_gone(error: ApiError) -> Result<(), ApiError> {
    if error.is_not_found() || error.is_conflict() {
        Ok(())
    } else {
        Err(error)
    }
}

fn condition(pod: &Pod) -> Option<&steersman_types::api::core::v1::PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == "PodScheduled")
}

fn has_condition(pod: &Pod, reason: &str, message: &str) -> bool {
    condition(pod).is_some_and(|c| {
        c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    })
}

/// When the condition became false, if it already is: only a change of status moves that time.
fn transition_time(pod: &Pod) -> Option<&steersman_types::Time> {
    condition(pod)
        .filter(|c| c.status == "False")?
        .last_transition_time
        .as_ref()
}

/// Cuts an event's message as upstream does, at a character boundary.
fn truncated(message: &str) -> &str {
    let end = (0..=message.len().min(LONGEST_MESSAGE))
        .rev()
        .find(|i| message.is_char_boundary(*i))
        .unwrap_or_default();
    &message[..end]
}
