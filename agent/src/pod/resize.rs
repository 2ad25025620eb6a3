//! Changing a running pod's cpu and memory in place: which pod the node agreed to, which containers differ from it, and
//! what is said about that. Pure; the worker acts.
//!
//! Three states of a container's resources: *desired* (the API's spec), *allocated* (what the node agreed to; everything
//! else in this program sees only a pod with these) and *actuated* (what the runtime was told). The pod has resources of
//! its own besides, which limit the containers that have no limit (KEP-5419); they stand under the name [`WHOLE`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use steersman_types::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};
use steersman_types::jiff::Timestamp;
use steersman_types::meta::Time;

use super::seen::PodSeen;
use super::status::second;
use super::{init_containers, is_sidecar, main_containers, spec};
use crate::quantity::{milli_of, value_of};

pub const PENDING: &str = "PodResizePending";
pub const IN_PROGRESS: &str = "PodResizeInProgress";

/// In the place of a container's name: the pod as a whole. No container can be called that.
pub const WHOLE: &str = "";

/// What a pod's containers and the pod itself were given, by name. Kept in a file, since neither the API nor the runtime knows it whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    pub allocated: BTreeMap<String, ResourceRequirements>,
    pub actuated: BTreeMap<String, ResourceRequirements>,
}

/// The containers whose resources may change: main ones and sidecars.
fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    let sidecars = init_containers(pod).iter().filter(|c| is_sidecar(c));
    sidecars.chain(main_containers(pod))
}

fn own(pod: &Pod) -> Option<&ResourceRequirements> {
    spec(pod).resources.as_ref()
}

/// What the spec says now.
#[must_use]
pub fn desired(pod: &Pod) -> BTreeMap<String, ResourceRequirements> {
    resizable(pod)
        .map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default()))
        .chain([(WHOLE.to_owned(), own(pod).cloned().unwrap_or_default())])
        .collect()
}

/// What the runtime is told of a container with these resources: those limits of the pod, too, of which it has none.
#[must_use]
pub fn told(pod: &Pod, resources: Option<&ResourceRequirements>) -> ResourceRequirements {
    let mut told = resources.cloned().unwrap_or_default();
    for (name, limit) in own(pod).and_then(|own| own.limits.as_ref()).into_iter().flatten() {
        if name == "cpu" || name == "memory" {
            let limits = told.limits.get_or_insert_default();
            limits.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    told
}

impl Sizes {
    /// Of a pod that runs with what its spec says.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        Self {
            allocated: desired(pod),
            ..Self::default()
        }
    }

    /// What was kept before pods' own resources were is taken to be what the spec says.
    pub fn complete(&mut self, pod: &Pod) {
        if self.allocated.contains_key(WHOLE) {
            return;
        }
        let whole = own(pod).cloned().unwrap_or_default();
        self.allocated.insert(WHOLE.into(), whole.clone());
        if self.actuated.is_empty() {
            return;
        }
        for resources in self.actuated.values_mut() {
            *resources = told(pod, Some(resources));
        }
        self.actuated.insert(WHOLE.into(), whole);
    }
}

/// Requests and limits of cpu, then of memory.
fn numbers(resources: Option<&ResourceRequirements>) -> [[Option<i64>; 2]; 2] {
    let requests = resources.and_then(|r| r.requests.as_ref());
    let limits = resources.and_then(|r| r.limits.as_ref());
    [
        [milli_of(requests, "cpu"), milli_of(limits, "cpu")],
        [value_of(requests, "memory"), value_of(limits, "memory")],
    ]
}

/// The pod with other resources, of its own and in its containers; `None` if they are the same.
#[must_use]
pub fn with_sizes(pod: &Pod, sizes: &BTreeMap<String, ResourceRequirements>) -> Option<Pod> {
    let other = |name: &str, has: Option<&ResourceRequirements>| {
        sizes
            .get(name)
            .is_some_and(|given| numbers(Some(given)) != numbers(has))
    };
    let differs = |c: &Container| other(&c.name, c.resources.as_ref());
    let whole = other(WHOLE, own(pod));
    if !whole && !resizable(pod).any(differs) {
        return None;
    }
    let mut pod = pod.clone();
    let spec = pod.spec.as_mut()?;
    if whole {
        spec.resources = sizes.get(WHOLE).cloned();
    }
    let init = spec.init_containers.iter_mut().flatten().filter(|c| is_sidecar(c));
    for c in init.chain(&mut spec.containers) {
        if differs(c) {
            c.resources = sizes.get(&c.name).cloned();
        }
    }
    Some(pod)
}

