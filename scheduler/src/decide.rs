//! One scheduling decision: which node for this pod, or why none.
//!
//! Pure: `(pod, snapshot, where to start, randomness) -> Placement`. Everything that a `FailedScheduling` event, the
//! `PodScheduled` condition and the queue need afterwards is in the result.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cycle::Cycle;
use crate::plugins::{Plugin, Verdict};
use crate::pod::PodInfo;
use crate::preempt::{self, Preemption};
use crate::profiles::Profile;
use crate::snapshot::{NodeInfo, Snapshot};

/// With fewer nodes than this, all of them are looked at (upstream: `minFeasibleNodesToFind`).
const ENOUGH_NODES: usize = 100;
/// At least this share of the nodes is looked at, in percent (upstream: `minFeasibleNodesPercentageToFind`).
const LEAST_SHARE: usize = 5;

/// The result of a decision.
#[derive(Clone, Debug)]
pub enum Placement {
    Node {
        name: String,
        /// Where the next decision should start looking, so that all nodes get their turn in large clusters.
        next_start: usize,
    },
    Unschedulable(Unschedulable),
}

/// Why no node takes a pod.
#[derive(Clone, Debug, Default)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    /// Per reason, how many nodes gave it.
    pub reasons: BTreeMap<String, usize>,
    /// Names of the plugins that refused: only events that they wait for wake the pod.
    pub rejected_by: BTreeSet<&'static str>,
    /// Nodes for which removing pods cannot help.
    pub unresolvable: usize,
    /// What came of trying to displace pods.
    pub room: Room,
}

/// Whether room can be made for a pod that fits nowhere.
#[derive(Clone, Debug, Default)]
pub enum Room {
    /// Nobody tried.
    #[default]
    Untried,
    /// It must not be tried; upstream's words. What was decided before stays.
    Forbidden(&'static str),
    /// By these pods leaving this node.
    Found(Preemption),
    /// Nowhere; per reason, how many nodes gave it.
    Nowhere(BTreeMap<String, usize>),
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
        let mut text = format!("0/{nodes} nodes are available: {}.", list(&self.reasons));
        // "no new claims" is what upstream's DynamicResources plugin says when it has no claim to take back: always so, as
        // long as claims are nobody's business here. Nobody says anything once room was found.
        match &self.room {
            Room::Found(_) => {}
            Room::Untried => text.push_str(" no new claims to deallocate"),
            Room::Forbidden(why) => text.push_str(&format!(" no new claims to deallocate, preemption: {why}")),
            Room::Nowhere(reasons) => {
                let mut reasons = reasons.clone();
                if self.unresolvable > 0 {
                    reasons.insert("Preemption is not helpful for scheduling".to_owned(), self.unresolvable);
                }
                text.push_str(&format!(
                    " no new claims to deallocate, preemption: 0/{nodes} nodes are available: {}.",
                    list(&reasons)
                ));
            }
        }
        text
    }
}

/// Decides for `pod`. `start` is where to begin looking in the list of nodes; `random` breaks ties among the best.
#[must_use]
pub fn decide(profile: &Profile, pod: &PodInfo, snapshot: &Snapshot, start: usize, random: u64) -> Placement {
    let plugins = &profile.plugins;
    let count = snapshot.nodes.len();
    let wanted = enough(count, profile.percentage);
    let cycle = Cycle::new(pod, snapshot, &profile.arguments);
    let start = if count == 0 { 0 } else { start % count };
    // Room was made there for this pod: nowhere else, as long as it fits.
    let promised = Some(pod.nominated()).filter(|name| !name.is_empty());
    let nominated = promised.and_then(|name| snapshot.nodes.iter().find(|n| n.name == name));
    if let Some(node) = nominated.filter(|node| rejection(plugins, pod, node, &cycle).is_none()) {
        return Placement::Node {
            name: node.name.clone(),
            next_start: start,
        };
    }
    let mut feasible: Vec<&Arc<NodeInfo>> = Vec::new();
    let mut mendable: Vec<&Arc<NodeInfo>> = Vec::new();
    let mut why = Unschedulable {
        nodes: count,
        ..Unschedulable::default()
    };
    let mut looked_at = 0;
    for node in snapshot.nodes[start..].iter().chain(&snapshot.nodes[..start]) {
        if feasible.len() >= wanted {
            break;
        }
        looked_at += 1;
        match rejection(plugins, pod, node, &cycle) {
            None => feasible.push(node),
            Some((plugin, reasons, resolvable)) => {
                why.rejected_by.insert(plugin);
                for reason in reasons {
                    *why.reasons.entry(reason).or_default() += 1;
                }
                if resolvable {
                    mendable.push(node);
                } else {
                    why.unresolvable += 1;
                }
            }
        }
    }
    match best(plugins, pod, &feasible, &cycle, random) {
        Some(node) => Placement::Node {
            name: node.name.clone(),
            next_start: (start + looked_at) % count.max(1),
        },
        None => {
            if profile.preempts && count > 0 {
                why.room = room(plugins, pod, &cycle, &mendable, random);
            }
            Placement::Unschedulable(why)
        }
    }
}

