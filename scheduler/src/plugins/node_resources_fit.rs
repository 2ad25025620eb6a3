//! NodeResourcesFit: a node must have what the pod asks for; emptier nodes are preferred (`LeastAllocated`).

use super::{MAX_SCORE, Normalize, Plugin, Score, Scorer, Verdict};
use crate::cycle::Cycle;
use crate::event::ClusterEvent;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

pub const PLUGIN: Plugin = Plugin {
    name: "NodeResourcesFit",
    filter: Some(filter),
    score: Some(Score {
        weight: 1,
        of: Scorer::Each(score, Normalize::Not),
    }),
    wakes_on: |event, _| {
        matches!(
            event,
            ClusterEvent::NodeAdded
                | ClusterEvent::NodeAllocatable
                | ClusterEvent::AssignedPodGone
                | ClusterEvent::PodRequests
        )
    },
};

fn filter(pod: &PodInfo, node: &NodeInfo, _: &Cycle<'_>) -> Verdict {
    let mut reasons = Vec::new();
    // What the node could never hold is not mended by taking pods off it.
    let mut resolvable = true;
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) + 1 > node.allowed_pods {
        reasons.push("Too many pods".to_owned());
    }
    let asked = &pod.requests.exact;
    let mut check = |name: &str, wanted: i64, held: i64, capacity: i64| {
        if wanted > 0 && wanted > capacity - held {
            reasons.push(format!("Insufficient {name}"));
            resolvable &= wanted <= capacity;
        }
    };
    check(
        "cpu",
        asked.milli_cpu,
        node.requested.milli_cpu,
        node.allocatable.milli_cpu,
    );
    check("memory", asked.memory, node.requested.memory, node.allocatable.memory);
    check(
        "ephemeral-storage",
        asked.ephemeral_storage,
        node.requested.ephemeral_storage,
        node.allocatable.ephemeral_storage,
    );
    for (name, wanted) in &asked.scalar {
        let of = |map: &std::collections::BTreeMap<String, i64>| map.get(name).copied().unwrap_or_default();
        check(name, *wanted, of(&node.requested.scalar), of(&node.allocatable.scalar));
    }
    if reasons.is_empty() {
        Verdict::Fits
    } else {
        Verdict::Rejected { reasons, resolvable }
    }
}

fn score(pod: &PodInfo, node: &NodeInfo, _: &Cycle<'_>) -> i64 {
    mean(pod, node, |used, capacity| capacity - used)
}

/// The mean share in use, the pod included: packs nodes instead of spreading (`MostAllocated`).
pub(super) fn most_allocated(pod: &PodInfo, node: &NodeInfo, _: &Cycle<'_>) -> i64 {
    mean(pod, node, |used, capacity| used.min(capacity))
}

fn mean(pod: &PodInfo, node: &NodeInfo, counted: fn(i64, i64) -> i64) -> i64 {
    let shares = [
        (
            node.non_zero_milli_cpu + pod.requests.non_zero_milli_cpu,
            node.allocatable.milli_cpu,
        ),
        (
            node.non_zero_memory + pod.requests.non_zero_memory,
            node.allocatable.memory,
        ),
    ];
    let (mut sum, mut kinds) = (0, 0);
    for (used, capacity) in shares.into_iter().filter(|(_, capacity)| *capacity > 0) {
        // In 128 bits: memory times 100 does not fit 64 on large machines.
        let share = i128::from(counted(used, capacity).max(0)) * i128::from(MAX_SCORE) / i128::from(capacity);
        sum += i64::try_from(share).unwrap_or(MAX_SCORE);
        kinds += 1;
    }
    if kinds == 0 { 0 } else { sum / kinds }
}
