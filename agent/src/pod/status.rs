//! What to report about a pod, given what is seen of it.
//!
//! Called by the pod's worker after each observation. Pure. What stays true: a phase Succeeded or Failed is never left;
//! conditions of others (readiness gates, `DisruptionTarget`) are kept as they are; a container that ran once is never
//! reported as never started.

mod conditions;
mod containers;
mod phase;
mod whole;

use steersman_types::api::core::v1::{HostIP, Pod, PodIP, PodStatus};
use steersman_types::meta::Time;

use super::qos::qos;
use super::seen::{Ending, PodSeen};

pub use containers::second;

/// The pod's status. `old` is what was reported last, or what the API holds.
#[must_use]
pub fn status(pod: &Pod, seen: &PodSeen, old: &PodStatus) -> PodStatus {
    let mut new = PodStatus {
        observed_generation: pod.metadata.generation,
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| qos(pod).name().into())),
        start_time: Some(old.start_time.clone().unwrap_or_else(|| Time(second(seen.now)))),
        nominated_node_name: old.nominated_node_name.clone(),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        ..PodStatus::default()
    };
    // A pod that the node refused, now or before the agent began, has no containers to speak of; clients then show the
    // reason instead.
    let over = seen.failed.is_some() || old.phase.as_deref() == Some("Failed");
    let refused = over && seen.containers.is_empty() && old.container_statuses.is_none();
    if !refused {
        containers::fill(pod, seen, old, &mut new);
        whole::fill(pod, seen, &mut new);
    }
    let terminal = seen.ending == Ending::Stopped;
    let phase = phase::phase(pod, seen, &new, terminal);
    let final_before = old.phase.clone().filter(|p| p == "Failed" || p == "Succeeded");
    // A pod that the node ends is over when its containers are, and not before.
    let under_way =
        final_before.is_none() && !terminal && seen.containers.iter().any(super::seen::ContainerSeen::is_running);
    let phase = if under_way && seen.failed.is_some() {
        old.phase.clone().unwrap_or_else(|| "Pending".into())
    } else {
        final_before.unwrap_or(phase)
    };
    if old.phase.as_ref() == Some(&phase) {
        new.reason.clone_from(&old.reason);
        new.message.clone_from(&old.message);
    }
    if let Some(failed) = seen.failed.as_ref().filter(|_| !under_way) {
        new.reason = Some(failed.reason.clone());
        new.message = Some(failed.message.clone());
    }
    new.phase = Some(phase);
    addresses(pod, seen, old, &mut new);
    new.conditions = Some(conditions::conditions(pod, seen, old, &new));
    new
}

fn addresses(pod: &Pod, seen: &PodSeen, old: &PodStatus, new: &mut PodStatus) {
    new.host_ip = seen.host_ips.first().cloned().or_else(|| old.host_ip.clone());
    new.host_ips = Some(seen.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let ips: Vec<String> = if super::is_host_network(pod) {
        seen.host_ips.clone()
    } else {
        // The newest sandbox counts; one that stopped keeps the address it had.
        seen.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default()
    };
    let ips = if ips.is_empty() {
        old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
    } else {
        ips
    };
    new.pod_ip = ips.first().cloned();
    new.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
}

#[cfg(test)]
mod tests;
