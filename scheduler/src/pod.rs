//! A pod as the scheduler looks at it: the object, and what is computed from it once instead of once per node.

use std::sync::Arc;

use steersman_types::Typed;
use steersman_types::api::core::v1::Pod;

use crate::resources::{self, PodRequests};
use crate::terms::{Spread, Terms};

/// `namespace/name` and UID of a pod: a re-created pod of the same name is another pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl PodKey {
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let meta = pod.metadata();
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        Self {
            namespace: text(&meta.namespace),
            name: text(&meta.name),
            uid: text(&meta.uid),
        }
    }
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A host port that a pod occupies on its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// `0.0.0.0` for all addresses.
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Two ports clash when protocol and number are equal and one of the addresses covers the other.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        let wild = |ip: &str| ip == "0.0.0.0";
        self.protocol == other.protocol
            && self.port == other.port
            && (wild(&self.ip) || wild(&other.ip) || self.ip == other.ip)
    }
}

/// A pod with its derived facts.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pub key: PodKey,
    pub pod: Arc<Pod>,
    pub requests: PodRequests,
    pub host_ports: Vec<HostPort>,
    pub priority: i32,
    /// Its opinions about other pods.
    pub terms: Terms,
    pub spread_hard: Vec<Spread>,
    pub spread_soft: Vec<Spread>,
}

impl PodInfo {
    #[must_use]
    pub fn new(pod: Arc<Pod>) -> Self {
        let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default();
        Self {
            key: PodKey::of(&pod),
            requests: resources::requests(&pod),
            host_ports: host_ports(&pod),
            priority,
            terms: Terms::of(&pod),
            spread_hard: Spread::of(&pod, true),
            spread_soft: Spread::of(&pod, false),
            pod,
        }
    }

    /// The node that was cleared for it by preemption, empty if none.
    #[must_use]
    pub fn nominated(&self) -> &str {
        let status = self.pod.status.as_ref();
        status
            .and_then(|s| s.nominated_node_name.as_deref())
            .unwrap_or_default()
    }

    /// The node that the pod is bound to, empty if none.
    #[must_use]
    pub fn node(&self) -> &str {
        node_of(&self.pod)
    }
}

/// The node that `pod` is bound to, empty if none.
#[must_use]
pub fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or_default()
}

/// Whether the pod has run to its end and holds nothing any more.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    matches!(
        pod.status.as_ref().and_then(|s| s.phase.as_deref()),
        Some("Succeeded" | "Failed")
    )
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|port| *port > 0)?;
            let or = |value: &Option<String>, default: &str| {
                value
                    .clone()
                    .filter(|v| !v.is_empty())
                    .unwrap_or_else(|| default.to_owned())
            };
            Some(HostPort {
                ip: or(&p.host_ip, "0.0.0.0"),
                protocol: or(&p.protocol, "TCP"),
                port,
            })
        })
        .collect()
}
