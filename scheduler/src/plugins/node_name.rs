//! NodeName: a pod that names its node fits only there.

use super::{Plugin, Verdict};
use crate::cycle::Cycle;
use crate::event::ClusterEvent;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

pub const PLUGIN: Plugin = Plugin {
    name: "NodeName",
    filter: Some(filter),
    score: None,
    wakes_on: |event, _| matches!(event, ClusterEvent::NodeAdded),
};

fn filter(pod: &PodInfo, node: &NodeInfo, _: &Cycle<'_>) -> Verdict {
    let wanted = pod.node();
    Verdict::unless(
        wanted.is_empty() || wanted == node.name,
        "node(s) didn't match the requested node name",
        false,
    )
}
