//! Which pods of lower priority to take away so that one of higher priority fits. Pure.
//!
//! Upstream's rules: on each node where that could help, take all pods of lower priority away in thought, then put back
//! as many as possible, the most important and those with a disruption budget that forbids it first; of the nodes, the one
//! with the fewest broken budgets, the least important victims, the fewest victims, the latest start of the most
//! important victim.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use steersman_types::jiff::Timestamp;

use crate::cycle::Cycle;
use crate::decide::{fits, rejection};
use crate::plugins::Plugin;
use crate::pod::PodInfo;
use crate::selector;
use crate::snapshot::{Budget, NodeInfo};

/// A node, and the pods that must leave it.
#[derive(Clone, Debug)]
pub struct Preemption {
    pub node: String,
    /// The most important first.
    pub victims: Vec<Arc<PodInfo>>,
    broken_budgets: usize,
}

/// What came of it; without a choice, how many nodes gave each reason.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    pub chosen: Option<Preemption>,
    pub reasons: BTreeMap<String, usize>,
}

/// Why the pod must not displace others, if so.
#[must_use]
pub fn forbidden(pod: &PodInfo, cycle: &Cycle<'_>, nominated_is_hopeless: bool) -> Option<&'static str> {
    let policy = pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let node = pod.nominated();
    if node.is_empty() || nominated_is_hopeless {
        return None;
    }
    let node = cycle.snapshot.nodes.iter().find(|n| n.name == node)?;
    let leaving = node.pods.values().any(|p| p.priority < pod.priority && is_leaving(p));
    leaving.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Going because the scheduler made it.
fn is_leaving(pod: &PodInfo) -> bool {
    let conditions = pod.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    pod.pod.metadata.deletion_timestamp.is_some()
        && conditions.into_iter().any(|c| {
            c.type_ == "DisruptionTarget" && c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

/// Tries `nodes`, which refused the pod for reasons that fewer pods could mend.
#[must_use]
pub fn attempt(plugins: &[Plugin], pod: &PodInfo, cycle: &Cycle<'_>, nodes: &[&Arc<NodeInfo>], random: u64) -> Attempt {
    let mut attempt = Attempt::default();
    let (share, least) = cycle.arguments.preemption_candidates;
    let enough = (cycle.snapshot.nodes.len() * share / 100).max(least);
    let offset = usize::try_from(random % nodes.len().max(1) as u64).unwrap_or_default();
    let mut candidates: Vec<Preemption> = Vec::new();
    for node in nodes[offset..].iter().chain(&nodes[..offset]) {
        match on_node(plugins, pod, cycle, node) {
            Ok(candidate) => candidates.push(candidate),
            Err(reasons) => {
                for reason in reasons {
                    *attempt.reasons.entry(reason).or_default() += 1;
                }
            }
        }
        if candidates.len() >= enough && candidates.iter().any(|c| c.broken_budgets == 0) {
            break;
        }
    }
    attempt.chosen = candidates.into_iter().min_by_key(rank);
    attempt
}

/// The better choice is less.
fn rank(one: &Preemption) -> impl Ord + use<> {
    let highest = one.victims.first().map_or(i32::MIN, |p| p.priority);
    // From zero up, so that many victims of negative priority do not look like few.
    let sum: i128 = one.victims.iter().map(|p| i128::from(p.priority) + (1 << 31)).sum();
    let started = one
        .victims
        .iter()
        .filter(|p| p.priority == highest)
        .map(|p| start(p))
        .min();
    (one.broken_budgets, highest, sum, one.victims.len(), Reverse(started))
}

fn start(pod: &PodInfo) -> Timestamp {
    let started = pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    started.map_or(Timestamp::MAX, |t| t.0)
}

fn on_node(
    plugins: &[Plugin],
    pod: &PodInfo,
    cycle: &Cycle<'_>,
    node: &Arc<NodeInfo>,
) -> Result<Preemption, Vec<String>> {
    let mut lower: Vec<Arc<PodInfo>> = node
        .pods
        .values()
        .filter(|p| p.priority < pod.priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".to_owned()]);
    }
    let (mut room, mut counts) = (node.as_ref().clone(), cycle.clone());
    for other in &lower {
        room.remove(&other.key);
        counts.change(pod, other, node, -1);
    }
    if let Some((_, reasons, _)) = rejection(plugins, pod, &room, &counts) {
        return Err(reasons);
    }
    // More important first: they are the first to be spared.
    lower.sort_by_key(|p| (Reverse(p.priority), start(p), p.key.clone()));
    let (breaking, harmless) = by_budget(&lower, &cycle.snapshot.budgets);
    let (mut victims, mut broken_budgets) = (Vec::new(), 0);
    for (pods, breaks) in [(breaking, 1), (harmless, 0)] {
        for other in pods {
            room.add(other.clone());
            counts.change(pod, &other, node, 1);
            if fits(plugins, pod, &room, &counts) {
                continue;
            }
            room.remove(&other.key);
            counts.change(pod, &other, node, -1);
            broken_budgets += breaks;
            victims.push(other);
        }
    }
    victims.sort_by_key(|p| (Reverse(p.priority), start(p), p.key.clone()));
    Ok(Preemption {
        node: node.name.clone(),
        victims,
        broken_budgets,
    })
}

/// Pods whose disruption a budget forbids, and the others; each in the given order.
fn by_budget(pods: &[Arc<PodInfo>], budgets: &[Budget]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut allowed: Vec<i32> = budgets.iter().map(|b| b.allowed).collect();
    pods.iter().cloned().partition(|pod| {
        let labels = pod.pod.metadata.labels.as_ref();
        let mut forbidden = false;
        for (budget, left) in budgets.iter().zip(&mut allowed) {
            let selector = budget.selector.as_ref();
            let about = budget.namespace == pod.key.namespace
                && labels.is_some_and(|l| !l.is_empty())
                && !selector::is_empty(selector)
                && selector::selects(selector, labels)
                && !budget.disrupted.contains(&pod.key.name);
            if about {
                *left -= 1;
                forbidden |= *left < 0;
            }
        }
        forbidden
    })
}
