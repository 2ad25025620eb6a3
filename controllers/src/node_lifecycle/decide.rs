//! Is a node alive, which taints should it have, what do its pods say. Pure: `now` is an argument.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use steersman_types::Time;
use steersman_types::api::coordination::v1::Lease;
use steersman_types::api::core::v1::{Node, NodeCondition, NodeStatus, Pod, Taint};

use crate::context::Settings;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions and the taint that each of them brings when it is true.
const PRESSURE: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];
/// What a silent node's kubelet can no longer vouch for. NetworkUnavailable is not its to say.
const KUBELETS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

#[must_use]
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == kind)
}

/// `True`, `False` or `Unknown`; `None` when nobody has said anything yet.
#[must_use]
pub fn ready_status(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|c| c.status.as_str())
}

#[must_use]
pub fn is_ready(node: &Node) -> bool {
    ready_status(node) == Some("True")
}

/// What about a node this controller reacts to at once.
#[must_use]
pub fn facts(node: &Node) -> (Vec<(String, String)>, Vec<Taint>, bool) {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let spec = node.spec.as_ref();
    (
        conditions.map(|c| (c.type_.clone(), c.status.clone())).collect(),
        spec.and_then(|s| s.taints.clone()).unwrap_or_default(),
        spec.and_then(|s| s.unschedulable).unwrap_or(false),
    )
}

/// The last sign of life, by our own clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    pub alive_at: Timestamp,
    heartbeat: Option<Timestamp>,
    renewed: Option<Timestamp>,
}

/// A renewal of a lease as we saw it: what it says, and when that was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Renewal {
    pub renewed: Timestamp,
    pub seen: Timestamp,
}

/// What a lease says about its last renewal.
#[must_use]
pub fn renewed(lease: &Lease) -> Option<Timestamp> {
    lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0)
}

/// What [`judge`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub health: Health,
    /// The status to write when the node has been silent for too long and does not say so yet.
    pub silent: Option<NodeStatus>,
    /// When it will have been silent for too long if nothing is heard; `None` when that is known already.
    pub due: Option<Timestamp>,
}

/// Compares what a node shows now with what was known of it. `heard` is the last renewal of its lease that a watch showed:
/// its moment counts instead of `now`, so that silence is measured from the renewal and not from our next look.
#[must_use]
pub fn judge(
    node: &Node,
    lease: Option<&Lease>,
    heard: Option<Renewal>,
    known: Option<&Health>,
    now: Timestamp,
    settings: &Settings,
) -> Verdict {
    let ready = condition(node, "Ready");
    let heartbeat = ready.and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
    let renewed = lease.and_then(renewed);
    let created = node.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let mut health = match known {
        Some(known) => known.clone(),
        // Never seen: a node without any status is as old as its object, any other starts now.
        None if ready.is_none() => Health {
            alive_at: created.unwrap_or(now),
            heartbeat,
            renewed: None,
        },
        None => Health {
            alive_at: now,
            heartbeat,
            renewed,
        },
    };
    let status_moved = known.is_some() && heartbeat.is_some() && heartbeat != health.heartbeat;
    let lease_moved = renewed.is_some_and(|at| health.renewed.is_none_or(|before| at > before));
    // Our own "Unknown" is not a sign of life.
    let ours = ready.is_some_and(|c| c.reason.as_deref() == Some("NodeStatusNeverUpdated"));
    if status_moved && !ours {
        health.alive_at = now;
    } else if lease_moved {
        // A watch may be about to tell of this renewal: then it has told of another one so far.
        let seen = heard
            .filter(|heard| Some(heard.renewed) == renewed)
            .map(|heard| heard.seen);
        health.alive_at = health.alive_at.max(seen.unwrap_or(now));
    }
    health.heartbeat = heartbeat;
    health.renewed = renewed.or(health.renewed);
    let grace = if ready.is_none() {
        settings.node_startup_grace
    } else {
        settings.node_monitor_grace
    };
    let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::from_secs(50));
    let late = now.duration_since(health.alive_at) > grace;
    let silent = late.then(|| silence(node, now)).flatten();
    let due = health.alive_at.saturating_add(grace).ok();
    let due = due.filter(|_| !late && ready_status(node) != Some("Unknown"));
    Verdict { health, silent, due }
}

