//! NodePorts: two pods on a node cannot hold the same host port.

use super::{Plugin, Verdict};
use crate::cycle::Cycle;
use crate::event::ClusterEvent;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

pub const PLUGIN: Plugin = Plugin {
    name: "NodePorts",
    filter: Some(filter),
    score: None,
    wakes_on: |event, _| matches!(event, ClusterEvent::NodeAdded | ClusterEvent::AssignedPodGone),
};

fn filter(pod: &PodInfo, node: &NodeInfo, _: &Cycle<'_>) -> Verdict {
    let free = pod
        .host_ports
        .iter()
        .all(|wanted| !node.host_ports.iter().any(|held| held.conflicts(wanted)));
    Verdict::unless(free, "node(s) didn't have free ports for the requested pod ports", true)
}
