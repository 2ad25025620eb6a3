//! What is said about a pod that is ended for the node's sake. Upstream's words.

use std::collections::BTreeMap;

use steersman_schema::quantity::{Format, Quantity};
use steersman_types::api::core::v1::{Container, Pod};

use super::judge::Observations;
use super::threshold::{Resource, Threshold};
use crate::pod::{self, demand};
use crate::stats::types::{ContainerStats, PodStats};

/// The message, and the annotations of the event.
#[must_use]
pub fn message(
    resource: Resource,
    pod: &Pod,
    stats: Option<&PodStats>,
    due: &[Threshold],
    seen: &Observations,
) -> (String, BTreeMap<String, String>) {
    let mut text = format!("The node was low on resource: {}. ", resource.name());
    let about = due.iter().find_map(|t| {
        let seen = seen.get(&t.signal).filter(|_| t.signal.resource() == resource)?;
        Some((t.limit.quantity(seen.capacity), seen.available))
    });
    if let Some((limit, available)) = about {
        let available = Quantity::from_value(available, resource.format());
        text += &format!("Threshold quantity: {limit}, available: {available}. ");
    }
    let mut annotations = BTreeMap::new();
    let Some(stats) = stats else {
        return (text, annotations);
    };
    let mut add = |name: &str, value: String| annotations.insert(name.to_owned(), value);
    if resource == Resource::Memory
        && let Some(asked) = demand::of_pod(pod).and_then(|own| own.requests.as_ref()?.get("memory"))
        && let Some(memory) = stats.memory
    {
        let used = bytes(memory.working_set_bytes.unwrap_or(0));
        text += &format!(
            "Pod {} was using {used}, request is {}, has larger consumption of memory. ",
            pod::name(pod),
            asked.0
        );
        add("offending_pod", pod::name(pod).to_owned());
        add("offending_pod_usage", used.to_string());
    }
    let (mut names, mut amounts) = (Vec::new(), Vec::new());
    let containers = || pod::main_containers(pod).iter().chain(pod::init_containers(pod));
    for stats in &stats.containers {
        let Some(container) = containers().find(|c| c.name == stats.name) else {
            continue;
        };
        let asked = asked(container, resource);
        let Some(used) = used(stats, resource).filter(|used| *used > asked) else {
            continue;
        };
        text += &format!(
            "Container {} was using {used}, request is {asked}, has larger consumption of {}. ",
            container.name,
            resource.name()
        );
        names.push(container.name.clone());
        amounts.push(used.to_string());
    }
    add("offending_containers", names.join(","));
    add("offending_containers_usage", amounts.join(","));
    add("starved_resource", resource.name().to_owned());
    (text, annotations)
}

fn bytes(n: u64) -> Quantity {
    Quantity::from_value(i64::try_from(n).unwrap_or(i64::MAX), Format::BinarySI)
}

fn asked(container: &Container, resource: Resource) -> Quantity {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let own = requests.and_then(|r| r.get(resource.name()));
    own.and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or(Quantity::ZERO)
}

fn used(stats: &ContainerStats, resource: Resource) -> Option<Quantity> {
    match resource {
        Resource::Memory => stats.memory?.working_set_bytes.map(bytes),
        Resource::EphemeralStorage => Some(bytes(stats.rootfs?.used_bytes?.saturating_add(stats.logs?.used_bytes?))),
        Resource::Inodes | Resource::Pids => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::Seen;
    use super::super::threshold::{Limit, Signal};
    use super::*;
    use crate::stats::types::MemoryStats;
    use std::time::Duration;
    use steersman_types::Typed;

    #[test]
    fn the_message_names_limit_rest_and_who_uses_more_than_was_asked_for() {
        let requests = serde_json::json!({"requests": {"memory": "64Mi"}});
        let pod = Pod::from_value(&serde_json::json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "greedy"}, {"name": "asked", "resources": requests}, {"name": "modest", "resources": requests}]}}))
        .unwrap();
        let of = |name: &str, used: u64| ContainerStats {
            name: name.into(),
            memory: Some(MemoryStats {
                working_set_bytes: Some(used << 10),
                ..MemoryStats::default()
            }),
            ..ContainerStats::default()
        };
        let stats = PodStats {
            containers: vec![of("greedy", 12_345), of("asked", 70 << 10), of("modest", 10)],
            ..PodStats::default()
        };
        let due = [Threshold {
            signal: Signal::Memory,
            limit: Limit::Amount(Quantity::parse("100Mi").unwrap()),
            grace: Duration::ZERO,
            reclaim: None,
        }];
        let available = Seen {
            available: 50_000 << 10,
            capacity: 1 << 40,
        };
        let seen = Observations::from([(Signal::Memory, available)]);
        let (text, annotations) = message(Resource::Memory, &pod, Some(&stats), &due, &seen);
        let expected = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50000Ki. \
            Container greedy was using 12345Ki, request is 0, has larger consumption of memory. \
            Container asked was using 70Mi, request is 64Mi, has larger consumption of memory. ";
        assert_eq!(text, expected);
        let annotations: Vec<_> = annotations.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            annotations,
            [
                "offending_containers=greedy,asked",
                "offending_containers_usage=12345Ki,70Mi",
                "starved_resource=memory"
            ]
        );
        let (text, _) = message(Resource::Pids, &pod, None, &due, &seen);
        assert_eq!(text, "The node was low on resource: pids. ");
    }
}
