//! Which pods of a DaemonSet to create and delete. Pure.
//!
//! Two parts, in this order: [`keep`] brings one pod to every node where one belongs and removes those that do not; only
//! when it has nothing to do, [`roll`] replaces old pods within maxUnavailable or maxSurge.
//!
//! Words: a pod is *new* when it was made from the present template, otherwise *old*.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use steersman_types::IntOrString;
use steersman_types::api::apps::v1::{DaemonSet, DaemonSetStatus};
use steersman_types::api::core::v1::{Node, Pod};

use super::place::{self, Fit};
use crate::pods;

/// Creations, and deletions, per run.
pub const BURST: usize = 250;

/// What the caches say about one set.
#[derive(Clone, Debug)]
pub struct Observed {
    pub set: Arc<DaemonSet>,
    /// The pods it owns.
    pub pods: Vec<Arc<Pod>>,
    pub nodes: Vec<Arc<Node>>,
    /// Nodes on which a failed pod is not replaced yet, and for how long.
    pub backoff: BTreeMap<String, Duration>,
    pub now: Timestamp,
}

/// What became of a pod that should run forever.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    pub pod: Arc<Pod>,
    pub node: String,
    pub failed: bool,
}

/// What to do; deletions first.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub delete: Vec<Arc<Pod>>,
    /// Names of nodes that get a pod.
    pub create: Vec<String>,
    /// Deleted because they ended; each is worth an event, and failures a longer pause next time.
    pub ended: Vec<Ended>,
    pub again: Option<Duration>,
}

/// The new and the old pod of a node.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// The observed state, sorted by node.
struct Fleet<'a> {
    set: &'a DaemonSet,
    hash: &'a str,
    now: Timestamp,
    min_ready: i32,
    nodes: Vec<(&'a str, Fit)>,
    by_node: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
}

impl<'a> Fleet<'a> {
    fn of(seen: &'a Observed, hash: &'a str) -> Self {
        let probe = place::probe(&seen.set);
        let name = |node: &'a Node| node.metadata.name.as_deref().unwrap_or_default();
        let nodes = seen
            .nodes
            .iter()
            .map(|node| (name(node), place::fit(&probe, node)))
            .collect();
        let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in &seen.pods {
            // On its way out for good: nothing is left to be done about it.
            if pods::is_finished(pod) && pods::is_terminating(pod) {
                continue;
            }
            if let Some(node) = place::target(pod) {
                by_node.entry(node).or_default().push(pod);
            }
        }
        for pods in by_node.values_mut() {
            pods.sort_by_key(|pod| rank(pod));
        }
        Self {
            set: &seen.set,
            hash,
            now: seen.now,
            min_ready: min_ready(&seen.set),
            nodes,
            by_node,
        }
    }

    fn on(&self, node: &str) -> &[&'a Arc<Pod>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    fn available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready, self.now)
    }

    fn wanted(&self) -> usize {
        self.nodes.iter().filter(|(_, fit)| fit.run).count()
    }

