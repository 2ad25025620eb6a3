//! What a pod as a whole asks for and may use: its containers together, or what the pod itself says, and its overhead.
//!
//! Called where pods are weighed against the node and against each other. Pure. cpu counts in thousandths of a core,
//! everything else in whole units.

use steersman_types::api::core::v1::{Container, Pod, ResourceRequirements};

use super::{init_containers, is_sidecar, main_containers, spec};
use crate::quantity::{Resources, milli_of, value_of};

/// The resources that a pod can name for itself.
const OF_POD: [&str; 2] = ["cpu", "memory"];

/// The named resource, if it is there.
#[must_use]
pub fn amount(resources: Option<&Resources>, name: &str) -> Option<i64> {
    if name == "cpu" {
        milli_of(resources, name)
    } else {
        value_of(resources, name)
    }
}

/// The pod's own requests and limits, if it has any that count.
#[must_use]
pub fn of_pod(pod: &Pod) -> Option<&ResourceRequirements> {
    let own = spec(pod).resources.as_ref()?;
    let counts = |r: &Option<Resources>| {
        r.as_ref()
            .is_some_and(|r| OF_POD.iter().any(|name| r.contains_key(*name)))
    };
    (counts(&own.requests) || counts(&own.limits)).then_some(own)
}

/// Main containers and sidecars run together; ordinary init containers run one at a time beside the sidecars that
/// started before them. `None` if one of them has no amount.
fn together(pod: &Pod, of: impl Fn(&Container) -> Option<i64>) -> Option<i64> {
    let (mut main, mut sidecars, mut peak) = (0_i64, 0_i64, 0_i64);
    for c in main_containers(pod) {
        main = main.saturating_add(of(c)?);
    }
    for c in init_containers(pod) {
        let own = of(c)?;
        if is_sidecar(c) {
            sidecars = sidecars.saturating_add(own);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.saturating_add(own));
        }
    }
    Some(main.saturating_add(sidecars).max(peak))
}

/// What is reserved for the pod.
#[must_use]
pub fn request(pod: &Pod, name: &str) -> i64 {
    let own = of_pod(pod).and_then(|own| amount(own.requests.as_ref(), name));
    let of_containers = || {
        together(pod, |c| {
            let resources = c.resources.as_ref();
            let request = amount(resources.and_then(|r| r.requests.as_ref()), name);
            let limit = || amount(resources.and_then(|r| r.limits.as_ref()), name);
            Some(request.or_else(limit).unwrap_or(0))
        })
        .unwrap_or(0)
    };
    own.unwrap_or_else(of_containers).saturating_add(overhead(pod, name))
}

/// What the pod may use at most: its own limit, or the sum if every container has one.
#[must_use]
pub fn limit(pod: &Pod, name: &str) -> Option<i64> {
    let of = |r: &ResourceRequirements| amount(r.limits.as_ref(), name).filter(|l| *l > 0);
    let own = of_pod(pod).and_then(of);
    let total = own.or_else(|| together(pod, |c| of(c.resources.as_ref()?)))?;
    Some(total.saturating_add(overhead(pod, name)))
}

/// What the pod's runtime needs for itself.
fn overhead(pod: &Pod, name: &str) -> i64 {
    amount(spec(pod).overhead.as_ref(), name).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::Typed;

    fn pod(spec: serde_json::Value) -> Pod {
        Pod::from_value(&serde_json::json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn containers_count_together_and_the_pods_own_amounts_before_them() {
        let cpu = |n: &str| serde_json::json!({"requests": {"cpu": n}, "limits": {"cpu": n}});
        let containers =
            serde_json::json!([{"name": "a", "resources": cpu("100m")}, {"name": "b", "resources": cpu("200m")}]);
        let init = serde_json::json!([{"name": "s", "restartPolicy": "Always", "resources": cpu("50m")},
            {"name": "i", "resources": cpu("400m")}]);
        let summed =
            pod(serde_json::json!({"containers": containers, "initContainers": init, "overhead": {"cpu": "5m"}}));
        assert_eq!(
            (request(&summed, "cpu"), limit(&summed, "cpu")),
            (455, Some(455)),
            "the init container's moment"
        );
        assert_eq!((request(&summed, "memory"), limit(&summed, "memory")), (0, None));
        let own = serde_json::json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Ki"}});
        let own = pod(serde_json::json!({"containers": containers, "resources": own}));
        assert_eq!((request(&own, "cpu"), limit(&own, "cpu")), (1000, Some(300)));
        assert_eq!(limit(&own, "memory"), Some(1024));
    }
}
