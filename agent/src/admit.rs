//! Does the node take a pod that was assigned to it? The last check, against what the node itself knows.

use std::collections::BTreeSet;

use steersman_types::api::core::v1::Pod;

use crate::allocations::{Amounts, Lacking, amounts, fits};
use crate::env::Allocatable;
use crate::eviction;
use crate::pod;
use crate::pod::seen::Trouble;

/// What the node knows of itself.
pub struct Node<'a> {
    pub active: &'a [std::sync::Arc<Pod>],
    /// What other pods hold.
    pub used: Amounts,
    pub allocatable: &'a Allocatable,
    pub max_pods: usize,
    pub short_of: BTreeSet<eviction::Kind>,
}

/// Why the pod is refused, if it is, as the event says it; the status says `Pod was rejected: ` before. A pod that
/// already ran here (it has a start time) is always taken.
#[must_use]
pub fn refusal(new: &Pod, node: &Node<'_>) -> Option<Trouble> {
    let Node {
        active,
        used,
        allocatable,
        max_pods,
        short_of,
    } = node;
    if new.status.as_ref().is_some_and(|s| s.start_time.is_some()) || new.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if let Some(refused) = eviction::refusal(new, short_of) {
        return Some(refused);
    }
    if let Some(os) = pod::spec(new).os.as_ref().filter(|os| os.name != "linux") {
        let message = format!(
            "Failed to admit pod because the OS field doesn't match node OS: {}",
            os.name
        );
        return Some(Trouble {
            reason: "PodOSNotSupported".into(),
            message,
        });
    }
    let active: Vec<&Pod> = active.iter().map(AsRef::as_ref).filter(|p| !is_over(p)).collect();
    let out_of = |lacking: Lacking| Trouble {
        reason: format!("OutOf{}", lacking.resource),
        message: lacking.to_string(),
    };
    let count = i64::try_from(active.len()).unwrap_or(i64::MAX);
    let max = i64::try_from(*max_pods).unwrap_or(i64::MAX);
    if count >= max {
        return Some(out_of(Lacking {
            resource: "pods",
            requested: 1,
            used: count,
            capacity: max,
        }));
    }
    let taken: Vec<HostPort> = active.iter().flat_map(|p| host_ports(p)).collect();
    if host_ports(new)
        .iter()
        .any(|own| taken.iter().any(|other| own.clashes(other)))
    {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into();
        return Some(Trouble {
            reason: "NodePorts".into(),
            message,
        });
    }
    fits(amounts(new), *used, allocatable).map(out_of)
}

/// Whether the API says that the pod has ended.
#[must_use]
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// A port of the node that a pod takes. An empty address is every address.
struct HostPort {
    address: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    fn clashes(&self, other: &Self) -> bool {
        let any = |h: &Self| h.address.is_empty() || h.address == "0.0.0.0";
        let same_address = any(self) || any(other) || self.address == other.address;
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let sidecars = pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c));
    let ports = pod::main_containers(pod)
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    let taken = ports.filter_map(|p| {
        Some(HostPort {
            address: p.host_ip.clone().unwrap_or_default(),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            port: p.host_port.filter(|port| *port > 0)?,
        })
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use steersman_types::Typed;

    fn pod(cpu: &str, port: i32) -> Pod {
        let container = serde_json::json!({"name": "c", "resources": {"requests": {"cpu": cpu}},
            "ports": [{"containerPort": 80, "hostPort": port}]});
        Pod::from_value(&serde_json::json!({"spec": {"containers": [container]}})).unwrap()
    }

    #[test]
    fn a_pod_must_fit_beside_those_that_run() {
        let allocatable = BTreeMap::from([("cpu".to_owned(), 2000)]);
        let active = [Arc::new(pod("1500m", 8080))];
        let why = |new: &Pod, max| {
            let node = Node {
                active: &active,
                used: amounts(&active[0]),
                allocatable: &allocatable,
                max_pods: max,
                short_of: BTreeSet::new(),
            };
            refusal(new, &node).map(|t| format!("{}: {}", t.reason, t.message))
        };
        assert_eq!(why(&pod("500m", 0), 110), None);
        let cpu = "OutOfcpu: Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000";
        assert_eq!(why(&pod("600m", 0), 110).as_deref(), Some(cpu));
        let pods = "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 1, capacity: 1";
        assert_eq!(why(&pod("0", 0), 1).as_deref(), Some(pods));
        assert!(why(&pod("0", 8080), 110).is_some_and(|w| w.starts_with("NodePorts: Predicate NodePorts failed")));
        let mut known = pod("600m", 0);
        known.status = serde_json::from_value(serde_json::json!({"startTime": "2026-01-01T00:00:00Z"})).unwrap();
        assert_eq!(why(&known, 110), None, "it ran here before");
    }
}
