//! Creating and deleting the pods of one owner, with upstream's events about each.
//!
//! Callers: controllers whose decision is a list of pods. Creations go in batches of 1, 2, 4 …, so that something that
//! refuses every pod (a quota, an admission plugin) is asked once or twice and not five hundred times.

use std::sync::Arc;

use steersman_runtime::client::ApiError;
use steersman_runtime::events::EventType;
use steersman_types::api::core::v1::{ObjectReference, Pod};

use crate::act::{Action, Executor, Written};

/// What came of it: what was written, and the last failure.
#[derive(Debug, Default)]
pub struct Outcome {
    pub written: Vec<Written>,
    /// How many pods were created or deleted (or were gone already).
    pub count: usize,
    pub failure: Option<ApiError>,
}

/// Creates `pods`; stops after the first batch with a failure. A namespace that is going is no failure: soon the owner
/// goes as well.
pub async fn create(executor: &Executor, about: &ObjectReference, pods: &[Pod]) -> Outcome {
    let (mut done, mut notes) = (Outcome::default(), Vec::new());
    let (mut rest, mut batch) = (pods, 1);
    while !rest.is_empty() && done.failure.is_none() {
        let (now, later) = rest.split_at(batch.min(rest.len()));
        for outcome in executor.all(now.iter().map(Action::create).collect()).await {
            match outcome {
                Ok(one) => {
                    let name = one.object["metadata"]["name"].as_str().unwrap_or_default();
                    let text = format!("Created pod: {name}");
                    notes.push(Action::event(
                        about.clone(),
                        EventType::Normal,
                        "SuccessfulCreate",
                        text,
                    ));
                    done.written.push(one);
                    done.count += 1;
                }
                Err(error) if error.is_namespace_terminating() => return done,
                Err(error) => {
                    let text = format!("Error creating: {error}");
                    notes.push(Action::event(about.clone(), EventType::Warning, "FailedCreate", text));
                    done.failure = Some(error);
                }
            }
        }
        rest = later;
        batch *= 2;
    }
    // Recording events does not fail.
    let _ = executor.run(notes).await;
    done
}

/// Deletes `pods`, each by its UID.
pub async fn delete(executor: &Executor, about: &ObjectReference, pods: &[Arc<Pod>]) -> Outcome {
    let (mut done, mut notes) = (Outcome::default(), Vec::new());
    let outcomes = executor
        .all(pods.iter().map(|p| Action::delete(p.as_ref())).collect())
        .await;
    for (pod, outcome) in pods.iter().zip(outcomes) {
        match outcome {
            Ok(one) => {
                let text = format!("Deleted pod: {}", pod.metadata.name.as_deref().unwrap_or_default());
                notes.push(Action::event(
                    about.clone(),
                    EventType::Normal,
                    "SuccessfulDelete",
                    text,
                ));
                done.written.push(one);
                done.count += 1;
            }
            Err(error) => {
                let text = format!("Error deleting: {error}");
                notes.push(Action::event(about.clone(), EventType::Warning, "FailedDelete", text));
                done.failure = Some(error);
            }
        }
    }
    let _ = executor.run(notes).await;
    done
}