/// The status with the kubelet's conditions Unknown; `None` when it says so already.
fn silence(node: &Node, now: Timestamp) -> Option<NodeStatus> {
    if ready_status(node) == Some("Unknown") {
        return None;
    }
    let mut status = node.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    for kind in KUBELETS {
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                known.status = "Unknown".to_owned();
                known.reason = Some("NodeStatusUnknown".to_owned());
                known.message = Some("Kubelet stopped posting node status.".to_owned());
                known.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    Some(status)
}

fn is(taint: &Taint, key: &str, effect: &str) -> bool {
    taint.key == key && taint.effect == effect
}

/// Whether pods may be moved away from a node now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Go,
    /// Not yet.
    Wait,
    /// Not at all: taints that would are taken away.
    Stop,
}

/// The node's taints as its conditions ask for; `None` when it has them. Other taints stay as they are. A NoExecute
/// taint where there was none is added only when the pace allows it; exchanging one for the other is possible while
/// waiting.
#[must_use]
pub fn taints(node: &Node, pace: Pace, now: Timestamp) -> Option<Vec<Taint>> {
    let before = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let true_now = |kind: &str| condition(node, kind).is_some_and(|c| c.status == "True");
    let mut schedule: Vec<&str> = PRESSURE
        .iter()
        .filter(|(kind, _)| true_now(kind))
        .map(|(_, key)| *key)
        .collect();
    let trouble = match ready_status(node) {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    };
    schedule.extend(trouble);
    if node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false) {
        schedule.push(UNSCHEDULABLE);
    }
    let managed: Vec<&str> = PRESSURE
        .iter()
        .map(|(_, key)| *key)
        .chain([NOT_READY, UNREACHABLE, UNSCHEDULABLE])
        .collect();
    // Before the kubelet has spoken for the first time, admission's not-ready taint stays.
    let silent_yet = ready_status(node).is_none();
    let mut after: Vec<Taint> = Vec::new();
    let evicting = evicts(&before);
    for taint in &before {
        let keep = match taint.effect.as_str() {
            "NoSchedule" if managed.contains(&taint.key.as_str()) => {
                schedule.contains(&taint.key.as_str()) || (silent_yet && taint.key == NOT_READY)
            }
            "NoExecute" if [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()) => {
                trouble == Some(taint.key.as_str()) && pace != Pace::Stop
            }
            _ => true,
        };
        if keep {
            after.push(taint.clone());
        }
    }
    let stamp = || Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    for key in schedule {
        if !after.iter().any(|t| is(t, key, "NoSchedule")) {
            after.push(Taint {
                key: key.to_owned(),
                effect: "NoSchedule".to_owned(),
                value: None,
                time_added: stamp(),
            });
        }
    }
    if let Some(key) = trouble
        && (pace == Pace::Go || pace == Pace::Wait && evicting)
        && !after.iter().any(|t| is(t, key, "NoExecute"))
    {
        after.push(Taint {
            key: key.to_owned(),
            effect: "NoExecute".to_owned(),
            value: None,
            time_added: stamp(),
        });
    }
    (after != before).then_some(after)
}

/// Older labels that must say the same as the present ones, as far as they do not.
#[must_use]
pub fn labels(node: &Node) -> BTreeMap<String, String> {
    let have = node.metadata.labels.as_ref();
    let label = |key: &str| have.and_then(|labels| labels.get(key));
    let wanted = [
        ("kubernetes.io/os", "beta.kubernetes.io/os"),
        ("kubernetes.io/arch", "beta.kubernetes.io/arch"),
    ];
    let missing = wanted.into_iter().filter_map(|(present, older)| {
        let value = label(present)?;
        (label(older) != Some(value)).then(|| (older.to_owned(), value.clone()))
    });
    missing.collect()
}

/// Since when the node has not been ready; nodes are emptied in this order.
#[must_use]
pub fn down_since(node: &Node) -> Option<Timestamp> {
    let ready = condition(node, "Ready").filter(|c| c.status != "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether pods are being moved away by one of ours.
pub fn evicts<'a>(taints: impl IntoIterator<Item = &'a Taint>) -> bool {
    taints
        .into_iter()
        .any(|t| is(t, NOT_READY, "NoExecute") || is(t, UNREACHABLE, "NoExecute"))
}

/// The pod with its Ready condition false; `None` when it is already.
#[must_use]
pub fn not_ready(pod: &Pod, now: Timestamp) -> Option<Pod> {
    let mut pod = pod.clone();
    let conditions = pod.status.as_mut()?.conditions.as_mut()?;
    let ready = conditions
        .iter_mut()
        .find(|c| c.type_ == "Ready" && c.status != "False")?;
    ready.status = "False".to_owned();
    ready.last_transition_time = Some(Time(now));
    Some(pod)
}
