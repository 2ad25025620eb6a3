//! The cluster's default spreading: pods of one Service, ReplicaSet, ReplicationController or StatefulSet that say nothing
//! themselves are wished over zones and nodes (upstream's system defaults: skew 5 over zones, 3 over nodes), or spread as
//! the profile says.

use std::sync::Arc;

use steersman_runtime::{Informer, Informers};
use steersman_types::LabelSelector;
use steersman_types::api::apps::v1::{ReplicaSet, StatefulSet};
use steersman_types::api::core::v1::{ReplicationController, Service};

use crate::arguments::Defaults;
use crate::pod::PodInfo;
use crate::selector;
use crate::terms::Spread;

/// What defines which pods are alike.
pub struct Alike {
    services: Informer<Service>,
    replica_sets: Informer<ReplicaSet>,
    controllers: Informer<ReplicationController>,
    stateful_sets: Informer<StatefulSet>,
}

impl Alike {
    #[must_use]
    pub fn new(informers: &Informers) -> Self {
        Self {
            services: informers.of(),
            replica_sets: informers.of(),
            controllers: informers.of(),
            stateful_sets: informers.of(),
        }
    }

    /// The pod with the default wishes, if it has no constraints of its own and is like others.
    #[must_use]
    pub fn with_defaults(&self, pod: &Arc<PodInfo>, defaults: &Defaults) -> Arc<PodInfo> {
        let spec = pod.pod.spec.as_ref();
        let own = spec.and_then(|s| s.topology_spread_constraints.as_ref());
        if own.is_some_and(|c| !c.is_empty()) {
            return pod.clone();
        }
        let services = self.services.list_in(&pod.key.namespace);
        let selectors = services
            .iter()
            .filter_map(|s| s.spec.as_ref()?.selector.as_ref())
            .filter(|s| !s.is_empty());
        let matching = selectors.map(|s| LabelSelector {
            match_labels: Some(s.clone()),
            match_expressions: None,
        });
        let labels = pod.pod.metadata.labels.as_ref();
        let matching = matching.filter(|s| selector::selects(Some(s), labels));
        let alike = merge(matching.chain(self.owner(pod)));
        if selector::is_empty(Some(&alike)) {
            return pod.clone();
        }
        let mut wishing = pod.as_ref().clone();
        match defaults {
            Defaults::System => {
                wishing.spread_soft = vec![
                    Spread::wish("kubernetes.io/hostname", 3, &alike),
                    Spread::wish("topology.kubernetes.io/zone", 5, &alike),
                ];
            }
            Defaults::List(constraints) => {
                let of = |action: &str| {
                    let constraints = constraints.iter().filter(|c| c.when_unsatisfiable == action);
                    constraints.map(|c| Spread::told(c, &alike)).collect()
                };
                wishing.spread_hard = of("DoNotSchedule");
                wishing.spread_soft = of("ScheduleAnyway");
            }
        }
        Arc::new(wishing)
    }

    /// What the pod's controller selects.
    fn owner(&self, pod: &PodInfo) -> Option<LabelSelector> {
        let owners = pod.pod.metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|o| o.controller == Some(true))?;
        let namespace = &pod.key.namespace;
        match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("apps/v1", "ReplicaSet") => {
                let set = self.replica_sets.get(namespace, &owner.name)?;
                set.spec.as_ref().map(|s| s.selector.clone())
            }
            ("apps/v1", "StatefulSet") => {
                let set = self.stateful_sets.get(namespace, &owner.name)?;
                set.spec.as_ref().map(|s| s.selector.clone())
            }
            ("v1", "ReplicationController") => {
                let set = self.controllers.get(namespace, &owner.name)?;
                Some(LabelSelector {
                    match_labels: set.spec.as_ref()?.selector.clone(),
                    match_expressions: None,
                })
            }
            _ => None,
        }
    }
}

/// All of what each asks for. They all select the same pod, so they do not contradict each other.
fn merge(selectors: impl Iterator<Item = LabelSelector>) -> LabelSelector {
    let mut all = LabelSelector::default();
    for one in selectors {
        let labels = all.match_labels.get_or_insert_default();
        labels.extend(one.match_labels.into_iter().flatten());
        let expressions = all.match_expressions.get_or_insert_default();
        expressions.extend(one.match_expressions.into_iter().flatten());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merged_selectors_ask_for_everything() {
        let one = |value| serde_json::from_value::<LabelSelector>(value).unwrap();
        let all = merge(
            [
                one(json!({"matchLabels": {"app": "a"}})),
                one(json!({"matchLabels": {"hash": "1"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]})),
            ]
            .into_iter(),
        );
        let labels = |value| serde_json::from_value(value).ok();
        assert!(selector::selects(
            Some(&all),
            labels(json!({"app": "a", "hash": "1", "x": ""})).as_ref()
        ));
        assert!(!selector::selects(
            Some(&all),
            labels(json!({"app": "a", "hash": "1"})).as_ref()
        ));
        assert!(selector::is_empty(Some(&merge(std::iter::empty()))));
    }
}