fn room(plugins: &[Plugin], pod: &PodInfo, cycle: &Cycle<'_>, mendable: &[&Arc<NodeInfo>], random: u64) -> Room {
    let hopeless = !mendable.iter().any(|n| n.name == pod.nominated());
    if let Some(why) = preempt::forbidden(pod, cycle, hopeless) {
        return Room::Forbidden(why);
    }
    let attempt = preempt::attempt(plugins, pod, cycle, mendable, random);
    match attempt.chosen {
        Some(preemption) => Room::Found(preemption),
        None => Room::Nowhere(attempt.reasons),
    }
}

/// How many feasible nodes suffice (upstream: `numFeasibleNodesToFind`).
fn enough(nodes: usize, percentage: usize) -> usize {
    if nodes < ENOUGH_NODES {
        return nodes;
    }
    let share = match percentage {
        0 => 50_usize.saturating_sub(nodes / 125).max(LEAST_SHARE),
        said => said,
    };
    (nodes * share / 100).max(ENOUGH_NODES)
}

/// Plugin, reasons, and whether fewer pods on the node could mend it.
pub(crate) type Rejection = (&'static str, Vec<String>, bool);

/// What speaks against the node as it is.
fn first_rejection(plugins: &[Plugin], pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> Option<Rejection> {
    plugins
        .iter()
        .find_map(|plugin| match (plugin.filter?)(pod, node, cycle) {
            Verdict::Fits => None,
            Verdict::Rejected { reasons, resolvable } => Some((plugin.name, reasons, resolvable)),
        })
}

/// What speaks against the node, also when the pods come for which room was made there. (Both must fit: the others may
/// come or not.)
pub(crate) fn rejection(plugins: &[Plugin], pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> Option<Rejection> {
    let coming = cycle.snapshot.nominated.get(&node.name).into_iter().flatten();
    let coming: Vec<_> = coming
        .filter(|p| p.priority >= pod.priority && p.key != pod.key)
        .collect();
    if !coming.is_empty() {
        let (mut full, mut counts) = (node.clone(), cycle.clone());
        for other in coming {
            full.add(other.clone());
            counts.change(pod, other, node, 1);
        }
        let rejection = first_rejection(plugins, pod, &full, &counts);
        if rejection.is_some() {
            return rejection;
        }
    }
    first_rejection(plugins, pod, node, cycle)
}

/// Whether nothing speaks against the node.
pub(crate) fn fits(plugins: &[Plugin], pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> bool {
    rejection(plugins, pod, node, cycle).is_none()
}

fn best<'a>(
    plugins: &[Plugin],
    pod: &PodInfo,
    feasible: &[&'a Arc<NodeInfo>],
    cycle: &Cycle<'_>,
    random: u64,
) -> Option<&'a Arc<NodeInfo>> {
    if feasible.len() < 2 {
        return feasible.first().copied();
    }
    let mut totals = vec![0_i64; feasible.len()];
    for score in plugins.iter().filter_map(|p| p.score.as_ref()) {
        for (total, one) in totals.iter_mut().zip(score.of.of(pod, feasible, cycle)) {
            *total += one * score.weight;
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
