//! Which pods go first when there are too many. Pure.
//!
//! Upstream's order: not bound to a node; Pending, then Unknown, then Running; not ready; lower
//! `controller.kubernetes.io/pod-deletion-cost`; more related pods on the same node; ready for a shorter time; more restarts; younger.
//! Times are compared by the logarithm of the age, so that among pods of about the same age the choice is not always the youngest.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use steersman_types::api::core::v1::Pod;

use crate::pods;

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

struct Ranked {
    pod: Arc<Pod>,
    bound: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    related: Reverse<usize>,
    ready_at: Option<Timestamp>,
    restarts: Reverse<i32>,
    created: Option<Timestamp>,
}

/// `count` of `active`, in the order of deletion.
pub(super) fn to_delete(active: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    if count == 0 {
        return Vec::new();
    }
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in active.iter().chain(related).filter(|pod| pods::is_active(pod)) {
        *on_node.entry(pods::node(pod)).or_default() += 1;
    }
    let mut ranked: Vec<Ranked> = active
        .iter()
        .map(|pod| {
            let node = pods::node(pod);
            let cost = pod
                .metadata
                .annotations
                .as_ref()
                .and_then(|a| a.get(COST))
                .and_then(|c| c.parse().ok());
            Ranked {
                pod: pod.clone(),
                bound: !node.is_empty(),
                phase: match pods::phase(pod) {
                    "Pending" => 0,
                    "Unknown" => 1,
                    _ => 2,
                },
                ready: pods::is_ready(pod),
                cost: cost.unwrap_or(0),
                related: Reverse(on_node.get(node).copied().unwrap_or(0)),
                ready_at: pods::ready_since(pod),
                restarts: Reverse(pods::restarts(pod)),
                created: pod.metadata.creation_timestamp.as_ref().map(|t| t.0),
            }
        })
        .collect();
    ranked.sort_by(|a, b| order(a, b, now));
    ranked.into_iter().take(count).map(|r| r.pod).collect()
}

fn order(a: &Ranked, b: &Ranked, now: Timestamp) -> Ordering {
    let start = (a.bound, a.phase, a.ready, a.cost, a.related).cmp(&(b.bound, b.phase, b.ready, b.cost, b.related));
    start
        .then_with(|| {
            if a.ready && b.ready {
                by_age(a.ready_at, b.ready_at, a, b, now)
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| a.restarts.cmp(&b.restarts))
        .then_with(|| by_age(a.created, b.created, a, b, now))
        // The same choice in every run.
        .then_with(|| a.pod.metadata.uid.cmp(&b.pod.metadata.uid))
}

/// Younger first, in powers of two of the age; within one power by UID, which is as good as at random.
fn by_age(a: Option<Timestamp>, b: Option<Timestamp>, left: &Ranked, right: &Ranked, now: Timestamp) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let (Some(at), Some(bt)) = (a, b) else {
        return a.is_some().cmp(&b.is_some());
    };
    let power = |t: Timestamp| {
        let age = now.duration_since(t).as_nanos().max(1);
        age.unsigned_abs().ilog2()
    };
    power(at)
        .cmp(&power(bt))
        .then_with(|| left.pod.metadata.uid.cmp(&right.pod.metadata.uid))
}
