//! The two kinds that keep a number of pods: ReplicaSet, and ReplicationController, which is the same with a plainer
//! selector. The controller works on a ReplicaSet; a ReplicationController is looked at as one.

use std::sync::Arc;

use steersman_types::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use steersman_types::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use steersman_types::{LabelSelector, Typed};

/// A kind that this controller can manage.
pub trait Flavor: Typed {
    /// Who signs its events.
    const COMPONENT: &'static str;

    /// As a ReplicaSet with the same metadata.
    fn view(this: &Arc<Self>) -> Arc<ReplicaSet>;

    /// A copy with this status.
    #[must_use]
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Flavor for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";

    fn view(this: &Arc<Self>) -> Arc<ReplicaSet> {
        this.clone()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self {
            status: Some(status),
            ..self.clone()
        }
    }
}

impl Flavor for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";

    fn view(this: &Arc<Self>) -> Arc<ReplicaSet> {
        let spec = this.spec.clone().unwrap_or_default();
        let status = this.status.clone().unwrap_or_default();
        let conditions = status.conditions.map(|conditions| {
            let view = |c: ReplicationControllerCondition| ReplicaSetCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            };
            conditions.into_iter().map(view).collect()
        });
        // A selector without pairs would select everything here, and selects nothing there.
        let selector = LabelSelector {
            match_labels: spec.selector.clone(),
            match_expressions: None,
        };
        Arc::new(ReplicaSet {
            metadata: this.metadata.clone(),
            spec: Some(ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: spec.replicas,
                selector,
                template: spec.template,
            }),
            status: Some(ReplicaSetStatus {
                replicas: status.replicas,
                fully_labeled_replicas: status.fully_labeled_replicas,
                ready_replicas: status.ready_replicas,
                available_replicas: status.available_replicas,
                terminating_replicas: None,
                observed_generation: status.observed_generation,
                conditions,
            }),
        })
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let conditions = status.conditions.map(|conditions| {
            let store = |c: ReplicaSetCondition| ReplicationControllerCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            };
            conditions.into_iter().map(store).collect()
        });
        Self {
            status: Some(ReplicationControllerStatus {
                replicas: status.replicas,
                fully_labeled_replicas: status.fully_labeled_replicas,
                ready_replicas: status.ready_replicas,
                available_replicas: status.available_replicas,
                observed_generation: status.observed_generation,
                conditions,
            }),
            ..self.clone()
        }
    }
}
