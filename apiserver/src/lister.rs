//! How authentication, authorization and admission read the cluster: from the cache, without waiting. And the index
//! that the cache keeps of every object.

use std::any::Any;
use std::sync::Arc;

use serde_json::Value;
use steersman_admission::Cluster;
use steersman_auth::{Follower, Lister};
use steersman_schema::codec;
use steersman_schema::status::Status;
use steersman_storage::cache::{self, Cache, Indexed, Indexer, Next, Object, Pairs, Scope};
use steersman_storage::store::{self, Store};
use tokio_util::sync::CancellationToken;

use crate::registry::{object, store_refusal, unanswered};
use crate::resources::{Resource, Resources};

/// Reads from the cache; what admission keeps count of goes through the store.
pub struct CacheLister {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    resources: Arc<Resources>,
}

impl CacheLister {
    pub fn new(store: Arc<dyn Store>, cache: Arc<Cache>, resources: Arc<Resources>) -> Self {
        Self {
            store,
            cache,
            resources,
        }
    }

    fn value(&self, resource: &Resource, found: &Object) -> Option<Arc<Value>> {
        if let Some(kept) = found.extra().cloned().and_then(|extra| extra.downcast::<Value>().ok()) {
            return Some(kept);
        }
        object::value(resource, found).ok().map(Arc::new)
    }
}

impl Lister for CacheLister {
    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let Some(resource) = self.resources.preferred(group, plural) else {
            return Vec::new();
        };
        let snapshot = self.cache.snapshot(&resource.prefix);
        let within = resource.within(namespace.unwrap_or_default());
        snapshot
            .range(&within, None)
            .filter_map(|found| self.value(resource, found))
            .collect()
    }

    fn get(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        let resource = self.resources.preferred(group, plural)?;
        let found = self.cache.get(&resource.key(namespace.unwrap_or_default(), name))?;
        self.value(resource, &found)
    }
}

#[async_trait::async_trait]
impl Cluster for CacheLister {
    async fn refresh(&self) -> Result<(), Box<Status>> {
        let fresh = crate::api::fresh(&self.cache).await;
        fresh.map_err(|error| match error {
            cache::Error::Store(error) => Box::new(unanswered(error, "a read for admission")),
            other => Box::new(Status::internal(other)),
        })
    }

    async fn replace(&self, group: &str, plural: &str, object: &Value) -> Result<Option<Value>, Box<Status>> {
        let unfit = |why: &str| Box::new(Status::internal(why));
        let resource = self.resources.preferred(group, plural);
        let resource = resource.ok_or_else(|| unfit("no such resource"))?;
        let meta = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let expected: i64 = meta("resourceVersion")
            .parse()
            .map_err(|_| unfit("no resourceVersion"))?;
        let key = resource.key(meta("namespace"), meta("name"));
        let stored = object::to_stored(resource, object).map_err(Box::new)?;
        match self.store.update(&key, stored, expected, None).await {
            Ok(revision) => {
                let mut new = object.clone();
                object::set_version(&mut new, revision);
                Ok(Some(new))
            }
            Err(store::Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(Box::new(store_refusal(error, resource, meta("name"), "update"))),
        }
    }
}

/// Keeps a follower up to date with the cache until the server stops. Returns when the initial state has been told.
pub async fn follow(
    cache: Arc<Cache>,
    lister: Arc<CacheLister>,
    resources: &Resources,
    follower: Arc<dyn Follower>,
    stop: &CancellationToken,
) {
    for (group, plural) in follower.follows() {
        let Some(resource) = resources.preferred(group, plural).cloned() else {
            continue;
        };
        let snapshot = cache.snapshot(&resource.prefix);
        for found in snapshot.range(&resource.prefix, None) {
            if let Some(value) = lister.value(&resource, found) {
                follower.changed(group, plural, None, Some(&value));
            }
        }
        let revision = snapshot.revision();
        let (cache, lister, follower, stop) = (cache.clone(), lister.clone(), follower.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tell(cache, lister, resource, follower, (group, plural), revision) => {}
            }
        });
    }
}

