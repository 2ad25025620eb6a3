//! Records events (core/v1) about objects, without ever holding up the caller.
//!
//! Callers: every component that reports what it did. [`Recorder::event`] puts a record on a bounded queue and returns;
//! a task correlates (see [`correlate`]) and writes: a first event is created as `<object>.<hex time>`, a repetition
//! raises `count` on the same object by a patch. When the queue is full the record is dropped: events are best effort,
//! as upstream's are.

mod correlate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use steersman_types::api::core::v1::{Event, EventSource, ObjectReference};
use steersman_types::{Time, Typed};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use crate::client::{Client, Patch};
use correlate::{Action, Correlator};

/// Upstream's `maxQueuedEvents`.
const QUEUE: usize = 1000;
/// Upstream's `maxTriesPerEvent` and `sleepDuration`.
const TRIES: u32 = 12;
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What happened to which object.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    object: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    annotations: BTreeMap<String, String>,
    at: Timestamp,
}

enum Message {
    Record(Box<Record>),
    Flush(oneshot::Sender<()>),
}

/// Clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Message>,
    /// Where events would go; a recorder without a client drops them.
    component: Arc<str>,
}

/// The reference that an event about `object` carries.
#[must_use]
pub fn reference<T: Typed>(object: &T) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(T::API_VERSION.to_owned()),
        kind: Some(T::KIND.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

impl Recorder {
    /// Starts the writing task. `component` is for instance `deployment-controller`; `host` is the node for agents and
    /// empty for control-plane programs. Must be called inside a tokio runtime.
    #[must_use]
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let source = EventSource {
            component: Some(component.to_owned()),
            host: Some(host.to_owned()).filter(|h| !h.is_empty()),
        };
        tokio::spawn(write_all(client, source, receiver));
        Self {
            queue,
            component: component.into(),
        }
    }

    /// Records that something happened now.
    pub fn event(&self, object: &ObjectReference, kind: EventType, reason: &str, message: &str) {
        self.annotated(object, kind, reason, message, BTreeMap::new());
    }

    /// [`Recorder::event`] with annotations on the event.
    pub fn annotated(
        &self,
        object: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: &str,
        annotations: BTreeMap<String, String>,
    ) {
        debug!(object = ?object.name, kind = kind.as_str(), reason, message, component = %self.component, "Event occurred");
        let record = Record {
            object: object.clone(),
            kind,
            reason: reason.to_owned(),
            // The server refuses longer ones.
            message: message.chars().take(1024).collect(),
            annotations,
            at: Timestamp::now(),
        };
        if self.queue.try_send(Message::Record(Box::new(record))).is_err() {
            warn!(reason, "Unable to record event: too many queued events, dropped event");
        }
    }

    /// Waits until everything recorded before has been written, at most `limit`. For tests and shutdown.
    pub async fn flush(&self, limit: Duration) {
        let (done, waiting) = oneshot::channel();
        let all = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                let _ = waiting.await;
            }
        };
        let _ = tokio::time::timeout(limit, all).await;
    }
}

async fn write_all(client: Client, source: EventSource, mut queue: mpsc::Receiver<Message>) {
    let mut correlator = Correlator::default();
    while let Some(message) = queue.recv().await {
        let record = match message {
            Message::Record(record) => *record,
            Message::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        };
        match correlator.take(&record) {
            Action::Drop => debug!(
                reason = record.reason,
                "event dropped: the object's events come too fast"
            ),
            Action::Write(write) => {
                let name = deliver(&client, &source, &record, &write).await;
                correlator.written(&write, name);
            }
        }
    }
}

/// Creates or counts up; retries while the server cannot be reached. Returns the event's name when it is stored.
async fn deliver(client: &Client, source: &EventSource, record: &Record, write: &correlate::Write) -> Option<String> {
    let namespace = record
        .object
        .namespace
        .clone()
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "default".to_owned());
    for attempt in 0..TRIES {
        let outcome = if let Some(known) = &write.known {
            let patch = Patch::Strategic(json!({
                "count": write.count,
                "lastTimestamp": Time(record.at),
                "message": write.message,
            }));
            match client.patch::<Event>(&patch, Some(&namespace), known, None).await {
                Err(error) if error.is_not_found() => client.create(&event(source, record, write, &namespace)).await,
                outcome => outcome,
            }
        } else {
            client.create(&event(source, record, write, &namespace)).await
        };
        match outcome {
            Ok(event) => return event.metadata.name,
            Err(error) if error.code().is_some_and(|c| c < 500 && c != 429) => {
                // Also when the namespace is being deleted: nobody will miss it.
                debug!(%error, reason = record.reason, "Server rejected event (will not retry!)");
                return None;
            }
            Err(error) => {
                debug!(%error, attempt, "Unable to write event (may retry after sleeping)");
                // Spread the first retry over the pause, as upstream does, so that recorders do not act in step.
                let pause = if attempt == 0 {
                    PAUSE.mul_f64(rand::random())
                } else {
                    PAUSE
                };
                tokio::time::sleep(pause).await;
            }
        }
    }
    None
}

fn event(source: &EventSource, record: &Record, write: &correlate::Write, namespace: &str) -> Event {
    let mut event = Event {
        involved_object: record.object.clone(),
        reason: Some(record.reason.clone()),
        message: Some(write.message.clone()),
        type_: Some(record.kind.as_str().to_owned()),
        source: Some(source.clone()),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        first_timestamp: Some(Time(write.first)),
        last_timestamp: Some(Time(record.at)),
        count: Some(write.count),
        ..Event::default()
    };
    event.metadata.namespace = Some(namespace.to_owned());
    event.metadata.annotations = Some(record.annotations.clone()).filter(|a| !a.is_empty());
    let name = record.object.name.clone().unwrap_or_default();
    event.metadata.name = Some(format!("{name}.{:x}", record.at.as_nanosecond()));
    event
}
