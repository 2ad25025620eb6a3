//! NodeResourcesFit: a node must have what the pod asks for; emptier nodes are preferred, or fuller ones, or as the profile
//! says ([`Strategy`]).

use super::{MAX_SCORE, Normalize, Plugin, Score, Scorer, Verdict};
use crate::arguments::{Arguments, Strategy};
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

fn filter(pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> Verdict {
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
    for (name, wanted) in asked
        .scalar
        .iter()
        .filter(|(name, _)| !is_ignored(name, cycle.arguments))
    {
        let of = |map: &std::collections::BTreeMap<String, i64>| map.get(name).copied().unwrap_or_default();
        check(name, *wanted, of(&node.requested.scalar), of(&node.allocatable.scalar));
    }
    if reasons.is_empty() {
        Verdict::Fits
    } else {
        Verdict::Rejected { reasons, resolvable }
    }
}

fn is_ignored(resource: &str, arguments: &Arguments) -> bool {
    arguments.ignored_resources.contains(resource)
        || resource
            .split_once('/')
            .is_some_and(|(group, _)| arguments.ignored_groups.contains(group))
}

fn score(pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for (resource, weight) in &cycle.arguments.fit {
        let (used, capacity) = use_of(resource, pod, node);
        if capacity <= 0 {
            continue;
        }
        let score = match &cycle.arguments.strategy {
            Strategy::LeastAllocated => share(capacity - used, capacity),
            Strategy::MostAllocated => share(used.min(capacity), capacity),
            Strategy::Shape(points) => {
                let percent = if used > capacity {
                    MAX_SCORE
                } else {
                    share(used, capacity)
                };
                let score = on_line(points, percent);
                // Upstream leaves out of the mean what scores nothing.
                if score <= 0 {
                    continue;
                }
                score
            }
        };
        sum += score * weight;
        weights += weight;
    }
    match &cycle.arguments.strategy {
        _ if weights == 0 => 0,
        Strategy::Shape(_) => (sum as f64 / weights as f64).round() as i64,
        _ => sum / weights,
    }
}

/// What is in use of a resource with the pod on the node, and how much there is. No capacity where it does not count: what
/// the pod does not ask for says nothing about the node, save CPU and memory.
fn use_of(resource: &str, pod: &PodInfo, node: &NodeInfo) -> (i64, i64) {
    let asked = &pod.requests;
    match resource {
        "cpu" => (
            node.non_zero_milli_cpu + asked.non_zero_milli_cpu,
            node.allocatable.milli_cpu,
        ),
        "memory" => (node.non_zero_memory + asked.non_zero_memory, node.allocatable.memory),
        "ephemeral-storage" => (
            node.requested.ephemeral_storage + asked.exact.ephemeral_storage,
            node.allocatable.ephemeral_storage,
        ),
        other => {
            let of = |map: &std::collections::BTreeMap<String, i64>| map.get(other).copied().unwrap_or_default();
            let wanted = of(&asked.exact.scalar);
            if wanted == 0 {
                return (0, 0);
            }
            (of(&node.requested.scalar) + wanted, of(&node.allocatable.scalar))
        }
    }
}

/// `part` of `whole` in hundredths; in 128 bits, since memory times 100 does not fit 64 on large machines.
fn share(part: i64, whole: i64) -> i64 {
    let share = i128::from(part.max(0)) * i128::from(MAX_SCORE) / i128::from(whole);
    i64::try_from(share).unwrap_or(MAX_SCORE)
}

/// The height at `x` of straight lines through `points`, which go on level at both ends.
fn on_line(points: &[(i64, i64)], x: i64) -> i64 {
    let Some(after) = points.iter().position(|(at, _)| x <= *at) else {
        return points.last().map_or(0, |(_, score)| *score);
    };
    let (right, high) = points[after];
    match after.checked_sub(1).map(|before| points[before]) {
        None => high,
        Some((left, low)) => low + (high - low) * (x - left) / (right - left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_followed_between_its_points_and_level_beyond_them() {
        let points = [(20, 0), (60, 100), (80, 50)];
        let seen: Vec<i64> = [0, 20, 30, 60, 70, 80, 100]
            .iter()
            .map(|x| on_line(&points, *x))
            .collect();
        assert_eq!(seen, [0, 0, 25, 100, 75, 50, 50]);
    }
}
