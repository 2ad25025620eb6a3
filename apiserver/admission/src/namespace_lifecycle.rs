//! NamespaceLifecycle: nothing is written into a namespace that does not exist, nothing new into one that ends, and the
//! system's namespaces stay.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use steersman_auth::lister::text;
use steersman_schema::status::Status;

use crate::{Cluster, Operation, Plugin, Request, Surroundings};

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
/// How long after a deletion the cache is not believed when it says that the namespace is active, seconds.
const DOUBT_SECONDS: i64 = 30;
const MAX_DOUBTED: usize = 100;

pub(crate) struct NamespaceLifecycle {
    cluster: Arc<dyn Cluster>,
    /// Namespaces whose deletion passed through here, and until when the cache may lag behind it.
    doubted: Mutex<HashMap<String, i64>>,
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(NamespaceLifecycle {
        cluster: around.cluster.clone(),
        doubted: Mutex::default(),
    })
}

impl NamespaceLifecycle {
    fn find(&self, name: &str) -> Option<Arc<Value>> {
        self.cluster.get("", "namespaces", None, name)
    }

    fn doubt(&self, name: &str, now: Timestamp) {
        let mut doubted = self.doubted.lock();
        doubted.retain(|_, until| *until > now.as_second());
        if doubted.len() < MAX_DOUBTED {
            doubted.insert(name.to_owned(), now.as_second() + DOUBT_SECONDS);
        }
    }

    fn is_doubted(&self, name: &str, now: Timestamp) -> bool {
        self.doubted
            .lock()
            .get(name)
            .is_some_and(|until| *until > now.as_second())
    }
}

#[async_trait::async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn admit(&self, request: &mut Request) -> Result<(), Box<Status>> {
        let is_namespace = request.kind == "Namespace" && request.kind_group.is_empty();
        if is_namespace {
            if request.operation == Operation::Delete {
                if IMMORTAL.contains(&request.name.as_str()) {
                    let why = "this namespace may not be deleted";
                    return Err(Box::new(Status::forbidden("", &request.resource, &request.name, why)));
                }
                self.doubt(&request.name, request.now);
            }
            return Ok(());
        }
        // Saying that a namespace does not exist would let those who may only ask for reviews find out which ones do.
        let review = request.is("authorization.k8s.io", "localsubjectaccessreviews");
        if request.namespace.is_empty() || request.operation == Operation::Delete || review {
            return Ok(());
        }
        let name = request.namespace.as_str();
        let mut found = self.find(name);
        let active = found.as_ref().is_some_and(|n| text(n, "/status/phase") == "Active");
        if found.is_none() || (active && self.is_doubted(name, request.now)) {
            self.cluster.refresh().await?;
            found = self.find(name);
        }
        let namespace = found.ok_or_else(|| Box::new(Status::not_found("", "namespaces", name)))?;
        if request.operation == Operation::Create && text(&namespace, "/status/phase") == "Terminating" {
            let why = format!("unable to create new content in namespace {name} because it is being terminated");
            let cause = format!("namespace {name} is being terminated");
            let status = request
                .forbidden(why)
                .with_cause("NamespaceTerminating", cause, "metadata.namespace");
            return Err(Box::new(status));
        }
        Ok(())
    }
}