    /// The one new and the one old pod of a node; `None` when there are several of one sort.
    fn pair(&self, pods: &[&'a Arc<Pod>]) -> Option<Pair<'a>> {
        let (mut new, mut old) = (None, None);
        for pod in pods.iter().copied().filter(|pod| !pods::is_terminating(pod)) {
            let slot = if place::is_updated(self.set, pod, self.hash) {
                &mut new
            } else {
                &mut old
            };
            if slot.replace(pod).is_some() {
                return None;
            }
        }
        Some((new, old))
    }
}

/// Bound pods first, then the oldest.
fn rank(pod: &Pod) -> (bool, Option<Timestamp>, Option<String>) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (pods::node(pod).is_empty(), created, pod.metadata.name.clone())
}

fn min_ready(set: &DaemonSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

/// `(surge, unavailable)` of a rolling update over `wanted` nodes.
fn limits(set: &DaemonSet, wanted: usize) -> (usize, usize) {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let rolling = strategy
        .filter(|s| s.type_.as_deref() == Some("RollingUpdate"))
        .and_then(|s| s.rolling_update.as_ref());
    let total = i32::try_from(wanted).unwrap_or(i32::MAX);
    let number = |value: Option<&IntOrString>| {
        usize::try_from(crate::deployment::rollout::scaled(value, total, true)).unwrap_or(0)
    };
    let surge = number(rolling.and_then(|r| r.max_surge.as_ref()));
    let unavailable = number(rolling.and_then(|r| r.max_unavailable.as_ref()));
    // Otherwise nothing could ever move.
    let stuck = wanted > 0 && surge == 0 && unavailable == 0;
    (surge, if stuck { 1 } else { unavailable })
}

/// The plan of one run; `hash` is that of the present revision.
#[must_use]
pub fn decide(seen: &Observed, hash: &str) -> Plan {
    let fleet = Fleet::of(seen, hash);
    let mut plan = keep(seen, &fleet);
    if plan.delete.is_empty() && plan.create.is_empty() {
        let strategy = seen.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        if strategy.and_then(|s| s.type_.as_deref()) == Some("RollingUpdate") {
            let again = plan.again;
            plan = Plan { again, ..roll(&fleet) };
        }
    }
    plan.delete.truncate(BURST);
    plan.create.truncate(BURST);
    let soon = pods::next_available(seen.pods.iter().map(Arc::as_ref), min_ready(&seen.set), seen.now);
    plan.again = plan.again.into_iter().chain(soon).min();
    plan
}

fn keep(seen: &Observed, fleet: &Fleet<'_>) -> Plan {
    let mut plan = Plan::default();
    let surging = limits(fleet.set, 1).0 > 0;
    for &(node, fit) in &fleet.nodes {
        let there = fleet.on(node);
        if fit.run && there.is_empty() {
            plan.create.push(node.to_owned());
        } else if fit.stay {
            keep_one(seen, fleet, (node, fit), surging, &mut plan);
        } else {
            let staying = there.iter().filter(|pod| !pods::is_terminating(pod));
            plan.delete.extend(staying.map(|pod| Arc::clone(pod)));
        }
    }
    // Pods for nodes that no longer exist can never be scheduled, and the pod collector leaves them alone.
    let known: BTreeSet<&str> = fleet.nodes.iter().map(|(name, _)| *name).collect();
    for (_, there) in fleet.by_node.iter().filter(|(node, _)| !known.contains(*node)) {
        let waiting = there
            .iter()
            .filter(|pod| pods::node(pod).is_empty() && !pods::is_terminating(pod));
        plan.delete.extend(waiting.map(|pod| Arc::clone(pod)));
    }
    plan
}

/// A node that keeps its pod, or its two pods while surging.
fn keep_one(seen: &Observed, fleet: &Fleet<'_>, (node, fit): (&str, Fit), surging: bool, plan: &mut Plan) {
    let mut running = Vec::new();
    for pod in fleet.on(node).iter().filter(|pod| !pods::is_terminating(pod)) {
        let failed = match pods::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => {
                running.push(Arc::clone(pod));
                continue;
            }
        };
        if failed && let Some(left) = seen.backoff.get(node) {
            plan.again = Some(plan.again.map_or(*left, |again| again.min(*left)));
            continue;
        }
        plan.ended.push(Ended {
            pod: Arc::clone(pod),
            node: node.to_owned(),
            failed,
        });
        plan.delete.push(Arc::clone(pod));
    }
    if !surging {
        plan.delete.extend(running.into_iter().skip(1));
        return;
    }
    if running.len() <= 1 {
        if running.is_empty() && fit.run {
            plan.create.push(node.to_owned());
        }
        return;
    }
    // Two pods may stay only as long as the new one is not available and the old one is ready.
    let (mut new, mut old) = (None, None);
    for pod in running {
        let label = pod.metadata.labels.as_ref().and_then(|l| l.get(place::HASH));
        let slot = if label.map(String::as_str) == Some(fleet.hash) {
            &mut new
        } else {
            &mut old
        };
        match slot {
            None => *slot = Some(pod),
            Some(_) => plan.delete.push(pod),
        }
    }
    if let (Some(new), Some(old)) = (new, old)
        && (!pods::is_ready(&old) || fleet.available(&new))
    {
        plan.delete.push(old);
    }
}

fn roll(fleet: &Fleet<'_>) -> Plan {
    let wanted = fleet.wanted();
    let (surge, unavailable) = limits(fleet.set, wanted);
    // Every node with a pod, and every node that should have one.
    let mut nodes: BTreeMap<&str, &[&Arc<Pod>]> = fleet
        .nodes
        .iter()
        .filter(|(_, fit)| fit.run)
        .map(|(node, _)| (*node, &[][..]))
        .collect();
    nodes.extend(fleet.by_node.iter().map(|(node, pods)| (*node, pods.as_slice())));
    if surge == 0 {
        replace(fleet, &nodes, unavailable)
    } else {
        surge_over(fleet, &nodes, surge, wanted)
    }
}

/// Deletes old pods: those that are not available anyway, and as many others as may be missing.
fn replace(fleet: &Fleet<'_>, nodes: &BTreeMap<&str, &[&Arc<Pod>]>, unavailable: usize) -> Plan {
    let mut missing = 0;
    let (mut free, mut candidates) = (Vec::new(), Vec::new());
    for pods in nodes.values() {
        match fleet.pair(pods) {
            None | Some((None, None) | (Some(_), Some(_))) => missing += 1,
            Some((Some(new), None)) => missing += usize::from(!fleet.available(new)),
            Some((None, Some(old))) if !fleet.available(old) => {
                free.push(Arc::clone(old));
                missing += 1;
            }
            Some((None, Some(old))) => candidates.push(Arc::clone(old)),
        }
    }
    candidates.truncate(unavailable.saturating_sub(missing));
    free.extend(candidates);
    Plan {
        delete: free,
        ..Plan::default()
    }
}

/// Adds new pods beside old ones, and deletes the old ones when the new are available.
fn surge_over(fleet: &Fleet<'_>, nodes: &BTreeMap<&str, &[&Arc<Pod>]>, surge: usize, wanted: usize) -> Plan {
    let fits: BTreeMap<&str, Fit> = fleet.nodes.iter().copied().collect();
    let run = |node: &str| fits.get(node).is_some_and(|fit| fit.run);
    let (mut surging, mut available) = (0, 0);
    let mut plan = Plan::default();
    let (mut candidates, mut leaving) = (Vec::new(), Vec::new());
    for (node, pods) in nodes {
        let Some((new, old)) = fleet.pair(pods) else {
            surging += 1;
            continue;
        };
        available += usize::from(old.or(new).is_some_and(|pod| fleet.available(pod)));
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) => match (fleet.available(old), run(node)) {
                (false, false) => plan.delete.push(Arc::clone(old)),
                (false, true) => plan.create.push((*node).to_owned()),
                (true, false) => leaving.push(Arc::clone(old)),
                (true, true) => candidates.push((*node).to_owned()),
            },
            (Some(new), Some(_)) if !fleet.available(new) => surging += 1,
            (Some(_), Some(old)) => plan.delete.push(Arc::clone(old)),
        }
    }
    // A node that is no longer wanted gives up its pod only when enough others are available.
    leaving.truncate(available.saturating_sub(wanted));
    plan.delete.extend(leaving);
    candidates.truncate(surge.saturating_sub(surging));
    plan.create.extend(candidates);
    plan
}

