//! When what an object is written for has happened: the annotation from which network latency is measured.
//!
//! Callers: the endpointslice and the endpoints controller, each with a [`Triggers`] of its own. What stays true: a
//! Service's entry lives as long as the Service.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use steersman_runtime::Key;
use steersman_types::api::core::v1::{Pod, Service};

use crate::pods;

/// The annotation's name.
pub const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What each Service's last run knew about times, to tell what has changed since.
#[derive(Debug, Default)]
pub struct Triggers(Mutex<HashMap<Key, Times>>);

#[derive(Clone, Debug, Default)]
struct Times {
    service: Option<Timestamp>,
    pods: HashMap<String, Option<Timestamp>>,
}

impl Triggers {
    /// The earliest of the changes since the last call; for a Service that is seen for the first time the latest of all,
    /// which explains the present state.
    pub fn changed(&self, key: &Key, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let now = Times {
            service: service.metadata.creation_timestamp.as_ref().map(|t| t.0),
            pods: pods
                .iter()
                .map(|p| (p.metadata.name.clone().unwrap_or_default(), pods::ready_since(p)))
                .collect(),
        };
        let before = self.0.lock().insert(key.clone(), now.clone());
        let Some(before) = before else {
            return now.pods.values().copied().flatten().chain(now.service).max();
        };
        let changed = now
            .pods
            .iter()
            .filter(|(name, at)| before.pods.get(*name) != Some(*at))
            .filter_map(|(_, at)| *at);
        changed
            .chain(now.service.filter(|_| before.service != now.service))
            .min()
    }

    /// The Service is gone.
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use steersman_types::Typed;

    fn pod(name: &str, since: &str) -> Arc<Pod> {
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": since});
        let value = json!({"metadata": {"name": name}, "status": {"conditions": [ready]}});
        Arc::new(Pod::from_value(&value).unwrap())
    }

    #[test]
    fn the_earliest_change_since_the_last_look_counts() {
        let (triggers, key) = (Triggers::default(), Key::new("ns", "s"));
        let value = json!({"metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}});
        let service = Service::from_value(&value).unwrap();
        let look = |pods: &[Arc<Pod>]| triggers.changed(&key, &service, pods).map(|t| t.to_string());
        assert_eq!(
            look(&[pod("a", "2026-01-01T00:00:05Z")]).unwrap(),
            "2026-01-01T00:00:05Z"
        );
        assert_eq!(look(&[pod("a", "2026-01-01T00:00:05Z")]), None);
        let changed = [pod("a", "2026-01-01T00:00:09Z"), pod("b", "2026-01-01T00:00:08Z")];
        assert_eq!(look(&changed).unwrap(), "2026-01-01T00:00:08Z");
        triggers.forget(&key);
        assert_eq!(look(&[]).unwrap(), "2026-01-01T00:00:00Z");
    }
}