/// The pod with what it was given last, if that is not what it is to have. The pod's limits that containers were told
/// stay the pod's.
#[must_use]
pub fn given(pod: &Pod, actuated: &BTreeMap<String, ResourceRequirements>) -> Option<Pod> {
    let mut sizes = actuated.clone();
    for c in resizable(pod) {
        let own = c.resources.as_ref().and_then(|r| r.limits.as_ref());
        if let Some(limits) = sizes.get_mut(&c.name).and_then(|r| r.limits.as_mut()) {
            // A limit of its own cannot be taken away, so it had none either.
            limits.retain(|name, _| own.is_some_and(|own| own.contains_key(name)));
        }
    }
    with_sizes(pod, &sizes)
}

/// What a running container needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Update,
    /// Its resize policy says that it must start again.
    Restart,
}

/// What is to be done about a running container of the pod; `None` if it has what it should, or if what it has is not
/// known.
#[must_use]
pub fn step(pod: &Pod, c: &Container, actuated: Option<&ResourceRequirements>) -> Option<Step> {
    let told = told(pod, c.resources.as_ref());
    let (has, wants) = (numbers(Some(actuated?)), numbers(Some(&told)));
    if has == wants {
        return None;
    }
    let restarts = |name: &str| {
        let mut policies = c.resize_policy.iter().flatten();
        policies.any(|p| p.resource_name == name && p.restart_policy == "RestartContainer")
    };
    let restart = ["cpu", "memory"]
        .into_iter()
        .zip(has.into_iter().zip(wants))
        .any(|(name, (has, wants))| has != wants && restarts(name));
    Some(if restart { Step::Restart } else { Step::Update })
}

/// What does not have yet what the node agreed to: running containers, and last the pod as a whole.
#[must_use]
pub fn unfinished(pod: &Pod, seen: &PodSeen) -> Vec<(String, Step)> {
    let running = resizable(pod).filter(|c| {
        seen.container(&c.name)
            .is_some_and(super::seen::ContainerSeen::is_running)
    });
    let containers = running.filter_map(|c| Some((c.name.clone(), step(pod, c, seen.actuated.get(&c.name))?)));
    let whole = seen
        .actuated
        .get(WHOLE)
        .is_some_and(|has| numbers(Some(has)) != numbers(own(pod)));
    containers
        .chain(whole.then(|| (WHOLE.to_owned(), Step::Update)))
        .collect()
}

/// A condition of the resize, in place of the one before it. Its time is that of its reason.
#[must_use]
pub fn condition(
    kind: &str,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
    before: Option<&PodCondition>,
) -> PodCondition {
    let reason = (!reason.is_empty()).then(|| reason.to_owned());
    let since = before
        .filter(|c| c.reason == reason)
        .and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: kind.into(),
        status: "True".into(),
        reason,
        message: (!message.is_empty()).then(|| message.to_owned()),
        observed_generation: generation,
        last_probe_time: None,
        last_transition_time: Some(since.unwrap_or_else(|| Time(second(now)))),
    }
}

