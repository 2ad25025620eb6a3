//! The pod's quality of service class: from the requests and limits of cpu and memory of all its containers, or of the
//! pod itself.

use steersman_types::api::core::v1::{Pod, ResourceRequirements};

use crate::quantity::{Resources, milli};

/// Upstream's three classes, by name in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Best effort asks for nothing; guaranteed limits cpu and memory of every container and requests exactly that.
#[must_use]
pub fn qos(pod: &Pod) -> Qos {
    let of_pod = super::demand::of_pod(pod);
    let containers = || {
        let all = super::init_containers(pod).iter().chain(super::main_containers(pod));
        // What the pod says for itself counts alone.
        all.map(|c| c.resources.as_ref())
            .filter(|_| of_pod.is_none())
            .chain(of_pod.map(Some))
    };
    let asks = |c: Parts<'_>| positive(requests(c)) || positive(limits(c));
    if !containers().any(asks) {
        return Qos::BestEffort;
    }
    let exact = |c: Parts<'_>| {
        ["cpu", "memory"].iter().all(|name| {
            let of = |r: Option<&Resources>| r.and_then(|r| r.get(*name)).map(milli).filter(|v| *v > 0);
            let limit = of(limits(c));
            limit.is_some() && of(requests(c)).is_none_or(|request| Some(request) == limit)
        })
    };
    if containers().all(exact) {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// The resources of one container, or of the pod.
type Parts<'a> = Option<&'a ResourceRequirements>;

fn requests(c: Parts<'_>) -> Option<&Resources> {
    c?.requests.as_ref()
}

fn limits(c: Parts<'_>) -> Option<&Resources> {
    c?.limits.as_ref()
}

fn positive(resources: Option<&Resources>) -> bool {
    let counts = |(name, quantity)| (name == "cpu" || name == "memory") && milli(quantity) > 0;
    resources.into_iter().flatten().any(|(n, q)| counts((n.as_str(), q)))
}
