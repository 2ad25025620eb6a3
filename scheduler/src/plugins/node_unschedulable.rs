//! NodeUnschedulable: a cordoned node takes only pods that tolerate being there.

use steersman_types::api::core::v1::Taint;

use super::taint_toleration::tolerates;
use super::{Plugin, Verdict};
use crate::cycle::Cycle;
use crate::event::ClusterEvent;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

pub const PLUGIN: Plugin = Plugin {
    name: "NodeUnschedulable",
    filter: Some(filter),
    score: None,
    wakes_on: |event, _| {
        matches!(
            event,
            ClusterEvent::NodeAdded | ClusterEvent::NodeTaints | ClusterEvent::PodTolerations
        )
    },
};

fn filter(pod: &PodInfo, node: &NodeInfo, _: &Cycle<'_>) -> Verdict {
    let cordoned = node
        .node
        .as_ref()
        .and_then(|n| n.spec.as_ref())
        .and_then(|s| s.unschedulable)
        .unwrap_or(false);
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        time_added: None,
        value: None,
    };
    Verdict::unless(!cordoned || tolerates(pod, &taint), "node(s) were unschedulable", false)
}
