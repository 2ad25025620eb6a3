//! One metadata informer per resource; together they are the graph of owners and dependents.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::RwLock;
use steersman_runtime::client::{ApiError, Client, Resource};
use steersman_runtime::informer::{IndexId, Object, PartialObject};
use steersman_runtime::{Event, Informer, Key, ListOptions};
use steersman_types::OwnerReference;
use tracing::info;

use super::Item;
use crate::discovery;

struct Monitor {
    informer: Informer<PartialObject>,
    by_uid: IndexId,
}

/// See the module. Informers come and go with discovery.
pub(super) struct Monitors {
    client: Client,
    running: RwLock<HashMap<Resource, Monitor>>,
}

impl Monitors {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            running: RwLock::default(),
        }
    }

    /// Starts what is new, stops what is gone (unless its group could not be asked).
    pub(super) async fn refresh(
        &self,
        changed: impl Fn(&Resource, &Event<PartialObject>) + Clone + Send + Sync + 'static,
    ) -> Result<(), ApiError> {
        let found = discovery::discover(&self.client).await?;
        let wanted = found.resources.into_iter().filter(|r| {
            // Events are many, short-lived and own nothing.
            r.can("delete") && r.can("list") && r.can("watch") && r.resource.plural != "events"
        });
        let wanted: Vec<Resource> = wanted.map(|r| r.resource).collect();
        let mut started = Vec::new();
        {
            let mut running = self.running.write();
            if found.failures.is_empty() {
                running.retain(|resource, _| wanted.contains(resource));
            }
            for resource in wanted {
                if running.contains_key(&resource) {
                    continue;
                }
                let options = ListOptions::all();
                let informer = Informer::start_resource(self.client.clone(), resource.clone(), options);
                let by_uid = informer.add_index(|o: &PartialObject| o.meta().uid.clone().into_iter().collect());
                started.push((resource.clone(), informer.clone()));
                running.insert(resource, Monitor { informer, by_uid });
            }
        }
        if !started.is_empty() {
            info!(
                resources = started.len(),
                "the garbage collector watches more resources"
            );
        }
        // After the lock: a handler looks at other monitors.
        for (resource, informer) in started {
            let changed = changed.clone();
            informer.on_event(move |event| changed(&resource, event));
        }
        Ok(())
    }

    /// Waits for the first lists, at most `limit`: a resource that cannot be listed must not stop everything.
    pub(super) async fn synced(&self, limit: Duration) {
        let informers: Vec<_> = self.running.read().values().map(|m| m.informer.clone()).collect();
        let all = join_all(informers.iter().map(Informer::synced));
        let _ = tokio::time::timeout(limit, all).await;
    }

    pub(super) fn get(&self, resource: &Resource, key: &Key) -> Option<Arc<PartialObject>> {
        self.running.read().get(resource)?.informer.get_key(key)
    }

    /// Objects that name `uid` as an owner, of all resources.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Item> {
        let running = self.running.read();
        let mut all = Vec::new();
        for (resource, monitor) in running.iter() {
            all.extend(
                monitor
                    .informer
                    .owned_by(uid)
                    .iter()
                    .map(|object| super::item(resource, object)),
            );
        }
        all
    }

    /// The resource of an owner's kind.
    pub(super) fn resource(&self, owner: &OwnerReference) -> Option<Resource> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let running = self.running.read();
        running
            .keys()
            .find(|r| r.kind == owner.kind && r.group == group)
            .cloned()
    }

    /// The owner, if it is known where the reference must be meant: in `namespace`, or cluster-scoped.
    pub(super) fn find(&self, owner: &OwnerReference, namespace: &str) -> Option<(Resource, Arc<PartialObject>)> {
        let resource = self.resource(owner)?;
        let namespace = if resource.namespaced { namespace } else { "" };
        let found = self.get(&resource, &Key::new(namespace, &owner.name))?;
        (found.metadata.uid.as_deref() == Some(owner.uid.as_str())).then_some((resource, found))
    }

    /// Whether any object has this UID.
    pub(super) fn anywhere(&self, uid: &str) -> bool {
        self.running
            .read()
            .values()
            .any(|m| !m.informer.by_index(m.by_uid, uid).is_empty())
    }
}
