//! ResourceQuota: a write that would use more of a namespace than its quotas allow is refused; what is allowed is entered
//! into the quotas' status before the write happens.
//!
//! What stays true: the status is changed by compare-and-swap, so that several servers cannot give the same room away
//! twice; in one server the writes of a namespace take turns, so that they do not fail by each other. A charge whose
//! write fails afterwards stays until the controller counts again (as upstream). Dry runs charge nothing.

mod charge;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use steersman_auth::lister::text;
use steersman_schema::status::Status;

use crate::{Cluster, Operation, Plugin, Request, Surroundings};

/// Rounds of compare-and-swap (upstream: one and three retries).
const ROUNDS: usize = 8;
/// How long a write waits for its turn and its charge (upstream's figure).
const PATIENCE: Duration = Duration::from_secs(10);
/// Namespaces remembered at most before those at rest are forgotten.
const MOST_NAMESPACES: usize = 1024;

/// The quotas of a namespace as this server wrote them last: the cache is a moment behind.
type Written = Arc<tokio::sync::Mutex<BTreeMap<String, Value>>>;

struct ResourceQuota {
    cluster: Arc<dyn Cluster>,
    namespaces: Mutex<HashMap<String, Written>>,
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(ResourceQuota {
        cluster: around.cluster.clone(),
        namespaces: Mutex::default(),
    })
}

fn version(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion").parse().unwrap_or(0)
}

impl ResourceQuota {
    fn namespace(&self, name: &str) -> Written {
        let mut namespaces = self.namespaces.lock();
        if namespaces.len() > MOST_NAMESPACES {
            namespaces.retain(|_, written| Arc::strong_count(written) > 1);
        }
        namespaces.entry(name.to_owned()).or_default().clone()
    }

    /// The newest known form of each quota.
    fn quotas(&self, namespace: &str, written: &mut BTreeMap<String, Value>) -> Vec<Value> {
        let cached = self.cluster.list("", "resourcequotas", Some(namespace));
        let known: BTreeMap<&str, &Arc<Value>> = cached.iter().map(|q| (text(q, "/metadata/name"), q)).collect();
        written.retain(|name, own| known.get(name.as_str()).is_some_and(|q| version(q) < version(own)));
        known
            .into_iter()
            .map(|(name, quota)| written.get(name).unwrap_or(quota).clone())
            .collect()
    }

    async fn charge(&self, request: &Request) -> Result<(), Box<Status>> {
        let written = self.namespace(&request.namespace);
        let mut written = written.lock().await;
        // Quotas that took the charge already, while another had to be tried again.
        let mut charged: Vec<String> = Vec::new();
        for round in 0..ROUNDS {
            if round > 0 {
                self.cluster.refresh().await?;
            }
            let mut quotas = self.quotas(&request.namespace, &mut written);
            quotas.retain(|quota| !charged.iter().any(|name| name == text(quota, "/metadata/name")));
            let changed = charge::charge(&quotas, request).map_err(|why| Box::new(request.forbidden(why)))?;
            if request.dry_run {
                return Ok(());
            }
            let mut again = false;
            for quota in changed {
                let name = text(&quota, "/metadata/name").to_owned();
                match self.cluster.replace("", "resourcequotas", &quota).await? {
                    Some(stored) => {
                        written.insert(name.clone(), stored);
                        charged.push(name);
                    }
                    None => {
                        written.remove(&name);
                        again = true;
                    }
                }
            }
            if !again {
                return Ok(());
            }
        }
        Err(Box::new(Status::modified("", "resourcequotas", "")))
    }
}

#[async_trait::async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &Request) -> Result<(), Box<Status>> {
        let beside = request.namespace.is_empty() || request.is("", "namespaces");
        if beside || steersman_quota::is_ignored(&request.group, &request.resource) || !charge::concerns(request) {
            return Ok(());
        }
        if self
            .cluster
            .list("", "resourcequotas", Some(&request.namespace))
            .is_empty()
        {
            return Ok(());
        }
        tokio::time::timeout(PATIENCE, self.charge(request))
            .await
            .unwrap_or_else(|_| Err(Box::new(Status::internal("resource quota evaluation timed out"))))
    }
}
