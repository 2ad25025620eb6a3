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
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

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
    counts: BTreeMap<String, (usize, usize)>,
    zones: BTreeMap<String, Limit>,
}

/// One node at once, then one per `1 / rate` seconds. After a change of the rate while waiting, or from nothing, the wait
/// starts anew: upstream's limiters are exchanged like that.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limit {
    rate: f64,
    /// When the next node may be tainted; `None`: now, or with a rate of zero never.
    next: Option<Instant>,
}

impl Limit {
    fn allows(&self, now: Instant) -> bool {
        self.rate > 0.0 && self.next.is_none_or(|next| now >= next)
    }

    fn wait(&mut self, now: Instant) {
        // A rate next to nothing is as good as never.
        let seconds = Duration::try_from_secs_f64(1.0 / self.rate).unwrap_or(NEVER).min(NEVER);
        self.next = (self.rate > 0.0).then(|| now + seconds);
    }

    fn set(&mut self, rate: f64, now: Instant) {
        #[allow(clippy::float_cmp)] // settings, not results
        if rate == self.rate {
            return;
        }
        let had = self.allows(now);
        self.rate = rate;
        self.next = None;
        if !had {
            self.wait(now);
        }
    }
}

impl Zones {
    /// Takes the present state of all nodes into account.
    pub fn look<'a>(&mut self, nodes: impl IntoIterator<Item = &'a Node>, settings: &Eviction, now: Instant) -> Change {
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
        for (zone, count) in &counts {
            let rate = if lost {
                0.0
            } else {
                rate(state(*count), count.0 + count.1, settings)
            };
            // A new zone begins as a healthy one.
            let healthy = Limit {
                rate: settings.rate,
                next: None,
            };
            self.zones.entry(zone.clone()).or_insert(healthy).set(rate, now);
        }
        self.counts = counts;
        match (std::mem::replace(&mut self.all_lost, lost), lost) {
            (false, true) => Change::AllLost,
            (true, false) => Change::Back,
            _ => Change::Nothing,
        }
    }

    /// How many nodes of each zone were ready and not ready at the last look; excluded ones do not count.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<String, (usize, usize)> {
        &self.counts
    }

    /// Whether no node of the cluster is ready.
    #[must_use]
    pub fn all_lost(&self) -> bool {
        self.all_lost
    }

    /// Whether a node of the zone may be tainted now.
    #[must_use]
    pub fn may_evict(&self, zone: &str, now: Instant) -> bool {
        self.zones.get(zone).is_some_and(|limit| limit.allows(now))
    }

    /// When a zone that has to wait need not wait any longer.
    #[must_use]
    pub fn next(&self, zone: &str) -> Option<Instant> {
        self.zones.get(zone)?.next
    }

    /// A node of the zone was tainted.
    pub fn evicted(&mut self, zone: &str, now: Instant) {
        if let Some(limit) = self.zones.get_mut(zone) {
            limit.wait(now);
        }
    }
}

#[cfg(test)]
#[path = "zones_tests.rs"]
mod tests;
