//! A pod's (anti-)affinity terms and spread constraints, with what is implied filled in once per pod.

use steersman_types::LabelSelector;
use steersman_types::api::core::v1::{Pod, PodAffinityTerm, TopologySpreadConstraint, WeightedPodAffinityTerm};

use crate::pod::PodInfo;
use crate::selector::{self, Labels};
use crate::snapshot::Namespaces;

/// Which pods, and within what part of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    pub topology_key: String,
    /// 1 to 100 for a preference, 0 for a requirement.
    pub weight: i64,
    namespaces: Vec<String>,
    namespace_selector: Option<LabelSelector>,
    selector: Option<LabelSelector>,
}

impl Term {
    fn new(term: &PodAffinityTerm, weight: i32, owner: &Pod) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(owner.metadata.namespace.clone());
        }
        let labels = owner.metadata.labels.as_ref();
        Self {
            topology_key: term.topology_key.clone(),
            weight: i64::from(weight),
            namespaces,
            namespace_selector: term.namespace_selector.clone(),
            selector: selector::with_own(term.label_selector.as_ref(), term.match_label_keys.as_ref(), labels),
        }
    }

    #[must_use]
    pub fn selects(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        let namespace = &pod.key.namespace;
        let there = self.namespaces.contains(namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|s| selector::is_empty(Some(s)) || selector::selects(Some(s), namespaces.get(namespace)));
        there && selector::selects(self.selector.as_ref(), pod.pod.metadata.labels.as_ref())
    }
}

/// All terms of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    pub required: Vec<Term>,
    pub required_anti: Vec<Term>,
    pub preferred: Vec<Term>,
    pub preferred_anti: Vec<Term>,
}

impl Terms {
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let apart = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let hard = |list: Option<&Vec<PodAffinityTerm>>| {
            list.into_iter()
                .flatten()
                .map(|t| Term::new(t, 0, pod))
                .collect::<Vec<_>>()
        };
        let soft = |list: Option<&Vec<WeightedPodAffinityTerm>>| {
            let all = list.into_iter().flatten();
            all.map(|t| Term::new(&t.pod_affinity_term, t.weight, pod))
                .collect::<Vec<_>>()
        };
        Self {
            required: hard(near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            required_anti: hard(apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            preferred: soft(near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())),
            preferred_anti: soft(apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())),
        }
    }

    /// Whether the pod has an opinion about others at all.
    #[must_use]
    pub fn any(&self) -> bool {
        ![
            &self.required,
            &self.required_anti,
            &self.preferred,
            &self.preferred_anti,
        ]
        .into_iter()
        .all(Vec::is_empty)
    }
}

/// One spread constraint.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    pub topology_key: String,
    pub max_skew: i64,
    pub min_domains: usize,
    /// Only nodes that the pod's node affinity admits count.
    pub honours_affinity: bool,
    /// Only nodes whose taints the pod tolerates count.
    pub honours_taints: bool,
    /// Nodes without the label count as well, each part on its own.
    pub lenient: bool,
    selector: Option<LabelSelector>,
}

impl Spread {
    /// A default wish of the cluster.
    #[must_use]
    pub fn wish(topology_key: &str, max_skew: i64, alike: &LabelSelector) -> Self {
        Self {
            topology_key: topology_key.to_owned(),
            max_skew,
            min_domains: 1,
            honours_affinity: true,
            honours_taints: false,
            lenient: true,
            selector: Some(alike.clone()),
        }
    }

    /// A default constraint of the profile.
    #[must_use]
    pub fn told(constraint: &TopologySpreadConstraint, alike: &LabelSelector) -> Self {
        let mut told = Self::new(constraint, None);
        told.selector = Some(alike.clone());
        told
    }

    /// The pod's constraints that must hold (`DoNotSchedule`), or that are wished for (`ScheduleAnyway`).
    #[must_use]
    pub fn of(pod: &Pod, hard: bool) -> Vec<Self> {
        let action = if hard { "DoNotSchedule" } else { "ScheduleAnyway" };
        let all = pod
            .spec
            .iter()
            .flat_map(|s| s.topology_spread_constraints.iter().flatten());
        all.into_iter()
            .filter(|c| c.when_unsatisfiable == action)
            .map(|c| Self::new(c, pod.metadata.labels.as_ref()))
            .collect()
    }

    fn new(constraint: &TopologySpreadConstraint, labels: Option<&Labels>) -> Self {
        let keys = constraint.match_label_keys.as_ref();
        Self {
            topology_key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
            honours_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honours_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            lenient: false,
            selector: selector::with_own(constraint.label_selector.as_ref(), keys, labels),
        }
    }

    #[must_use]
    pub fn selects(&self, labels: Option<&Labels>) -> bool {
        selector::selects(self.selector.as_ref(), labels)
    }

    /// How many of the pods on a node count: of the same namespace, selected, not going.
    #[must_use]
    pub fn count<'a>(&self, namespace: &str, pods: impl Iterator<Item = &'a PodInfo>) -> i64 {
        if selector::is_empty(self.selector.as_ref()) {
            return 0;
        }
        let counted = pods.filter(|p| self.counts(namespace, p)).count();
        i64::try_from(counted).unwrap_or(i64::MAX)
    }

    /// Whether a pod on a node counts.
    #[must_use]
    pub fn counts(&self, namespace: &str, pod: &PodInfo) -> bool {
        let meta = &pod.pod.metadata;
        pod.key.namespace == namespace && meta.deletion_timestamp.is_none() && self.selects(meta.labels.as_ref())
    }
}
