//! The pod's resources as a whole: what was agreed to, and what it has.

use std::collections::BTreeMap;

use steersman_schema::quantity::Quantity as Parsed;
use steersman_types::Quantity;
use steersman_types::api::core::v1::{Container, Pod, PodStatus, ResourceRequirements};

use super::super::resize::given;
use super::super::seen::PodSeen;
use super::super::{init_containers, is_sidecar, main_containers, spec};
use crate::quantity::Resources;

type Sum = BTreeMap<String, Parsed>;

/// Fills `resources` and `allocatedResources`.
pub fn fill(pod: &Pod, seen: &PodSeen, new: &mut PodStatus) {
    new.allocated_resources = Some(written(requests(pod))).filter(|r| !r.is_empty());
    // A change that is under way has not reached every container yet.
    let actual = given(pod, &seen.actuated);
    let actual = actual.as_ref().unwrap_or(pod);
    new.resources = Some(ResourceRequirements {
        requests: Some(written(requests(actual))).filter(|r| !r.is_empty()),
        limits: Some(written(limits(actual))).filter(|r| !r.is_empty()),
        claims: None,
    });
}

fn written(sum: Sum) -> Resources {
    sum.into_iter()
        .map(|(name, q)| (name, Quantity(q.to_string())))
        .collect()
}

fn parsed(resources: Option<&Resources>) -> Sum {
    let all = resources.into_iter().flatten();
    all.filter_map(|(name, q)| Some((name.clone(), Parsed::parse(&q.0).ok()?)))
        .collect()
}

fn add(sum: &mut Sum, more: &Sum) {
    for (name, amount) in more {
        let total = sum.get(name).map_or(*amount, |s| s.plus(amount));
        sum.insert(name.clone(), total);
    }
}

/// Main containers and sidecars together, or an init container beside the sidecars before it, whichever is more.
fn together(pod: &Pod, of: impl Fn(&Container) -> Sum) -> Sum {
    let mut sum = Sum::new();
    for c in main_containers(pod) {
        add(&mut sum, &of(c));
    }
    let mut sidecars = Sum::new();
    let mut peak = Sum::new();
    for c in init_containers(pod) {
        let own = of(c);
        let mut now = sidecars.clone();
        add(&mut now, &own);
        for (name, amount) in &now {
            let most = peak.get(name).map_or(*amount, |p| *p.max(amount));
            peak.insert(name.clone(), most);
        }
        if is_sidecar(c) {
            add(&mut sum, &own);
            sidecars = now;
        }
    }
    for (name, amount) in peak {
        let most = sum.get(&name).map_or(amount, |s| *s.max(&amount));
        sum.insert(name, most);
    }
    sum
}

/// What the pod says for itself counts before the sum of its containers.
fn own(pod: &Pod, of: impl Fn(&ResourceRequirements) -> Option<&Resources>) -> Sum {
    let mut own = parsed(spec(pod).resources.as_ref().and_then(of));
    own.retain(|name, _| name == "cpu" || name == "memory" || name.starts_with("hugepages-"));
    own
}

fn requests(pod: &Pod) -> Sum {
    let mut sum = together(pod, |c| parsed(c.resources.as_ref().and_then(|r| r.requests.as_ref())));
    sum.extend(own(pod, |r| r.requests.as_ref()));
    add(&mut sum, &parsed(spec(pod).overhead.as_ref()));
    sum
}

fn limits(pod: &Pod) -> Sum {
    let mut sum = together(pod, |c| parsed(c.resources.as_ref().and_then(|r| r.limits.as_ref())));
    sum.extend(own(pod, |r| r.limits.as_ref()));
    // Without a limit there is nothing to add to.
    let mut overhead = parsed(spec(pod).overhead.as_ref());
    overhead.retain(|name, _| sum.get(name).is_some_and(|s| !s.is_zero()));
    add(&mut sum, &overhead);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::Typed;

    #[test]
    fn the_whole_is_the_sum_the_peak_or_what_the_pod_says() {
        let of = |cpu: &str, memory: &str| serde_json::json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}});
        let pod = Pod::from_value(&serde_json::json!({"spec": {
            "containers": [{"name": "a", "resources": of("100m", "64Mi")}, {"name": "b", "resources": of("150m", "64Mi")}],
            "initContainers": [{"name": "i", "resources": of("1", "32Mi")}],
            "overhead": {"memory": "1Mi"}, "resources": {"limits": {"cpu": "2"}}}}))
        .unwrap();
        let mut status = PodStatus::default();
        fill(&pod, &PodSeen::default(), &mut status);
        let text = |r: &Option<Resources>| {
            let all = r.iter().flatten().map(|(k, v)| format!("{k}={}", v.0));
            all.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(&status.allocated_resources), "cpu=1 memory=129Mi");
        let resources = status.resources.unwrap();
        assert_eq!(text(&resources.requests), "cpu=1 memory=129Mi");
        assert_eq!(text(&resources.limits), "cpu=2 memory=129Mi");
        let plain = Pod::from_value(&serde_json::json!({"spec": {"containers": [{"name": "a"}]}})).unwrap();
        let mut status = PodStatus::default();
        fill(&plain, &PodSeen::default(), &mut status);
        assert_eq!(
            (status.allocated_resources, status.resources),
            (None, Some(ResourceRequirements::default()))
        );
    }
}
