//! What can happen in the cluster that lets a waiting pod be placed after all.

use steersman_types::Typed;
use steersman_types::api::core::v1::{Node, Pod};

use crate::resources;

/// A change that some plugin may have been waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClusterEvent {
    NodeAdded,
    /// A node's allocatable resources changed.
    NodeAllocatable,
    NodeLabels,
    /// A node's taints changed, or it was cordoned or uncordoned.
    NodeTaints,
    NodeGone,
    /// A pod came to a node.
    AssignedPodAdded,
    AssignedPodLabels,
    /// A pod on a node was deleted, finished, or asks for less.
    AssignedPodGone,
    /// The waiting pod itself asks for something else.
    PodRequests,
    /// The waiting pod itself tolerates something else.
    PodTolerations,
    /// The waiting pod itself is labelled differently.
    PodLabels,
    NamespaceLabels,
}

impl ClusterEvent {
    /// What upstream calls it in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NodeAdded => "NodeAdd",
            Self::NodeAllocatable => "NodeUpdateNodeAllocatable",
            Self::NodeLabels => "NodeUpdateNodeLabel",
            Self::NodeTaints => "NodeUpdateNodeTaint",
            Self::NodeGone => "NodeDelete",
            Self::AssignedPodAdded => "AssignedPodAdd",
            Self::AssignedPodLabels => "AssignedPodUpdatePodLabel",
            Self::AssignedPodGone => "AssignedPodDelete",
            Self::PodRequests => "UnschedulablePodUpdatePodScaleDown",
            Self::PodTolerations => "UnschedulablePodUpdatePodToleration",
            Self::PodLabels => "UnschedulablePodUpdatePodLabel",
            Self::NamespaceLabels => "NamespaceUpdate",
        }
    }
}

/// What changed between two versions of a node.
#[must_use]
pub fn node_changes(old: &Node, new: &Node) -> Vec<ClusterEvent> {
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    let taints = |n: &Node| {
        n.spec
            .as_ref()
            .map(|s| (s.taints.clone(), s.unschedulable.unwrap_or(false)))
    };
    let mut events = Vec::new();
    if allocatable(old) != allocatable(new) {
        events.push(ClusterEvent::NodeAllocatable);
    }
    if old.metadata().labels != new.metadata().labels {
        events.push(ClusterEvent::NodeLabels);
    }
    if taints(old) != taints(new) {
        events.push(ClusterEvent::NodeTaints);
    }
    events
}

/// What changed between two versions of a pod that waits.
#[must_use]
pub fn pending_pod_changes(old: &Pod, new: &Pod) -> Vec<ClusterEvent> {
    let tolerations = |p: &Pod| p.spec.as_ref().and_then(|s| s.tolerations.clone());
    let mut events = Vec::new();
    if resources::requests(old) != resources::requests(new) {
        events.push(ClusterEvent::PodRequests);
    }
    if tolerations(old) != tolerations(new) {
        events.push(ClusterEvent::PodTolerations);
    }
    if old.metadata().labels != new.metadata().labels {
        events.push(ClusterEvent::PodLabels);
    }
    events
}
