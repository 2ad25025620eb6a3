//! TaintToleration: keeps pods off nodes whose taints they do not tolerate, and prefers nodes with fewer soft taints.

use steersman_types::api::core::v1::{Taint, Toleration};

use super::{Normalize, Plugin, Score, Scorer, Verdict};
use crate::cycle::Cycle;
use crate::event::ClusterEvent;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

pub const PLUGIN: Plugin = Plugin {
    name: "TaintToleration",
    filter: Some(filter),
    score: Some(Score {
        weight: 3,
        of: Scorer::Each(score, Normalize::ByHighestReversed),
    }),
    wakes_on: |event, _| {
        matches!(
            event,
            ClusterEvent::NodeAdded | ClusterEvent::NodeTaints | ClusterEvent::PodTolerations
        )
    },
};

/// Whether one of the pod's tolerations covers the taint.
pub fn tolerates(pod: &PodInfo, taint: &Taint) -> bool {
    let tolerations = pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_ref());
    tolerations.into_iter().flatten().any(|t| covers(t, taint))
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match text(&toleration.operator).as_str() {
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        "Exists" => true,
        _ => false,
    }
}

fn taints(node: &NodeInfo) -> impl Iterator<Item = &Taint> {
    node.node
        .as_ref()
        .and_then(|n| n.spec.as_ref())
        .and_then(|s| s.taints.as_ref())
        .into_iter()
        .flatten()
}

fn filter(pod: &PodInfo, node: &NodeInfo, _: &Cycle<'_>) -> Verdict {
    Verdict::unless(admits(pod, node), "node(s) had untolerated taint(s)", false)
}

/// Whether the pod tolerates all taints of the node that keep pods off.
#[must_use]
pub fn admits(pod: &PodInfo, node: &NodeInfo) -> bool {
    taints(node)
        .filter(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"))
        .all(|t| tolerates(pod, t))
}

fn score(pod: &PodInfo, node: &NodeInfo, _: &Cycle<'_>) -> i64 {
    let intolerable = taints(node)
        .filter(|t| t.effect == "PreferNoSchedule" && !tolerates(pod, t))
        .count();
    i64::try_from(intolerable).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_toleration_covers_what_it_names() {
        let taint: Taint = serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).unwrap();
        for (toleration, expected) in [
            (json!({"key": "k", "value": "v", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k"}), false),
            (json!({"key": "k", "value": "v", "effect": "NoExecute"}), false),
            (json!({"key": "x", "operator": "Exists"}), false),
        ] {
            let t: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(covers(&t, &taint), expected, "{toleration}");
        }
    }
}
