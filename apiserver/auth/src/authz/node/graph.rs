//! Which node may read which object: kept as counts, so that a check is a lookup.
//!
//! A pod lends its node every object it refers to, once per pod; the node may read the object while the count is above
//! zero. A persistent volume is reached through the claim it is bound to, and lends the secrets needed to mount it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::references::{self, Kind};
use crate::lister::{items, text};

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Target {
    Of(Kind),
    Pod,
    Volume,
    Attachment,
    Slice,
}

type Key = (Target, Arc<str>, Arc<str>);

#[derive(Default)]
pub(super) struct Graph {
    /// Object -> node -> number of pods (or other objects) that lend it.
    lent: HashMap<Key, BTreeMap<Arc<str>, u32>>,
    /// What each pod, attachment and slice lends, to take it back.
    lenders: HashMap<Key, (Arc<str>, Vec<Key>)>,
    volumes: HashMap<String, Volume>,
    /// Secret -> volumes that need it.
    secrets: HashMap<(String, String), Vec<String>>,
}

struct Volume {
    claim: Key,
    secrets: Vec<(String, String)>,
}

fn key(target: Target, namespace: &str, name: &str) -> Key {
    (target, namespace.into(), name.into())
}

impl Graph {
    pub(super) fn may_read(&self, node: &str, target: Target, namespace: &str, name: &str) -> bool {
        let lent = |key: &Key| self.lent.get(key).is_some_and(|nodes| nodes.contains_key(node));
        let volume = |name: &String| self.volumes.get(name).is_some_and(|v| lent(&v.claim));
        match target {
            Target::Volume => volume(&name.to_owned()),
            Target::Of(Kind::Secret) => {
                lent(&key(target, namespace, name))
                    || self
                        .secrets
                        .get(&(namespace.to_owned(), name.to_owned()))
                        .is_some_and(|v| v.iter().any(volume))
            }
            _ => lent(&key(target, namespace, name)),
        }
    }

    pub(super) fn pod(&mut self, old: Option<&Value>, new: Option<&Value>) {
        if let (Some(old), Some(new)) = (old, new)
            && same_references(old, new)
        {
            return;
        }
        let Some(pod) = new.or(old) else { return };
        let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        let own = key(Target::Pod, namespace, name);
        let node = new.map(|pod| text(pod, "/spec/nodeName")).unwrap_or_default();
        let mut lends = vec![own.clone()];
        // A node creates mirror pods itself: they must not give it access to anything.
        if !pod
            .pointer("/metadata/annotations/kubernetes.io~1config.mirror")
            .is_some_and(Value::is_string)
        {
            let references = references::of_pod(pod);
            lends.extend(
                references
                    .iter()
                    .map(|(kind, name)| key(Target::Of(*kind), namespace, name)),
            );
        }
        self.lend(own, node, lends);
    }

    pub(super) fn attachment(&mut self, target: Target, old: Option<&Value>, new: Option<&Value>) {
        let Some(object) = new.or(old) else { return };
        let own = key(target, "", text(object, "/metadata/name"));
        let node = new.map(|object| text(object, "/spec/nodeName")).unwrap_or_default();
        self.lend(own.clone(), node, vec![own]);
    }

    pub(super) fn volume(&mut self, old: Option<&Value>, new: Option<&Value>) {
        let Some(volume) = new.or(old) else { return };
        let name = text(volume, "/metadata/name").to_owned();
        if let Some(gone) = self.volumes.remove(&name) {
            for secret in gone.secrets {
                if let Some(volumes) = self.secrets.get_mut(&secret) {
                    volumes.retain(|v| *v != name);
                    if volumes.is_empty() {
                        self.secrets.remove(&secret);
                    }
                }
            }
        }
        let claim = text(volume, "/spec/claimRef/name");
        if new.is_none() || claim.is_empty() {
            return;
        }
        let namespace = text(volume, "/spec/claimRef/namespace");
        let secrets = references::of_volume(volume, namespace);
        for secret in &secrets {
            self.secrets.entry(secret.clone()).or_default().push(name.clone());
        }
        self.volumes.insert(
            name,
            Volume {
                claim: key(Target::Of(Kind::Claim), namespace, claim),
                secrets,
            },
        );
    }

    /// Takes back what a lender lent, and lends `objects` to `node` unless that is empty.
    fn lend(&mut self, lender: Key, node: &str, objects: Vec<Key>) {
        if let Some((node, lent)) = self.lenders.remove(&lender) {
            for object in lent {
                let Some(nodes) = self.lent.get_mut(&object) else {
                    continue;
                };
                if let Some(count) = nodes.get_mut(&node) {
                    *count -= 1;
                    if *count == 0 {
                        nodes.remove(&node);
                    }
                }
                if nodes.is_empty() {
                    self.lent.remove(&object);
                }
            }
        }
        if node.is_empty() {
            return;
        }
        let node: Arc<str> = node.into();
        for object in &objects {
            *self
                .lent
                .entry(object.clone())
                .or_default()
                .entry(node.clone())
                .or_default() += 1;
        }
        self.lenders.insert(lender, (node, objects));
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lent.is_empty() && self.lenders.is_empty() && self.volumes.is_empty() && self.secrets.is_empty()
    }
}

/// Whether an update leaves alone everything that decides what a bound pod lends: a pod's spec is otherwise fixed.
fn same_references(old: &Value, new: &Value) -> bool {
    let count = |pod: &Value| items(pod, "/spec/ephemeralContainers").len();
    count(old) == count(new)
        && [
            "/metadata/uid",
            "/spec/nodeName",
            "/status/resourceClaimStatuses",
            "/status/extendedResourceClaimStatus",
        ]
        .into_iter()
        .all(|path| old.pointer(path) == new.pointer(path))
}