/// The status as observed, if it has to be written.
#[must_use]
pub fn status(seen: &Observed, hash: &str) -> Option<DaemonSetStatus> {
    let fleet = Fleet::of(seen, hash);
    let old = seen.set.status.clone().unwrap_or_default();
    let (mut desired, mut current, mut misscheduled, mut ready, mut updated, mut available) = (0, 0, 0, 0, 0, 0);
    for (node, fit) in &fleet.nodes {
        let oldest = fleet.on(node).first();
        if !fit.run {
            misscheduled += i32::from(oldest.is_some());
            continue;
        }
        desired += 1;
        if let Some(pod) = oldest {
            current += 1;
            ready += i32::from(pods::is_ready(pod));
            available += i32::from(fleet.available(pod));
            updated += i32::from(place::is_updated(&seen.set, pod, hash));
        }
    }
    let new = DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: misscheduled,
        number_ready: ready,
        updated_number_scheduled: Some(updated),
        number_available: Some(available),
        number_unavailable: Some(desired - available),
        observed_generation: seen.set.metadata.generation,
        ..old.clone()
    };
    let numbers = |s: &DaemonSetStatus| {
        [
            s.desired_number_scheduled,
            s.current_number_scheduled,
            s.number_misscheduled,
            s.number_ready,
            s.updated_number_scheduled.unwrap_or(0),
            s.number_available.unwrap_or(0),
            s.number_unavailable.unwrap_or(0),
        ]
    };
    let same = numbers(&new) == numbers(&old) && new.observed_generation == old.observed_generation;
    (!same).then_some(new)
}