/// An event's message: what is to be, as JSON.
#[must_use]
pub fn summary(prefix: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    #[derive(Serialize)]
    struct One<'a> {
        name: &'a str,
        resources: ResourceRequirements,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct All<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_containers: Vec<One<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        containers: Vec<One<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "str::is_empty")]
        error: &'a str,
    }
    fn list(containers: &[Container]) -> Vec<One<'_>> {
        let one = |c: &'_ Container| c.resources.clone().unwrap_or_default();
        containers
            .iter()
            .map(|c| One {
                name: &c.name,
                resources: one(c),
            })
            .collect()
    }
    let all = All {
        init_containers: list(init_containers(pod)),
        containers: list(main_containers(pod)),
        generation: generation.unwrap_or(0),
        error,
    };
    format!("{prefix}: {}", serde_json::to_string(&all).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::Typed;

    fn pod(cpu: &str, memory: &str, policy: &str) -> Pod {
        let resources = serde_json::json!({"requests": {"cpu": cpu, "memory": memory}});
        let policies = serde_json::json!([{"resourceName": "cpu", "restartPolicy": policy},
            {"resourceName": "memory", "restartPolicy": "NotRequired"}]);
        let container = serde_json::json!({"name": "c", "resources": resources, "resizePolicy": policies});
        Pod::from_value(&serde_json::json!({"spec": {"containers": [container]}})).unwrap()
    }

    #[test]
    fn a_pod_keeps_what_the_node_agreed_to() {
        let agreed = desired(&pod("100m", "1Mi", "NotRequired"));
        let asks = pod("200m", "1Mi", "NotRequired");
        let kept = with_sizes(&asks, &agreed).unwrap();
        assert_eq!(desired(&kept), agreed);
        assert_eq!(
            with_sizes(&pod("0.1", "1024Ki", "NotRequired"), &agreed),
            None,
            "the same in other words"
        );
    }

    #[test]
    fn only_a_change_of_the_resource_that_the_policy_names_restarts() {
        let before = pod("100m", "1Mi", "RestartContainer");
        let has = desired(&before);
        let step_to = |after: &Pod| step(after, &main_containers(after)[0], has.get("c"));
        assert_eq!(step_to(&before), None);
        assert_eq!(step_to(&pod("200m", "1Mi", "RestartContainer")), Some(Step::Restart));
        assert_eq!(step_to(&pod("100m", "2Mi", "RestartContainer")), Some(Step::Update));
        assert_eq!(
            step(&before, &main_containers(&before)[0], None),
            None,
            "what it has is not known"
        );
    }

    #[test]
    fn events_tell_the_resources_as_upstream_writes_them() {
        assert_eq!(
            summary("Pod resize started", &pod("100m", "1Mi", "NotRequired"), Some(2), ""),
            r#"Pod resize started: {"containers":[{"name":"c","resources":{"requests":{"cpu":"100m","memory":"1Mi"}}}],"generation":2}"#
        );
    }

    /// With limits of its own; its container has one of memory, if any.
    fn limited(cpu: &str, memory: &str, of_container: Option<&str>) -> Pod {
        let mut container = serde_json::json!({"name": "c", "image": "i"});
        if let Some(memory) = of_container {
            container["resources"] = serde_json::json!({"limits": {"memory": memory}});
        }
        let own = serde_json::json!({"limits": {"cpu": cpu, "memory": memory}});
        Pod::from_value(&serde_json::json!({"spec": {"resources": own, "containers": [container]}})).unwrap()
    }

    #[test]
    fn a_change_of_the_pods_own_limits_reaches_the_containers_that_have_none() {
        let before = limited("1", "64Mi", Some("32Mi"));
        let mut seen = super::super::testing::seen(&before, "sandbox ready; c running");
        assert!(
            unfinished(&limited("2", "64Mi", Some("32Mi")), &seen).is_empty(),
            "nothing is known"
        );
        let c = |pod: &Pod| main_containers(pod)[0].resources.clone();
        seen.actuated = BTreeMap::from([
            ("c".into(), told(&before, c(&before).as_ref())),
            (WHOLE.into(), own(&before).cloned().unwrap()),
        ]);
        let both = |pod: &Pod| {
            unfinished(pod, &seen)
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        assert_eq!(both(&before), [""; 0]);
        assert_eq!(
            both(&limited("2", "64Mi", Some("32Mi"))),
            ["c", WHOLE],
            "it has no cpu limit of its own"
        );
        assert_eq!(
            both(&limited("1", "96Mi", Some("32Mi"))),
            [WHOLE],
            "its memory limit is its own"
        );
        let same = |pod: &Pod| given(pod, &seen.actuated).is_none();
        assert!(same(&before) && !same(&limited("2", "64Mi", Some("32Mi"))));
        let agreed = desired(&before);
        let kept = with_sizes(&limited("2", "96Mi", Some("32Mi")), &agreed).unwrap();
        assert_eq!(spec(&kept).resources, spec(&before).resources);
        assert_eq!(with_sizes(&limited("1000m", "65536Ki", Some("32Mi")), &agreed), None);
    }

    #[test]
    fn what_was_kept_without_the_pods_own_resources_is_completed() {
        let pod = limited("1", "64Mi", None);
        let mut old = Sizes {
            allocated: BTreeMap::from([("c".into(), ResourceRequirements::default())]),
            actuated: BTreeMap::from([("c".into(), ResourceRequirements::default())]),
        };
        old.complete(&pod);
        let mut seen = super::super::testing::seen(&pod, "sandbox ready; c running");
        seen.actuated = old.actuated;
        assert!(unfinished(&pod, &seen).is_empty());
        assert_eq!(old.allocated, desired(&pod));
    }
}
