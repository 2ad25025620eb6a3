//! One scheduling decision: which node for this pod, or why none.
//!
//! Pure: `(pod, snapshot, where to start, randomness) -> Placement`. Everything that a `FailedScheduling` event, the
//! `PodScheduled` condition and the queue need afterwards is in the result.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::plugins::{Plugin, ScoreContext, Verdict, normalize};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// With fewer nodes than this, all of them are looked at (upstream: `minFeasibleNodesToFind`).
const ENOUGH_NODES: usize = 100;
/// At least this share of the nodes is looked at, in percent (upstream: `minFeasibleNodesPercentageToFind`).
const LEAST_SHARE: usize = 5;

/// The result of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    Node {
        name: String,
        /// Where the next decision should start looking, so that all nodes get their turn in large clusters.
        next_start: usize,
    },
    Unschedulable(Unschedulable),
}

/// Why no node takes a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    /// Per reason, how many nodes gave it.
    pub reasons: BTreeMap<String, usize>,
    /// Names of the plugins that refused: only events that they wait for wake the pod.
    pub rejected_by: BTreeSet<&'static str>,
    /// Nodes that could take the pod if enough of lower priority went away, and hold no pod of lower priority.
    pub without_victims: usize,
    /// Nodes for which removing pods cannot help.
    pub unresolvable: usize,
}

impl Unschedulable {
    /// Upstream's message, word for word (`FitError` and the preemption plugin's addition).
    #[must_use]
    pub fn message(&self) -> String {
        let nodes = self.nodes;
        if nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let list = |reasons: &BTreeMap<String, usize>| {
            let mut texts: Vec<String> = reasons
                .iter()
                .map(|(reason, count)| format!("{count} {reason}"))
                .collect();
            texts.sort();
            texts.join(", ")
        };
        // The second sentence is what upstream's DynamicResources plugin adds when it has no claim to take back: always so,
        // as long as claims are nobody's business here.
        let mut text = format!(
            "0/{nodes} nodes are available: {}. no new claims to deallocate",
            list(&self.reasons)
        );
        if self.without_victims + self.unresolvable == nodes {
            let preemption = [
                ("No preemption victims found for incoming pod", self.without_victims),
                ("Preemption is not helpful for scheduling", self.unresolvable),
            ];
            let preemption = preemption
                .into_iter()
                .filter(|(_, n)| *n > 0)
                .map(|(text, n)| (text.to_owned(), n))
                .collect();
            text.push_str(&format!(
                ", preemption: 0/{nodes} nodes are available: {}.",
                list(&preemption)
            ));
        }
        text
    }
}

/// Decides for `pod`. `start` is where to begin looking in the list of nodes; `random` breaks ties among the best.
#[must_use]
pub fn decide(plugins: &[Plugin], pod: &PodInfo, snapshot: &Snapshot, start: usize, random: u64) -> Placement {
    let count = snapshot.nodes.len();
    let wanted = enough(count);
    let mut feasible: Vec<&Arc<NodeInfo>> = Vec::new();
    let mut why = Unschedulable {
        nodes: count,
        ..Unschedulable::default()
    };
    let mut looked_at = 0;
    let start = if count == 0 { 0 } else { start % count };
    for node in snapshot.nodes[start..].iter().chain(&snapshot.nodes[..start]) {
        if feasible.len() >= wanted {
            break;
        }
        looked_at += 1;
        match first_rejection(plugins, pod, node) {
            None => feasible.push(node),
            Some((plugin, reasons, resolvable)) => {
                why.rejected_by.insert(plugin);
                for reason in reasons {
                    *why.reasons.entry(reason).or_default() += 1;
                }
                if !resolvable {
                    why.unresolvable += 1;
                } else if node.pods.values().all(|p| p.priority >= pod.priority) {
                    why.without_victims += 1;
                }
            }
        }
    }
    match best(plugins, pod, &feasible, snapshot, random) {
        Some(node) => Placement::Node {
            name: node.name.clone(),
            next_start: (start + looked_at) % count.max(1),
        },
        None => Placement::Unschedulable(why),
    }
}

/// How many feasible nodes suffice (upstream: `numFeasibleNodesToFind` with `percentageOfNodesToScore: 0`).
fn enough(nodes: usize) -> usize {
    if nodes < ENOUGH_NODES {
        return nodes;
    }
    let share = 50_usize.saturating_sub(nodes / 125).max(LEAST_SHARE);
    (nodes * share / 100).max(ENOUGH_NODES)
}

fn first_rejection(plugins: &[Plugin], pod: &PodInfo, node: &NodeInfo) -> Option<(&'static str, Vec<String>, bool)> {
    plugins.iter().find_map(|plugin| match (plugin.filter?)(pod, node) {
        Verdict::Fits => None,
        Verdict::Rejected { reasons, resolvable } => Some((plugin.name, reasons, resolvable)),
    })
}

fn best<'a>(
    plugins: &[Plugin],
    pod: &PodInfo,
    feasible: &[&'a Arc<NodeInfo>],
    snapshot: &Snapshot,
    random: u64,
) -> Option<&'a Arc<NodeInfo>> {
    if feasible.len() < 2 {
        return feasible.first().copied();
    }
    let context = ScoreContext { nodes: &snapshot.nodes };
    let mut totals = vec![0_i64; feasible.len()];
    for score in plugins.iter().filter_map(|p| p.score.as_ref()) {
        let mut raw: Vec<i64> = feasible.iter().map(|node| (score.of)(pod, node, &context)).collect();
        normalize(score.normalize, &mut raw);
        for (total, raw) in totals.iter_mut().zip(raw) {
            *total += raw * score.weight;
        }
    }
    let highest = totals.iter().copied().max()?;
    let ties: Vec<&'a Arc<NodeInfo>> = feasible
        .iter()
        .zip(&totals)
        .filter(|(_, total)| **total == highest)
        .map(|(node, _)| *node)
        .collect();
    let pick = usize::try_from(random % ties.len().max(1) as u64).unwrap_or_default();
    ties.get(pick).copied()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
