//! Carries out what a controller has decided: the only place of this crate that writes to the API server.
//!
//! A decision is a list of [`Action`]s, plain data that tests compare. [`Executor::run`] performs them in order and stops
//! at the first failure, so an event that follows a write is recorded only when the write happened. Every write of an
//! existing object is bound to the version (update) or the identity (delete) that the decision saw.
//!
//! What stays true: removals come before additions where a decider lists them so; nothing is retried here (the queue
//! does that). The result tells which revisions the writes got, so that [`crate::own::OwnWrites`] can make the next
//! decision wait until the caches show them.

use std::sync::Arc;

use futures::StreamExt;
use http::Method;
use serde_json::Value;
use steersman_runtime::client::{ApiError, Client, DeleteOptions, Patch, Resource, query};
use steersman_runtime::events::{EventType, Recorder};
use steersman_types::Typed;
use steersman_types::api::core::v1::ObjectReference;

/// Writes of one plan at the same time.
const IN_FLIGHT: usize = 32;

/// An event to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub about: ObjectReference,
    pub kind: EventType,
    pub reason: &'static str,
    pub message: String,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create {
        resource: Resource,
        object: Value,
    },
    /// The object's resourceVersion is the precondition.
    Update {
        resource: Resource,
        object: Value,
        subresource: Option<&'static str>,
    },
    Patch {
        resource: Resource,
        namespace: Option<String>,
        name: String,
        subresource: Option<&'static str>,
        patch: Patch,
    },
    /// An object that is gone already counts as deleted.
    Delete {
        resource: Resource,
        namespace: Option<String>,
        name: String,
        options: DeleteOptions,
    },
    Event(Box<Note>),
}

impl Action {
    #[must_use]
    pub fn create<T: Typed>(object: &T) -> Self {
        Self::Create {
            resource: Resource::of::<T>(),
            object: object.to_value(),
        }
    }

    #[must_use]
    pub fn update<T: Typed>(object: &T) -> Self {
        Self::Update {
            resource: Resource::of::<T>(),
            object: object.to_value(),
            subresource: None,
        }
    }

    #[must_use]
    pub fn update_status<T: Typed>(object: &T) -> Self {
        Self::Update {
            resource: Resource::of::<T>(),
            object: object.to_value(),
            subresource: Some("status"),
        }
    }

    #[must_use]
    pub fn patch<T: Typed>(object: &T, subresource: Option<&'static str>, patch: Patch) -> Self {
        let meta = object.metadata();
        Self::Patch {
            resource: Resource::of::<T>(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            subresource,
            patch,
        }
    }

    /// Only this very object, not one of the same name that came later.
    #[must_use]
    pub fn delete<T: Typed>(object: &T) -> Self {
        let meta = object.metadata();
        Self::Delete {
            resource: Resource::of::<T>(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            options: DeleteOptions {
                uid: meta.uid.clone(),
                ..DeleteOptions::default()
            },
        }
    }

    #[must_use]
    pub fn event(about: ObjectReference, kind: EventType, reason: &'static str, message: String) -> Self {
        Self::Event(Box::new(Note {
            about,
            kind,
            reason,
            message,
        }))
    }
}

/// What a write left behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// Plural name of the resource; empty for an event.
    pub plural: String,
    /// The revision of the write; 0 when unknown.
    pub revision: u64,
    /// The object as stored; null for deletions of something that was gone, and for events.
    pub object: Value,
}

/// Writes with one controller's identity.
#[derive(Clone)]
pub struct Executor {
    client: Client,
    recorder: Arc<Recorder>,
}

impl Executor {
    #[must_use]
    pub fn new(client: Client, recorder: Recorder) -> Self {
        Self {
            client,
            recorder: Arc::new(recorder),
        }
    }

    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// One after the other; the writes before a failure are returned with it.
    ///
    /// # Errors
    /// The first failure.
    pub async fn run(&self, actions: Vec<Action>) -> (Vec<Written>, Result<(), ApiError>) {
        let mut written = Vec::new();
        for action in actions {
            match self.one(action).await {
                Ok(one) => written.push(one),
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Side by side, each with its own outcome, in the order given. Bounded: every one in flight is a connection.
    pub async fn all(&self, actions: Vec<Action>) -> Vec<Result<Written, ApiError>> {
        futures::stream::iter(actions)
            .map(|action| self.one(action))
            .buffered(IN_FLIGHT)
            .collect()
            .await
    }

    /// # Errors
    /// The server's refusal.
    pub async fn one(&self, action: Action) -> Result<Written, ApiError> {
        let (method, path, resource, body) = match action {
            Action::Event(note) => {
                self.recorder.event(&note.about, note.kind, note.reason, &note.message);
                return Ok(Written::default());
            }
            Action::Create { resource, object } => {
                let namespace = text(&object, "namespace");
                (
                    Method::POST,
                    resource.path(namespace.as_deref(), None, None),
                    resource,
                    object,
                )
            }
            Action::Update {
                resource,
                object,
                subresource,
            } => {
                let (namespace, name) = (text(&object, "namespace"), text(&object, "name"));
                (
                    Method::PUT,
                    resource.path(namespace.as_deref(), name.as_deref(), subresource),
                    resource,
                    object,
                )
            }
            Action::Patch {
                resource,
                namespace,
                name,
                subresource,
                patch,
            } => {
                let path = resource.path(namespace.as_deref(), Some(&name), subresource);
                let body = patch.body().to_string().into_bytes();
                let sent = (patch.media_type(), body);
                let bytes = self
                    .client
                    .call(Method::PATCH, &path, Some(sent), "application/json")
                    .await?;
                return Ok(outcome(resource, &bytes));
            }
            Action::Delete {
                resource,
                namespace,
                name,
                options,
            } => {
                let path = query(&resource.path(namespace.as_deref(), Some(&name), None), &[]);
                return match self.client.request(Method::DELETE, &path, Some(options.to_vec())).await {
                    Ok(bytes) => Ok(outcome(resource, &bytes)),
                    Err(error) if error.is_not_found() => Ok(Written {
                        plural: resource.plural,
                        ..Written::default()
                    }),
                    // Another object of that name: ours is gone.
                    Err(error)
                        if error.is_conflict() && options.uid.is_some() && options.resource_version.is_none() =>
                    {
                        Ok(Written {
                            plural: resource.plural,
                            ..Written::default()
                        })
                    }
                    Err(error) => Err(error),
                };
            }
        };
        let bytes = self
            .client
            .request(method, &path, Some(body.to_string().into_bytes()))
            .await?;
        Ok(outcome(resource, &bytes))
    }
}

fn text(object: &Value, field: &str) -> Option<String> {
    object["metadata"][field].as_str().map(str::to_owned)
}

fn outcome(resource: Resource, bytes: &[u8]) -> Written {
    let object: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    // A Status has no version of an object in it.
    let revision = object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    Written {
        plural: resource.plural,
        revision,
        object,
    }
}
