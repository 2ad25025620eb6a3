//! Which active pods of a job go first: those without a place in it, then those that have got least far. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use steersman_types::api::core::v1::Pod;

use super::facts::{self, Facts};
use crate::pods;

/// At least `least` of `active`; in an indexed job also all whose index is absent, out of range or taken twice.
#[must_use]
pub fn choose(facts: &Facts<'_>, active: &[Arc<Pod>], least: usize) -> Vec<Arc<Pod>> {
    let mut chosen = Vec::new();
    let mut left: Vec<Arc<Pod>> = Vec::new();
    if facts.indexed {
        let mut by_index: BTreeMap<u32, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in active {
            match facts::index(pod).filter(|i| *i < facts.end()) {
                Some(index) => by_index.entry(index).or_default().push(pod.clone()),
                None => chosen.push(pod.clone()),
            }
        }
        for mut same in by_index.into_values() {
            same.sort_by_key(|p| progress(p));
            left.extend(same.pop());
            chosen.extend(same);
        }
    } else {
        left = active.to_vec();
    }
    if chosen.len() < least {
        left.sort_by_key(|p| progress(p));
        let more = least - chosen.len();
        chosen.extend(left.into_iter().take(more));
    }
    chosen
}

/// Upstream's order of active pods: unbound, Pending, Unknown, not ready, ready for a shorter time, restarted more often,
/// younger.
fn progress(pod: &Pod) -> impl Ord + use<> {
    let ready = pods::is_ready(pod);
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    (
        !pods::node(pod).is_empty(),
        phase,
        ready,
        Reverse(pods::ready_since(pod).filter(|_| ready)),
        Reverse(pods::restarts(pod)),
        Reverse(pod.metadata.creation_timestamp.as_ref().map(|t| t.0)),
        pod.metadata.name.clone(),
    )
}
