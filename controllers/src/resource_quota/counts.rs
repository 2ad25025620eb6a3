//! The objects that quotas count, as caches: those that every cluster has from the start, others when first asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use steersman_quota::Amounts;
use steersman_runtime::client::{Client, ListOptions, Resource};
use steersman_runtime::informer::{Object, PartialObject};
use steersman_runtime::{Event, Informer, Informers, Key, WorkQueue};
use steersman_types::Typed;
use steersman_types::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};

use super::decide::{self, Counted};
use crate::discovery;

/// See the module.
pub struct Counts {
    client: Client,
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<Key>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    others: Mutex<BTreeMap<Counted, Informer<PartialObject>>>,
}

impl Counts {
    pub fn new(informers: &Informers, quotas: Informer<ResourceQuota>, queue: WorkQueue<Key>) -> Self {
        let counts = Self {
            client: informers.client().clone(),
            quotas,
            queue,
            pods: informers.of(),
            services: informers.of(),
            claims: informers.of(),
            others: Mutex::default(),
        };
        counts.follow_whole(&counts.pods, Counted::new("", "pods"));
        counts.follow_whole(&counts.services, Counted::new("", "services"));
        counts.follow_whole(&counts.claims, Counted::new("", "persistentvolumeclaims"));
        counts.follow(&counts.quotas, Counted::new("", "resourcequotas"), |_, _| true);
        counts
    }

    pub async fn synced(&self) {
        self.pods.synced().await;
        self.services.synced().await;
        self.claims.synced().await;
    }

    /// What the objects of one resource in a namespace use of `quota`.
    ///
    /// # Errors
    /// When the server does not know the resource, or cannot be asked.
    pub async fn of(
        &self,
        namespace: &str,
        quota: &Value,
        hard: &Amounts,
        resource: &Counted,
        now: Timestamp,
    ) -> Result<Amounts, String> {
        fn values<T: Typed>(informer: &Informer<T>, namespace: &str) -> Vec<Value> {
            informer
                .list_in(namespace)
                .iter()
                .map(|object| object.to_value())
                .collect()
        }
        let objects = match (resource.group.as_str(), resource.plural.as_str()) {
            ("", "pods") => values(&self.pods, namespace),
            ("", "services") => values(&self.services, namespace),
            ("", "persistentvolumeclaims") => values(&self.claims, namespace),
            // The cache that told of the quota to count for: it has at least that one.
            ("", "resourcequotas") => {
                return Ok(decide::number(
                    quota,
                    hard,
                    resource,
                    self.quotas.list_in(namespace).len(),
                ));
            }
            _ => {
                let informer = self.informer(resource).await?;
                return Ok(decide::number(quota, hard, resource, informer.list_in(namespace).len()));
            }
        };
        Ok(decide::usage(quota, hard, resource, objects.iter(), now))
    }

    async fn informer(&self, resource: &Counted) -> Result<Informer<PartialObject>, String> {
        let known = self.others.lock().get(resource).cloned();
        if let Some(informer) = known {
            informer.synced().await;
            return Ok(informer);
        }
        let found = discovery::discover(&self.client).await.map_err(|e| e.to_string())?;
        let found = found.resources.into_iter().find(|one| {
            let same = one.resource.group == resource.group && one.resource.plural == resource.plural;
            same && one.resource.namespaced && ["list", "watch"].iter().all(|verb| one.can(verb))
        });
        let found: Resource = found.ok_or("no such resource")?.resource;
        let informer = self
            .others
            .lock()
            .entry(resource.clone())
            .or_insert_with(|| Informer::start_resource(self.client.clone(), found, ListOptions::all()))
            .clone();
        informer.synced().await;
        let same = |_: &PartialObject, _: &PartialObject| true;
        self.follow(&informer, resource.clone(), same);
        Ok(informer)
    }

    fn follow_whole<T: Typed>(&self, informer: &Informer<T>, resource: Counted) {
        let measure = resource.evaluator();
        let same = move |old: &T, new: &T| {
            let now = Timestamp::now();
            let usage = |object: &T| measure.usage(&object.to_value(), now);
            usage(old) == usage(new)
        };
        self.follow(informer, resource, same);
    }

    /// Queues the quotas of the namespace that are about the resource, when an object goes or costs something else.
    fn follow<T: Object>(
        &self,
        informer: &Informer<T>,
        resource: Counted,
        same: impl Fn(&T, &T) -> bool + Send + Sync + 'static,
    ) {
        let (quotas, queue, measure) = (self.quotas.clone(), self.queue.clone(), resource.evaluator());
        informer.on_event(move |event| {
            let namespace = event.object().meta().namespace.as_deref().unwrap_or_default();
            let here: Vec<Arc<ResourceQuota>> = match event {
                Event::Added(_) => return,
                _ => quotas.list_in(namespace),
            };
            if here.is_empty() || matches!(event, Event::Updated { old, new } if same(old, new)) {
                return;
            }
            for quota in here {
                let hard = quota.spec.as_ref().and_then(|s| s.hard.as_ref());
                if hard.is_some_and(|hard| hard.keys().any(|name| measure.measures(name))) {
                    queue.add(Key::of(quota.as_ref()));
                }
            }
        });
    }
}
