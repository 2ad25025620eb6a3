//! What a node must satisfy and what makes it preferable, one file per concern.
//!
//! A plugin is a struct literal of plain functions over a pod and a node. [`ALL`] is the list, in upstream's order (the
//! order in which filters run and reasons are found). Adding one: a file and a line. Pure: no clock, no client.

use crate::event::ClusterEvent;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

mod balanced_allocation;
mod image_locality;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod taint_toleration;

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
    balanced_allocation::PLUGIN,
    image_locality::PLUGIN,
];

/// One concern of placement.
pub struct Plugin {
    /// Upstream's name, as metrics and the pod's history show it.
    pub name: &'static str,
    pub filter: Option<fn(&PodInfo, &NodeInfo) -> Verdict>,
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

/// How a plugin prefers nodes.
pub struct Score {
    pub weight: i64,
    /// The raw score of a node; higher is better unless normalised in reverse.
    pub of: fn(&PodInfo, &NodeInfo, &ScoreContext<'_>) -> i64,
    pub normalize: Normalize,
}

/// What all candidates of one decision share.
pub struct ScoreContext<'a> {
    pub nodes: &'a [std::sync::Arc<NodeInfo>],
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
    fn unless(holds: bool, reason: &str, resolvable: bool) -> Self {
        if holds {
            Self::Fits
        } else {
            Self::Rejected {
                reasons: vec![reason.to_owned()],
                resolvable,
            }
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
