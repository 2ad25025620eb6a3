//! Makes and removes pods on behalf of an owner, with upstream's events.
//!
//! Users: the controllers that keep pods (ReplicaSet, ReplicationController, DaemonSet, Job). Creations run in batches of
//! 1, 2, 4, …, so that something that refuses every pod (a quota, an admission plugin) is asked once or twice and not
//! five hundred times. What stays true: a pod is deleted by its UID; after a failed batch nothing more is created; a
//! namespace on its way out is no failure, since its owner goes soon as well.

use std::sync::Arc;

use steersman_runtime::client::ApiError;
use steersman_runtime::events::EventType;
use steersman_types::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use steersman_types::{ObjectMeta, Typed};

use crate::act::{Action, Executor, Written};
use crate::owners;

/// A pod as the template says, owned by `owner`; the server completes its name.
#[must_use]
pub fn pod_from_template<T: Typed>(template: &PodTemplateSpec, owner: &T) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let parent = owner.metadata();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", parent.name.as_deref().unwrap_or_default())),
            namespace: parent.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owners::reference_to(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates `pods` in growing batches. The writes that succeeded are returned beside the first failure.
pub async fn create(executor: &Executor, about: &ObjectReference, pods: Vec<Pod>) -> (Vec<Written>, Option<ApiError>) {
    let (mut written, mut failure, mut notes) = (Vec::new(), None, Vec::new());
    let note = |kind, reason, message| Action::event(about.clone(), kind, reason, message);
    let mut left = pods.iter();
    let mut batch = 1;
    'batches: while failure.is_none() && left.len() > 0 {
        let actions = left.by_ref().take(batch).map(Action::create).collect();
        for outcome in executor.all(actions).await {
            match outcome {
                Ok(one) => {
                    let name = one.object["metadata"]["name"].as_str().unwrap_or_default();
                    let message = format!("Created pod: {name}");
                    notes.push(note(EventType::Normal, "SuccessfulCreate", message));
                    written.push(one);
                }
                // Every creation here will fail from now on.
                Err(error) if error.is_namespace_terminating() => break 'batches,
                Err(error) => {
                    let message = format!("Error creating: {error}");
                    notes.push(note(EventType::Warning, "FailedCreate", message));
                    failure = Some(error);
                }
            }
        }
        batch *= 2;
    }
    // Recording events does not fail.
    let _ = executor.run(notes).await;
    (written, failure)
}

/// Deletes `pods` side by side.
pub async fn delete(
    executor: &Executor,
    about: &ObjectReference,
    pods: &[Arc<Pod>],
) -> (Vec<Written>, Option<ApiError>) {
    let actions = pods.iter().map(|pod| Action::delete(pod.as_ref())).collect();
    let outcomes = executor.all(actions).await;
    let (mut written, mut failure, mut notes) = (Vec::new(), None, Vec::new());
    for (pod, outcome) in pods.iter().zip(outcomes) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let (kind, reason, message) = match outcome {
            Ok(one) => {
                written.push(one);
                (EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"))
            }
            Err(error) => {
                let message = format!("Error deleting: {error}");
                failure = Some(error);
                (EventType::Warning, "FailedDelete", message)
            }
        };
        notes.push(Action::event(about.clone(), kind, reason, message));
    }
    let _ = executor.run(notes).await;
    (written, failure)
}
