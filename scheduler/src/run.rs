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
use steersman_types::api::core::v1::{Namespace, Node, Pod};
use steersman_types::api::policy::v1::PodDisruptionBudget;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::decide::{Placement, Room, Unschedulable, decide};
use crate::metrics::Figures;
use crate::plugins::ALL;
use crate::pod::PodInfo;
use crate::profiles::Profile;
use crate::queue::{Backoff, History};
use crate::spreading::Alike;
use crate::state::{Seen, State};
use crate::victims;

/// Bindings and status writes under way at once; more wait, and with them the next decision.
const MOST_BINDINGS: usize = 64;
/// Longest event message (upstream: `maxEventMessage`, 1024 bytes with the rest of the note).
const LONGEST_MESSAGE: usize = 1024;
/// How long the loop sleeps at most when nothing is due.
const IDLE: Duration = Duration::from_mins(1);

/// Everything the running scheduler shares with its background tasks.
pub struct Scheduler {
    client: Client,
    /// Each with the recorder that signs its events.
    profiles: Vec<(Profile, Recorder)>,
    alike: Alike,
    /// What it has done, for whoever asks.
    pub figures: Figures,
    state: Mutex<State>,
    changed: Notify,
    slots: Arc<Semaphore>,
}

impl Scheduler {
    /// Follows pods, nodes, namespaces and budgets; handlers change the state and wake the loop. There is at least one
    /// profile.
    #[must_use]
    pub fn start(
        client: Client,
        profiles: Vec<(Profile, Recorder)>,
        backoff: Backoff,
        informers: &Informers,
    ) -> Arc<Self> {
        let names = profiles.iter().map(|(profile, _)| profile.name.clone()).collect();
        let scheduler = Arc::new(Self {
            client,
            profiles,
            alike: Alike::new(informers),
            figures: Figures::default(),
            state: Mutex::new(State::new(names, ALL, backoff)),
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
        let follower = Arc::downgrade(&scheduler);
        informers.of::<Namespace>().on_event(move |event| {
            if let Some(s) = follower.upgrade() {
                s.state.lock().on_namespace(event, Instant::now());
                s.changed.notify_one();
            }
        });
        let follower = Arc::downgrade(&scheduler);
        informers.of::<PodDisruptionBudget>().on_event(move |event| {
            if let Some(s) = follower.upgrade() {
                s.state.lock().on_budget(event);
            }
        });
        scheduler
    }

    /// The profile whose business a pod is; the queue holds no others.
    fn profile(&self, pod: &PodInfo) -> Option<&(Profile, Recorder)> {
        let name = pod.pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref());
        self.profiles
            .iter()
            .find(|(profile, _)| Some(profile.name.as_str()) == name)
    }

    fn event(&self, pod: &PodInfo, kind: EventType, reason: &str, text: &str) {
        if let Some((_, recorder)) = self.profile(pod) {
            recorder.event(&reference(&*pod.pod), kind, reason, text);
        }
    }

    /// How much there is of everything.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.state.lock().seen()
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
            let Some((profile, _)) = self.profile(&pod) else {
                self.state.lock().dismiss(&pod.key);
                continue;
            };
            let begun = Instant::now();
            let pod = self.alike.with_defaults(&pod, &profile.arguments.spreading);
            let placement = decide(profile, &pod, &snapshot, start, rand::random());
            self.figures.decided(begun.elapsed());
            // Before anything changes: see there.
            drop(snapshot);
            let slot = tokio::select! {
                slot = self.slots.clone().acquire_owned() => slot,
                () = stop.cancelled() => return,
            };
            match placement {
                Placement::Node { name, next_start } => {
                    start = next_start;
                    let assumed = {
                        let mut state = self.state.lock();
                        let history = state.history(&pod.key);
                        state.assume(&pod, &name).then_some(history).flatten()
                    };
                    if let Some(history) = assumed {
                        let scheduler = self.clone();
                        tokio::spawn(async move {
                            scheduler.bind(&pod, &name, history, begun).await;
                            drop(slot);
                        });
                    }
                }
                Placement::Unschedulable(why) => {
                    self.figures.tried("unschedulable", &profile.name, begun.elapsed());
                    match &why.room {
                        Room::Untried => {}
                        Room::Found(room) => self.figures.preempted(Some(room.victims.len())),
                        Room::Forbidden(_) | Room::Nowhere(_) => self.figures.preempted(None),
                    }
                    // What the pod was promised before stays, unless it was looked at again and nothing was found.
                    let promise = match &why.room {
                        Room::Found(room) => Some(room.node.clone()),
                        Room::Nowhere(_) => Some(String::new()),
                        Room::Untried | Room::Forbidden(_) => None,
                    };
                    let lower = {
                        let mut state = self.state.lock();
                        let lower = promise.as_ref().map(|node| state.nominate(&pod, node));
                        state.failed(&pod.key, &why, Instant::now());
                        lower.unwrap_or_default()
                    };
                    let scheduler = self.clone();
                    tokio::spawn(async move {
                        scheduler.report(&pod, &why, promise).await;
                        for other in &lower {
                            victims::clear_nomination(&scheduler.client, other).await;
                        }
                        if let (Room::Found(room), Some((profile, recorder))) = (&why.room, scheduler.profile(&pod)) {
                            victims::displace(&scheduler.client, recorder, &profile.name, &pod, room).await;
                        }
                        drop(slot);
                    });
                }
            }
        }
    }

    /// `begun`: when this try was.
    async fn bind(&self, pod: &PodInfo, node: &str, history: History, begun: Instant) {
        let key = &pod.key;
        let name = self.profile(pod).map_or("", |(profile, _)| profile.name.as_str());
        let asked = Instant::now();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"namespace": key.namespace, "name": key.name, "uid": key.uid},
            "target": {"kind": "Node", "name": node},
        });
        let bound = self
            .client
            .create_subresource::<Pod>(Some(&key.namespace), &key.name, "binding", &binding)
            .await;
        self.figures.ran("Bind", bound.is_ok(), name, asked.elapsed());
        match bound {
            Ok(_) => {
                self.figures.tried("scheduled", name, begun.elapsed());
                self.figures.bound(history, history.since.elapsed());
                info!(pod = %key, node, "successfully bound pod to node");
                let text = format!("Successfully assigned {key} to {node}");
                self.event(pod, EventType::Normal, "Scheduled", &text);
            }
            Err(error) => {
                self.figures.tried("error", name, begun.elapsed());
                self.state.lock().binding_failed(key, Instant::now());
                self.changed.notify_one();
                // Gone or bound by somebody else: the informer will tell, and nobody needs to hear of it.
                if !(error.is_not_found() || error.is_conflict()) {
                    warn!(pod = %key, node, %error, "binding failed");
                    let text = format!("running Bind plugin \"DefaultBinder\": {error}");
                    self.note_failure(pod, "SchedulerError", &text, None).await;
                }
            }
        }
    }

    async fn report(&self, pod: &PodInfo, why: &Unschedulable, promise: Option<String>) {
        debug!(pod = %pod.key, "unable to schedule pod; no fit; waiting");
        self.note_failure(pod, "Unschedulable", &why.message(), promise).await;
    }

    /// The event; and the pod's `PodScheduled` condition and nominated node, if they say something else so far.
    async fn note_failure(&self, pod: &PodInfo, reason: &str, message: &str, promise: Option<String>) {
        self.event(pod, EventType::Warning, "FailedScheduling", truncated(message));
        let promise = promise.filter(|node| node != pod.nominated());
        if has_condition(&pod.pod, reason, message) && promise.is_none() {
            return;
        }
        let now = steersman_types::jiff::Timestamp::now();
        let since = transition_time(&pod.pod).map_or_else(|| json!(format!("{now:.0}")), |t| json!(t));
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastProbeTime": null, "lastTransitionTime": since, "observedGeneration": pod.pod.metadata().generation,
        });
        let mut status = json!({"conditions": [condition]});
        if let Some(node) = promise {
            status["nominatedNodeName"] = if node.is_empty() { json!(null) } else { json!(node) };
        }
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.key.uid}, "status": status}));
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
