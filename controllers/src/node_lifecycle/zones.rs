//! How fast nodes may be emptied, by zone. Pure: time is an argument.
//!
//! A node that stays silent gets a NoExecute taint, which moves its pods away. When many nodes of a zone fall silent at
//! once it is more likely the zone, or we, that are cut off: then taints come slowly, or not at all. While no zone has a
//! single ready node nothing is moved, and taints that were set are taken back.

use std::collections::BTreeMap;

use steersman_types::api::core::v1::Node;
use tokio::time::{Duration, Instant};

use super::decide::is_ready;
use crate::context::Eviction;

const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
/// The older labels count first, as they do upstream.
const ZONES: [&str; 2] = ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"];
const REGIONS: [&str; 2] = [
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/region",
];
/// As many silent nodes are never a disrupted zone.
const FEW: usize = 2;

/// What can be said about a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Normal,
    /// A large part of its nodes is not ready.
    Partial,
    /// None is ready.
    Full,
}

/// Region and zone of a node; empty for a node without these labels.
#[must_use]
pub fn of(node: &Node) -> String {
    let label = |keys: [&str; 2]| {
        let labels = node.metadata.labels.as_ref();
        keys.iter()
            .find_map(|key| labels.and_then(|l| l.get(*key)))
            .cloned()
            .unwrap_or_default()
    };
    match (label(REGIONS), label(ZONES)) {
        (region, zone) if region.is_empty() && zone.is_empty() => String::new(),
        (region, zone) => format!("{region}:\0:{zone}"),
    }
}

/// The state of a zone with so many ready and other nodes.
#[must_use]
pub fn state(ready: usize, other: usize, settings: &Eviction) -> State {
    #[allow(clippy::cast_precision_loss)]
    let part = other as f64 / (other + ready).max(1) as f64;
    if ready == 0 && other > 0 {
        State::Full
    } else if other > FEW && part >= settings.unhealthy_zone_threshold {
        State::Partial
    } else {
        State::Normal
    }
}

/// Nodes per second that may be tainted in a zone of `size` nodes.
#[must_use]
pub fn rate(state: State, size: usize, settings: &Eviction) -> f64 {
    match state {
        State::Normal | State::Full => settings.rate,
        State::Partial if size > settings.large_cluster => settings.secondary_rate,
        State::Partial => 0.0,
    }
}

/// What a look at all nodes found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// No node is ready any more: taints are to be taken back.
    AllLost,
    /// Some node is ready again: every node's silence counts from now.
    Back,
}

/// The limits of all zones, from one look to the next.
#[derive(Clone, Debug, Default)]
pub struct Zones {
    all_lost: bool,
    zones: BTreeMap<String, Limit>,
}

#[derive(Clone, Debug)]
struct Limit {
    rate: f64,
    /// When the next node may be tainted; at once at first.
    next: Option<Instant>,
}

impl Zones {
    /// Takes the present state of all nodes into account.
    pub fn look<'a>(&mut self, nodes: impl IntoIterator<Item = &'a Node>, settings: &Eviction) -> Change {
        let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for node in nodes {
            let excluded = node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDED));
            let (ready, other) = counts.entry(of(node)).or_default();
            match (excluded, is_ready(node)) {
                (true, _) => {}
                (false, true) => *ready += 1,
                (false, false) => *other += 1,
            }
        }
        let state = |(ready, other): (usize, usize)| state(ready, other, settings);
        let counted = || counts.values().filter(|(ready, other)| ready + other > 0);
        let lost = counted().next().is_some() && counted().all(|count| state(*count) == State::Full);
        self.zones.retain(|zone, _| counts.contains_key(zone));
        for (zone, count) in counts {
            let rate = if lost {
                0.0
            } else {
                rate(state(count), count.0 + count.1, settings)
            };
            let limit = self.zones.entry(zone).or_insert(Limit { rate, next: None });
            limit.rate = rate;
        }
        match (std::mem::replace(&mut self.all_lost, lost), lost) {
            (false, true) => Change::AllLost,
            (true, false) => Change::Back,
            _ => Change::Nothing,
        }
    }

    /// Whether no node of the cluster is ready.
    #[must_use]
    pub fn all_lost(&self) -> bool {
        self.all_lost
    }

    /// Whether a node of the zone may be tainted now.
    #[must_use]
    pub fn may_evict(&self, zone: &str, now: Instant) -> bool {
        self.zones
            .get(zone)
            .is_some_and(|limit| limit.rate > 0.0 && limit.next.is_none_or(|next| now >= next))
    }

    /// A node of the zone was tainted.
    pub fn evicted(&mut self, zone: &str, now: Instant) {
        if let Some(limit) = self.zones.get_mut(zone).filter(|limit| limit.rate > 0.0) {
            limit.next = Some(now + Duration::from_secs_f64(1.0 / limit.rate));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use steersman_types::Typed;

    fn node(zone: &str, ready: bool) -> Node {
        let status = if ready { "True" } else { "Unknown" };
        Node::from_value(
            &json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": zone}},
            "status": {"conditions": [{"type": "Ready", "status": status}]}}),
        )
        .unwrap()
    }

    #[test]
    fn a_small_zone_in_trouble_is_left_alone_and_a_large_one_emptied_slowly() {
        let settings = Eviction::default();
        assert_eq!(state(2, 2, &settings), State::Normal);
        assert_eq!(state(2, 3, &settings), State::Partial);
        assert_eq!(state(0, 1, &settings), State::Full);
        assert!(rate(State::Partial, 50, &settings).abs() < f64::EPSILON);
        assert!((rate(State::Partial, 51, &settings) - 0.01).abs() < f64::EPSILON);
        assert!((rate(State::Full, 3, &settings) - 0.1).abs() < f64::EPSILON);
    }

    #[tokio::test(start_paused = true)]
    async fn one_node_per_ten_seconds_and_zone() {
        let (mut zones, now, settings) = (Zones::default(), Instant::now(), Eviction::default());
        let nodes = [node("a", true), node("a", false), node("b", false), node("b", true)];
        assert_eq!(zones.look(&nodes, &settings), Change::Nothing);
        let (a, b) = (of(&nodes[0]), of(&nodes[2]));
        assert!(zones.may_evict(&a, now));
        zones.evicted(&a, now);
        assert!(!zones.may_evict(&a, now + Duration::from_millis(9_900)));
        assert!(zones.may_evict(&b, now) && zones.may_evict(&a, now + Duration::from_secs(10)));
    }

    proptest! {
        #[test]
        fn nothing_is_moved_while_no_node_is_ready(rounds in proptest::collection::vec(
            proptest::collection::vec((0usize..3, any::<bool>()), 0..8), 1..6)) {
            let (mut zones, now, settings) = (Zones::default(), Instant::now(), Eviction::default());
            let mut lost = false;
            for round in rounds {
                let nodes: Vec<Node> = round.iter().map(|(zone, ready)| node(["a", "b", "c"][*zone], *ready)).collect();
                let change = zones.look(&nodes, &settings);
                let none = !round.is_empty() && round.iter().all(|(_, ready)| !ready);
                prop_assert_eq!(change, match (lost, none) {
                    (false, true) => Change::AllLost, (true, false) => Change::Back, _ => Change::Nothing,
                });
                lost = none;
                for zone in nodes.iter().map(of) {
                    prop_assert!(!(none && zones.may_evict(&zone, now)));
                }
            }
        }
    }
}