async fn tell(
    cache: Arc<Cache>,
    lister: Arc<CacheLister>,
    resource: Arc<Resource>,
    follower: Arc<dyn Follower>,
    (group, plural): (&'static str, &'static str),
    mut revision: i64,
) {
    let scope = Scope::prefix(&resource.prefix, &resource.prefix);
    let value = |found: Option<&Arc<Object>>| found.and_then(|found| lister.value(&resource, found));
    // What has been told, to tell the difference after history was lost.
    let mut known: std::collections::BTreeMap<String, Arc<Object>> = cache
        .snapshot(&resource.prefix)
        .range(&resource.prefix, None)
        .map(|o| (o.key().to_owned(), o.clone()))
        .collect();
    loop {
        let Ok(mut watch) = cache.watch(scope.clone(), revision) else {
            let snapshot = cache.snapshot(&resource.prefix);
            let now: std::collections::BTreeMap<String, Arc<Object>> = snapshot
                .range(&resource.prefix, None)
                .map(|o| (o.key().to_owned(), o.clone()))
                .collect();
            for (key, old) in &known {
                if !now.contains_key(key) {
                    follower.changed(group, plural, value(Some(old)).as_deref(), None);
                }
            }
            for (key, new) in &now {
                let old = known.get(key);
                if old.map(|o| o.mod_revision()) != Some(new.mod_revision()) {
                    follower.changed(group, plural, value(old).as_deref(), value(Some(new)).as_deref());
                }
            }
            known = now;
            revision = snapshot.revision();
            continue;
        };
        loop {
            match watch.next().await {
                Next::Expired => break,
                Next::Events(events) => {
                    for event in events {
                        follower.changed(
                            group,
                            plural,
                            value(event.old()).as_deref(),
                            value(event.new()).as_deref(),
                        );
                        match event.new() {
                            Some(new) => known.insert(new.key().to_owned(), new.clone()),
                            None => known.remove(event.key()),
                        };
                        revision = event.revision();
                    }
                }
            }
        }
    }
}

/// Looks inside stored bytes for the cache: labels, selectable fields, uid.
pub struct KindIndexer {
    resources: Arc<Resources>,
}

impl KindIndexer {
    pub fn new(resources: Arc<Resources>) -> Self {
        Self { resources }
    }
}

/// Kinds whose values the server itself reads so often that they are kept decoded.
fn kept_decoded(resource: &Resource) -> bool {
    match resource.group() {
        "" => matches!(resource.plural(), "namespaces" | "serviceaccounts"),
        "rbac.authorization.k8s.io" => true,
        "scheduling.k8s.io" => resource.plural() == "priorityclasses",
        _ => false,
    }
}

impl Indexer for KindIndexer {
    fn index(&self, key: &str, value: &[u8], mod_revision: i64) -> Result<Indexed, String> {
        let Some(resource) = self.resources.of_key(key) else {
            // Not an object: allocator maps, leases of servers, custom resources of a later issue.
            return Ok(Indexed {
                stored: bytes::Bytes::copy_from_slice(value),
                ..Indexed::default()
            });
        };
        let stored = codec::with_resource_version(value, mod_revision).map_err(|error| error.to_string())?;
        let decoded = object::value_of(resource, &stored, key).map_err(|status| status.message)?;
        let labels: Pairs = decoded
            .pointer("/metadata/labels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
            .collect();
        let fields: Pairs = resource
            .kind
            .fields
            .iter()
            .map(|(name, read)| (*name, read(&decoded)))
            .collect();
        let uid = decoded
            .pointer("/metadata/uid")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .into();
        let extra = kept_decoded(resource).then(|| Arc::new(decoded) as Arc<dyn Any + Send + Sync>);
        Ok(Indexed {
            stored: stored.into(),
            uid,
            labels,
            fields,
            extra,
        })
    }
}
