//! InterPodAffinity: pods that want others near, or away, within a part of the cluster; as requirements and as wishes, of
//! the pod about others and of others about the pod.

use std::collections::HashMap;
use std::sync::Arc;

use super::{MAX_SCORE, Plugin, Score, Scorer, Verdict};
use crate::cycle::Cycle;
use crate::event::ClusterEvent;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;
use crate::terms::Term;

pub const PLUGIN: Plugin = Plugin {
    name: "InterPodAffinity",
    filter: Some(filter),
    score: Some(Score {
        weight: 2,
        of: Scorer::All(score),
    }),
    wakes_on: |event, _| {
        matches!(
            event,
            ClusterEvent::NodeAdded
                | ClusterEvent::NodeLabels
                | ClusterEvent::AssignedPodAdded
                | ClusterEvent::AssignedPodLabels
                | ClusterEvent::AssignedPodGone
                | ClusterEvent::NamespaceLabels
                | ClusterEvent::PodLabels
        )
    },
};

fn filter(pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> Verdict {
    if !is_near_enough(pod, node, cycle) {
        return Verdict::no("node(s) didn't match pod affinity rules", false);
    }
    let is_in = |domains: &HashMap<(String, String), i64>, key: &str| {
        let value = node.label(key).map(|value| (key.to_owned(), value.to_owned()));
        value.is_some_and(|domain| domains.get(&domain).is_some_and(|n| *n > 0))
    };
    if pod
        .terms
        .required_anti
        .iter()
        .any(|t| is_in(&cycle.unwanted, &t.topology_key))
    {
        return Verdict::no("node(s) didn't match pod anti-affinity rules", true);
    }
    let shunned = !cycle.shunned.is_empty()
        && cycle
            .shunned
            .iter()
            .any(|((key, value), n)| *n > 0 && node.label(key) == Some(value));
    if shunned {
        return Verdict::no("node(s) didn't satisfy existing pods anti-affinity rules", true);
    }
    Verdict::Fits
}

fn is_near_enough(pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> bool {
    let mut there = true;
    for term in &pod.terms.required {
        let Some(value) = node.label(&term.topology_key) else {
            return false;
        };
        let domain = (term.topology_key.clone(), value.to_owned());
        there &= cycle.wanted.get(&domain).is_some_and(|n| *n > 0);
    }
    // The first of a series of pods that want each other near has to start somewhere.
    let namespaces = &cycle.snapshot.namespaces;
    there || (cycle.wanted.is_empty() && pod.terms.required.iter().all(|t| t.selects(pod, namespaces)))
}

fn score(pod: &PodInfo, nodes: &[&Arc<NodeInfo>], cycle: &Cycle<'_>) -> Vec<i64> {
    let wishes = !pod.terms.preferred.is_empty() || !pod.terms.preferred_anti.is_empty();
    let namespaces = &cycle.snapshot.namespaces;
    let required_weight = cycle.arguments.hard_pod_affinity_weight;
    if !wishes && (cycle.snapshot.opinionated == 0 || cycle.arguments.ignore_preferred_terms_of_existing_pods) {
        return vec![0; nodes.len()];
    }
    let mut sums: HashMap<(&str, &str), i64> = HashMap::new();
    for node in cycle.snapshot.nodes.iter() {
        if !wishes && node.opinionated == 0 {
            continue;
        }
        let mut add = |term: &Term, weight: i64| {
            // The key of a term may be one that this very pod has: look the text up in the node's own labels.
            if let Some((key, value)) = node.label_pair(&term.topology_key) {
                *sums.entry((key, value)).or_default() += weight;
            }
        };
        for other in node.pods.values().filter(|p| wishes || p.terms.any()) {
            for (terms, sign) in [(&pod.terms.preferred, 1), (&pod.terms.preferred_anti, -1)] {
                for term in terms.iter().filter(|t| t.selects(other, namespaces)) {
                    add(term, sign * term.weight);
                }
            }
            for term in other.terms.required.iter().filter(|t| t.selects(pod, namespaces)) {
                add(term, required_weight);
            }
            for (terms, sign) in [(&other.terms.preferred, 1), (&other.terms.preferred_anti, -1)] {
                for term in terms.iter().filter(|t| t.selects(pod, namespaces)) {
                    add(term, sign * term.weight);
                }
            }
        }
    }
    if sums.is_empty() {
        return vec![0; nodes.len()];
    }
    let raw: Vec<i64> = nodes
        .iter()
        .map(|node| {
            let of = sums.iter().filter(|((key, value), _)| node.label(key) == Some(*value));
            of.map(|(_, n)| *n).sum()
        })
        .collect();
    let (least, most) = (
        raw.iter().min().copied().unwrap_or(0),
        raw.iter().max().copied().unwrap_or(0),
    );
    raw.into_iter()
        .map(|n| {
            if most > least {
                MAX_SCORE * (n - least) / (most - least)
            } else {
                0
            }
        })
        .collect()
}
