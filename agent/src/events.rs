//! Events about one pod and its containers.

use std::collections::BTreeMap;
use std::sync::Arc;

use steersman_runtime::events::{EventType, Recorder, reference};
use steersman_types::api::core::v1::{ObjectReference, Pod};

use crate::pod;

/// Records events; tests take them from a list instead.
#[derive(Clone)]
pub enum Sink {
    Api(Recorder),
    /// Type, reason, message.
    Kept(Arc<parking_lot::Mutex<Vec<(String, String, String)>>>),
}

/// Events of one pod.
#[derive(Clone)]
pub struct PodEvents {
    sink: Sink,
    object: ObjectReference,
    /// Name and field path of each container.
    containers: Vec<(String, String)>,
}

impl PodEvents {
    #[must_use]
    pub fn new(sink: Sink, pod: &Pod) -> Self {
        let containers = pod::all_containers(pod)
            .map(|(kind, c)| {
                let list = match kind {
                    pod::Kind::Init => "initContainers",
                    pod::Kind::Main => "containers",
                    pod::Kind::Ephemeral => "ephemeralContainers",
                };
                let path = format!("spec.{list}{{{}}}", c.name);
                (c.name, path)
            })
            .collect();
        Self {
            sink,
            object: reference(pod),
            containers,
        }
    }

    pub fn normal(&self, container: Option<&str>, reason: &str, message: &str) {
        self.record(EventType::Normal, container, reason, message);
    }

    pub fn warning(&self, container: Option<&str>, reason: &str, message: &str) {
        self.record(EventType::Warning, container, reason, message);
    }

    /// The pod is ended for the node's sake.
    pub fn evicted(&self, message: &str, annotations: BTreeMap<String, String>) {
        match &self.sink {
            Sink::Kept(_) => self.warning(None, "Evicted", message),
            Sink::Api(recorder) => {
                recorder.annotated(&self.object, EventType::Warning, "Evicted", message, annotations);
            }
        }
    }

    fn record(&self, kind: EventType, container: Option<&str>, reason: &str, message: &str) {
        match &self.sink {
            Sink::Kept(list) => list.lock().push((kind.as_str().into(), reason.into(), message.into())),
            Sink::Api(recorder) => {
                let mut object = self.object.clone();
                object.field_path = container
                    .and_then(|name| self.containers.iter().find(|(n, _)| n == name))
                    .map(|(_, path)| path.clone());
                recorder.event(&object, kind, reason, message);
            }
        }
    }
}
