//! Counts what is used of each ResourceQuota: when a quota changes, when something it counts goes away or shrinks, and
//! every five minutes.
//!
//! Watches: resourcequotas, and of what they limit pods, services and claims whole, everything else by metadata, from the
//! moment that a quota first asks for it. Writes: resourcequotas/status. [`decide`] counts, [`counts`] knows what is there.
//!
//! What stays true: what is created is charged by the API server's admission and not here, and a count never takes room
//! back that was just given away ([`doubt`]); a resource that cannot be counted keeps its last figure.

mod counts;
pub mod decide;
mod doubt;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use steersman_quota::amounts::{self, Amounts};
use steersman_runtime::client::Resource;
use steersman_runtime::{Informer, Key, WorkQueue};
use steersman_types::Typed;
use steersman_types::api::core::v1::ResourceQuota;

use crate::act::{Action, Executor};
use crate::context::Context;
use counts::Counts;
use doubt::{Doubts, SETTLED};

const WORKERS: usize = 5;
/// Upstream's `--resource-quota-sync-period`.
const RESYNC: Duration = Duration::from_secs(300);
/// After the first count for new limits: the caches of what is counted may have been behind that of the quotas.
const RECOUNT: Duration = Duration::from_secs(2);
/// After a conflict.
const AGAIN: Duration = Duration::from_millis(20);

struct Quotas {
    quotas: Informer<ResourceQuota>,
    counts: Counts,
    doubts: Mutex<Doubts>,
    executor: Executor,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let quotas = context.informers.of::<ResourceQuota>();
        let executor = context.executor("resourcequota-controller");
        let queue: WorkQueue<Key> = context.queue();
        let counts = Counts::new(&context.informers, quotas.clone(), queue.clone());
        quotas.synced().await;
        counts.synced().await;
        let events = queue.clone();
        quotas.on_event(move |event| {
            // Writes of usage alone come from admission and from here; limits that somebody else wrote into the status are
            // put right at once (upstream leaves them until the next resync).
            let quota = event.object();
            let wanted = |q: &ResourceQuota| q.spec.clone().and_then(|s| s.hard).unwrap_or_default();
            let shown = quota.status.clone().and_then(|s| s.hard).unwrap_or_default();
            if event.old().is_none_or(|old| wanted(old) != wanted(quota)) || shown != wanted(quota) {
                events.add(Key::of(quota.as_ref()));
            }
        });
        let this = Arc::new(Quotas {
            quotas,
            counts,
            doubts: Mutex::default(),
            executor,
        });
        queue
            .run("resource quota", WORKERS, move |key| reconcile(this.clone(), key))
            .await;
        Ok(())
    })
}

async fn reconcile(this: Arc<Quotas>, key: Key) -> Result<Option<Duration>, String> {
    let Some(quota) = this.quotas.get_key(&key) else {
        this.doubts.lock().forget(&key);
        return Ok(None);
    };
    let quota = quota.to_value();
    let hard = amounts::of(quota.pointer("/spec/hard"));
    let new_limits = amounts::of(quota.pointer("/status/hard")) != hard;
    let (mut counted, failures) = this.count(&key.namespace, &quota, &hard).await;
    let doubted = this.doubt(&key, &quota, &counted);
    if doubted {
        counted = decide::not_below(&quota, counted);
    }
    if let Some(status) = decide::status(&quota, &counted) {
        match this.write(quota, status).await {
            Err(error) if error.is_not_found() => return Ok(None),
            // Something was charged in between: count again.
            Err(error) if error.is_conflict() => return Ok(Some(AGAIN)),
            outcome => outcome.map_err(|e| e.to_string())?,
        }
    }
    if failures.is_empty() {
        Ok(Some(match (new_limits, doubted) {
            (true, _) => RECOUNT,
            (false, true) => SETTLED,
            (false, false) => RESYNC,
        }))
    } else {
        Err(failures.join(", "))
    }
}

impl Quotas {
    /// Whether the count is lower than what is charged, and may yet rise to it.
    fn doubt(&self, key: &Key, quota: &Value, counted: &Amounts) -> bool {
        let mut doubts = self.doubts.lock();
        if !decide::is_below(quota, counted) {
            doubts.forget(key);
            return false;
        }
        let version = quota.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        !doubts.believe(key, version.unwrap_or_default(), Instant::now())
    }

    async fn count(&self, namespace: &str, quota: &Value, hard: &Amounts) -> (Amounts, Vec<String>) {
        let now = Timestamp::now();
        let (mut total, mut failures) = (Amounts::new(), Vec::new());
        for resource in decide::counted(hard) {
            match self.counts.of(namespace, quota, hard, &resource, now).await {
                Ok(used) => total.extend(used),
                Err(why) => failures.push(format!("{}: {why}", resource.plural)),
            }
        }
        (total, failures)
    }

    async fn write(&self, mut quota: Value, status: Value) -> Result<(), steersman_runtime::ApiError> {
        quota["status"] = status;
        let action = Action::Update {
            resource: Resource::of::<ResourceQuota>(),
            object: quota,
            subresource: Some("status"),
        };
        self.executor.one(action).await.map(drop)
    }
}
