//! NodeResourcesBalancedAllocation: prefers nodes on which the pod evens out the use of CPU and memory.

use super::{MAX_SCORE, Normalize, Plugin, Score, Scorer};
use crate::cycle::Cycle;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

pub const PLUGIN: Plugin = Plugin {
    name: "NodeResourcesBalancedAllocation",
    filter: None,
    score: Some(Score {
        weight: 1,
        of: Scorer::Each(score, Normalize::Not),
    }),
    wakes_on: |_, _| false,
};

fn score(pod: &PodInfo, node: &NodeInfo, _: &Cycle<'_>) -> i64 {
    let asked = &pod.requests.exact;
    if asked.is_zero() {
        // Best-effort pods change no balance (upstream skips the plugin for them).
        return 0;
    }
    let of = |cpu: i64, memory: i64| balance([(cpu, node.allocatable.milli_cpu), (memory, node.allocatable.memory)]);
    let before = of(node.requested.milli_cpu, node.requested.memory);
    let after = of(
        node.requested.milli_cpu + asked.milli_cpu,
        node.requested.memory + asked.memory,
    );
    MAX_SCORE / 2 + (MAX_SCORE / 2 + after - before) / 2
}

/// 100 when both resources are used to the same share, less the further apart they are.
fn balance(uses: [(i64, i64); 2]) -> i64 {
    let shares: Vec<f64> = uses
        .iter()
        .filter(|(_, capacity)| *capacity > 0)
        .map(|(used, capacity)| (*used as f64 / *capacity as f64).min(1.0))
        .collect();
    let spread = match shares[..] {
        [a, b] => (a - b).abs() / 2.0,
        _ => 0.0,
    };
    ((1.0 - spread) * MAX_SCORE as f64) as i64
}
