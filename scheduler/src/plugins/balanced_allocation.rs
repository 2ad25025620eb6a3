//! NodeResourcesBalancedAllocation: prefers nodes on which the pod evens out the use of CPU and memory, or of
//! what else the profile names.

use super::{MAX_SCORE, Normalize, Plugin, Score, Scorer};
use crate::cycle::Cycle;
use crate::pod::PodInfo;
use crate::resources::Resources;
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

fn score(pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> i64 {
    let asked = &pod.requests.exact;
    if asked.is_zero() {
        // Best-effort pods change no balance (upstream skips the plugin for them).
        return 0;
    }
    let none = Resources::default();
    let of = |more: &Resources| {
        let uses = cycle.arguments.balanced.iter().map(|(resource, _)| {
            let extended = !["cpu", "memory", "ephemeral-storage"].contains(&resource.as_str());
            if extended && asked.get(resource) == 0 {
                return (0, 0);
            }
            (
                node.requested.get(resource) + more.get(resource),
                node.allocatable.get(resource),
            )
        });
        balance(uses)
    };
    MAX_SCORE / 2 + (MAX_SCORE / 2 + of(asked) - of(&none)) / 2
}

/// 100 when all resources are used to the same share, less the further apart they are.
fn balance(uses: impl Iterator<Item = (i64, i64)>) -> i64 {
    let shares: Vec<f64> = uses
        .filter(|(_, capacity)| *capacity > 0)
        .map(|(used, capacity)| (used as f64 / capacity as f64).min(1.0))
        .collect();
    let spread = match shares[..] {
        [] | [_] => 0.0,
        [a, b] => (a - b).abs() / 2.0,
        _ => {
            let count = shares.len() as f64;
            let mean = shares.iter().sum::<f64>() / count;
            (shares.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / count).sqrt()
        }
    };
    ((1.0 - spread) * MAX_SCORE as f64) as i64
}
