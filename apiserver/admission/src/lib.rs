//! Admission: what the cluster adds to a write, and what it refuses, after authorization and before the store.
//!
//! A [`Plugin`] is one file in this crate and one line in [`chain::ORDER`], which is upstream's order. The server builds one
//! [`Chain`] at start from the two flags and runs it inside the compare-and-swap retry: [`Chain::admit`] (may change
//! the object) before validation, [`Chain::validate`] (may only refuse) after it. Plugins read the cluster through
//! [`Cluster`]; time and randomness come with the request. The crate does not speak HTTP and stores nothing.

mod certificate_approval;
mod certificate_signing;
mod certificate_subject_restriction;
mod certificates;
pub mod chain;
mod default_class;
mod default_toleration_seconds;
mod edit;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_resize;
mod pod_security;
mod priority;
mod request;
mod resource_quota;
mod runtime_class;
mod service_account;
mod taint_nodes;
#[cfg(test)]
mod tests;

pub use chain::{Chain, UnknownPlugin};
pub use request::{Operation, Request, Warnings};

use std::sync::Arc;

use serde_json::Value;
use steersman_auth::{Authorizer, Lister};
use steersman_schema::status::Status;

/// The cluster as plugins see it: the cache, and a way to wait until the cache has caught up with the store.
#[async_trait::async_trait]
pub trait Cluster: Lister {
    /// Returns once everything that was committed before the call is visible through [`Lister`] (the server's consistent
    /// read). Plugins call it once, before refusing for want of an object (upstream: a live GET).
    ///
    /// # Errors
    /// When the store cannot say within the request's deadline: what the client is told then (503 or 504).
    async fn refresh(&self) -> Result<(), Box<Status>>;

    /// Replaces an object in the store if its `resourceVersion` is still the stored one: the object with its new version, or
    /// `None` when somebody else was first. Only for what plugins keep count of themselves (the status of quotas).
    ///
    /// # Errors
    /// When the store does not take it: what the client is told then.
    async fn replace(&self, _group: &str, _plural: &str, _object: &Value) -> Result<Option<Value>, Box<Status>> {
        Err(Box::new(Status::internal("the cluster is read only")))
    }

    /// Waits. Plugins wait only for what a controller is about to make; tests return at once.
    async fn pause(&self, time: std::time::Duration) {
        tokio::time::sleep(time).await;
    }
}

/// What plugins are built from.
#[derive(Clone)]
pub struct Surroundings {
    pub cluster: Arc<dyn Cluster>,
    pub authorizer: Arc<dyn Authorizer>,
    /// `--default-not-ready-toleration-seconds`, 300 unless given.
    pub not_ready_seconds: i64,
    /// `--default-unreachable-toleration-seconds`, 300 unless given.
    pub unreachable_seconds: i64,
}

/// One admission plugin. Both passes do nothing unless a plugin says otherwise.
#[async_trait::async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name, as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;
    fn handles(&self, operation: Operation) -> bool;
    /// The mutating pass.
    ///
    /// # Errors
    /// The refusal that the client sees (see [`Request::forbidden`]).
    async fn admit(&self, _request: &mut Request) -> Result<(), Box<Status>> {
        Ok(())
    }
    /// The validating pass: the object is final.
    ///
    /// # Errors
    /// The refusal that the client sees (see [`Request::forbidden`]).
    async fn validate(&self, _request: &Request) -> Result<(), Box<Status>> {
        Ok(())
    }
}
