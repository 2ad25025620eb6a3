//! What a node must satisfy and what makes it preferable, one file per concern.
//!
//! A plugin is a struct literal of plain functions over a pod and a node. [`ALL`] is the list, in upstream's order (the
//! order in which filters run and reasons are found). Adding one: a file and a line. Pure: no clock, no client.

use std::sync::Arc;

use crate::cycle::Cycle;
use crate::event::ClusterEvent;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

mod balanced_allocation;
mod image_locality;
mod inter_pod_affinity;
pub mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
pub mod taint_toleration;

/// The best score that a plugin gives a node, before its weight.
pub const MAX_SCORE: i64 = 100;

/// The default profile's plugins (upstream: `getDefaultPlugins`).
pub static ALL: &[Plugin] = &[
    node_unschedulable::PLUGIN,
    node_name::PLUGIN,
    taint_toleration::PLUGIN,
    node_affinity::PLUGIN,
    node_ports::PLUGIN,
    node_resources_fit::PLUGIN,
    pod_topology_spread::PLUGIN,
    inter_pod_affinity::PLUGIN,
    balanced_allocation::PLUGIN,
    image_locality::PLUGIN,
];

/// One concern of placement.
#[derive(Clone, Copy)]
pub struct Plugin {
    /// Upstream's name, as metrics and the pod's history show it.
    pub name: &'static str,
    pub filter: Option<Filter>,
    pub score: Option<Score>,
    /// Whether an event may make a node fit that this plugin refused to a pod. Wrongly `true` costs a try, wrongly
    /// `false` leaves a pod waiting for the five-minute flush.
    pub wakes_on: fn(&ClusterEvent, &PodInfo) -> bool,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Whether a node will do.
pub type Filter = fn(&PodInfo, &NodeInfo, &Cycle<'_>) -> Verdict;

/// How a plugin prefers nodes.
#[derive(Clone, Copy)]
pub struct Score {
    pub weight: i64,
    pub of: Scorer,
}

/// How scores come about.
#[derive(Clone, Copy)]
pub enum Scorer {
    /// Node by node, then brought into range; higher is better unless normalised in reverse.
    Each(fn(&PodInfo, &NodeInfo, &Cycle<'_>) -> i64, Normalize),
    /// For all candidates at once, 0 to [`MAX_SCORE`] each.
    All(fn(&PodInfo, &[&Arc<NodeInfo>], &Cycle<'_>) -> Vec<i64>),
}

impl Scorer {
    /// The scores of `nodes`, 0 to [`MAX_SCORE`].
    #[must_use]
    pub fn of(&self, pod: &PodInfo, nodes: &[&Arc<NodeInfo>], cycle: &Cycle<'_>) -> Vec<i64> {
        match self {
            Self::Each(of, how) => {
                let mut scores: Vec<i64> = nodes.iter().map(|node| of(pod, node, cycle)).collect();
                normalize(*how, &mut scores);
                scores
            }
            Self::All(of) => of(pod, nodes, cycle),
        }
    }
}

/// How raw scores become 0 to [`MAX_SCORE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// They are already.
    Not,
    /// The highest becomes [`MAX_SCORE`].
    ByHighest,
    /// The highest becomes 0: raw scores count what is bad.
    ByHighestReversed,
}

/// What a filter says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fits,
    /// Each reason is counted in the pod's `FailedScheduling` message.
    Rejected {
        reasons: Vec<String>,
        /// Whether taking pods off the node could help (upstream: `Unschedulable` against `UnschedulableAndUnresolvable`).
        resolvable: bool,
    },
}

impl Verdict {
    fn no(reason: &str, resolvable: bool) -> Self {
        Self::Rejected {
            reasons: vec![reason.to_owned()],
            resolvable,
        }
    }

    fn unless(holds: bool, reason: &str, resolvable: bool) -> Self {
        if holds {
            Self::Fits
        } else {
            Self::no(reason, resolvable)
        }
    }
}

/// Brings raw scores into range; the arithmetic is upstream's `DefaultNormalizeScore`.
pub fn normalize(how: Normalize, scores: &mut [i64]) {
    if how == Normalize::Not {
        return;
    }
    let highest = scores.iter().copied().max().unwrap_or_default();
    let reversed = how == Normalize::ByHighestReversed;
    for score in scores {
        let share = if highest == 0 { 0 } else { *score * MAX_SCORE / highest };
        *score = if reversed { MAX_SCORE - share } else { share };
    }
}
