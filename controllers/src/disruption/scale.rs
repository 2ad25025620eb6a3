//! How many pods the controllers behind a set of pods want: from the caches for the kinds that everybody uses, through the
//! `scale` subresource for all others.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use steersman_runtime::client::{ApiError, Client, Resource};
use steersman_runtime::{Informer, Informers};
use steersman_types::OwnerReference;
use steersman_types::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use steersman_types::api::core::v1::{Pod, ReplicationController};

use super::decide::Scale;
use crate::owners;

/// See the module.
pub struct Scales {
    client: Client,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
}

impl Scales {
    pub fn new(informers: &Informers, client: Client) -> Self {
        Self {
            client,
            deployments: informers.of(),
            replica_sets: informers.of(),
            stateful_sets: informers.of(),
            replication_controllers: informers.of(),
        }
    }

    pub async fn synced(&self) {
        self.deployments.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.replication_controllers.synced().await;
    }

    /// By the UID of each pod's controller reference; `None` where there is no such controller any more.
    ///
    /// # Errors
    /// When a controller of a kind without `scale` owns a pod, or the server does not answer.
    pub async fn of(&self, pods: &[Arc<Pod>]) -> Result<BTreeMap<String, Option<Scale>>, String> {
        let mut found = BTreeMap::new();
        for pod in pods {
            let Some(owner) = owners::controller_of(&pod.metadata) else {
                continue;
            };
            if found.contains_key(&owner.uid) {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let scale = match self.cached(namespace, owner) {
                Some(scale) => Some(scale),
                None => self.asked(namespace, owner).await?,
            };
            found.insert(owner.uid.clone(), scale);
        }
        Ok(found)
    }

    /// `None`: not of a cached kind, or not in the cache.
    fn cached(&self, namespace: &str, owner: &OwnerReference) -> Option<Scale> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let scale = match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let set = self.replica_sets.get(namespace, &owner.name)?;
                let parent = owners::controller_of(&set.metadata).filter(|p| p.kind == "Deployment");
                // Several sets of one deployment count once, with what the deployment wants.
                if let Some(parent) = parent.filter(|_| set.metadata.uid.as_deref() == Some(&owner.uid)) {
                    let deployment = self.deployments.get(namespace, &parent.name)?;
                    let replicas = deployment.spec.as_ref().and_then(|s| s.replicas);
                    return scale(&deployment.metadata.uid, replicas).filter(|s| s.uid == parent.uid);
                }
                scale(&set.metadata.uid, set.spec.as_ref().and_then(|s| s.replicas))
            }
            ("apps", "StatefulSet") => {
                let set = self.stateful_sets.get(namespace, &owner.name)?;
                scale(&set.metadata.uid, set.spec.as_ref().and_then(|s| s.replicas))
            }
            ("", "ReplicationController") => {
                let set = self.replication_controllers.get(namespace, &owner.name)?;
                scale(&set.metadata.uid, set.spec.as_ref().and_then(|s| s.replicas))
            }
            _ => None,
        };
        scale.filter(|s| s.uid == owner.uid)
    }

    async fn asked(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<Scale>, String> {
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let path = if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        };
        let unknown = || {
            format!(
                "no matches for kind {:?} in version {:?}",
                owner.kind, owner.api_version
            )
        };
        let list = match self.client.request_value(Method::GET, &path, None).await {
            Ok(list) => list,
            Err(error) if error.is_not_found() => return Err(unknown()),
            Err(error) => return Err(error.to_string()),
        };
        let names = |kind: Option<&str>| {
            let resources = list["resources"].as_array().into_iter().flatten();
            let names = resources.filter(move |r| kind.is_none_or(|kind| r["kind"] == kind));
            names
                .filter_map(|r| r["name"].as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        let plural = names(Some(&owner.kind)).into_iter().find(|name| !name.contains('/'));
        let plural = plural.ok_or_else(unknown)?;
        if !names(None).contains(&format!("{plural}/scale")) {
            let dot = if group.is_empty() { "" } else { "." };
            return Err(format!("{plural}{dot}{group} does not implement the scale subresource"));
        }
        let resource = Resource {
            group: group.to_owned(),
            version: version.to_owned(),
            plural,
            kind: owner.kind.clone(),
            namespaced: true,
        };
        let path = resource.path(Some(namespace), Some(&owner.name), Some("scale"));
        let answer: Result<_, ApiError> = self.client.request_value(Method::GET, &path, None).await;
        match answer {
            Ok(found) if found["metadata"]["uid"] == owner.uid.as_str() => {
                let replicas = found["spec"]["replicas"].as_i64().unwrap_or(0);
                Ok(scale(&Some(owner.uid.clone()), i32::try_from(replicas).ok()))
            }
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn scale(uid: &Option<String>, replicas: Option<i32>) -> Option<Scale> {
    Some(Scale {
        uid: uid.clone()?,
        replicas: replicas.unwrap_or(1),
    })
}
