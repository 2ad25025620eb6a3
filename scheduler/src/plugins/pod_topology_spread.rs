//! PodTopologySpread: like pods are spread over zones, nodes or other parts of the cluster.

use std::collections::HashMap;
use std::sync::Arc;

use super::{MAX_SCORE, Plugin, Score, Scorer, Verdict};
use crate::cycle::{Cycle, is_included};
use crate::event::ClusterEvent;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

const HOSTNAME: &str = "kubernetes.io/hostname";

pub const PLUGIN: Plugin = Plugin {
    name: "PodTopologySpread",
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
                | ClusterEvent::NodeTaints
                | ClusterEvent::NodeGone
                | ClusterEvent::AssignedPodAdded
                | ClusterEvent::AssignedPodLabels
                | ClusterEvent::AssignedPodGone
                | ClusterEvent::PodLabels
        )
    },
};

fn filter(pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> Verdict {
    for (constraint, counts) in pod.spread_hard.iter().zip(&cycle.spread) {
        let Some(value) = node.label(&constraint.topology_key) else {
            let text = "node(s) didn't match pod topology spread constraints (missing required label)";
            return Verdict::no(text, false);
        };
        // With fewer parts than wished for, an imagined empty one is the least.
        let least = if counts.len() < constraint.min_domains {
            0
        } else {
            counts.values().min().copied().unwrap_or(0)
        };
        let own = i64::from(constraint.selects(pod.pod.metadata.labels.as_ref()));
        let there = counts.get(value).copied().unwrap_or(0);
        if there + own - least > constraint.max_skew {
            return Verdict::no("node(s) didn't match pod topology spread constraints", true);
        }
    }
    Verdict::Fits
}

fn score(pod: &PodInfo, nodes: &[&Arc<NodeInfo>], cycle: &Cycle<'_>) -> Vec<i64> {
    let constraints = &pod.spread_soft;
    if constraints.is_empty() {
        return vec![0; nodes.len()];
    }
    let complete = |node: &NodeInfo| {
        constraints
            .iter()
            .all(|c| c.lenient || node.label(&c.topology_key).is_some())
    };
    let candidates = nodes.iter().filter(|n| complete(n)).count();
    // Per constraint: pods per part of the cluster that has a candidate, and how much the constraint weighs.
    let mut parts: Vec<(HashMap<&str, i64>, f64)> = Vec::new();
    for constraint in constraints {
        let key = &constraint.topology_key;
        let mut counts: HashMap<&str, i64> = HashMap::new();
        if key != HOSTNAME {
            let known = nodes
                .iter()
                .filter(|n| complete(n))
                .map(|n| n.label(key).unwrap_or_default());
            counts.extend(known.map(|value| (value, 0)));
            for node in cycle.snapshot.nodes.iter().filter(|n| complete(n)) {
                if !is_included(pod, node, constraint.honours_affinity, constraint.honours_taints) {
                    continue;
                }
                if let Some(count) = node.label(key).and_then(|value| counts.get_mut(value)) {
                    *count += constraint.count(&pod.key.namespace, node.pods.values().map(AsRef::as_ref));
                }
            }
        }
        let size = if key == HOSTNAME { candidates } else { counts.len() };
        parts.push((counts, (size as f64 + 2.0).ln()));
    }
    let raw: Vec<Option<i64>> = nodes
        .iter()
        .map(|node| {
            complete(node).then(|| {
                let mut sum = 0.0;
                for (constraint, (counts, weight)) in constraints.iter().zip(&parts) {
                    if node.label(&constraint.topology_key).is_none() {
                        continue;
                    }
                    let count = if constraint.topology_key == HOSTNAME {
                        constraint.count(&pod.key.namespace, node.pods.values().map(AsRef::as_ref))
                    } else {
                        let value = node.label(&constraint.topology_key).unwrap_or_default();
                        counts.get(value).copied().unwrap_or(0)
                    };
                    sum += count as f64 * weight + (constraint.max_skew - 1) as f64;
                }
                sum.round() as i64
            })
        })
        .collect();
    let least = raw.iter().flatten().min().copied().unwrap_or(0);
    let most = raw.iter().flatten().max().copied().unwrap_or(0);
    raw.into_iter()
        .map(|n| match n {
            None => 0,
            Some(_) if most == 0 => MAX_SCORE,
            Some(n) => MAX_SCORE * (most + least - n) / most,
        })
        .collect()
}
