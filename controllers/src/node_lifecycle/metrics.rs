//! What the controller tells about zones and rounds: upstream's `node_collector_*`.

use std::collections::BTreeSet;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use steersman_runtime::metrics::Metrics;

use super::zones::Zones;

type Zone = [(&'static str, String); 1];

fn zone(name: &str) -> Zone {
    [("zone", name.to_owned())]
}

/// See the module. Zones that are gone stay with no nodes, as upstream has it.
pub(super) struct Figures {
    evictions: Family<Zone, Counter>,
    size: Family<Zone, Gauge>,
    healthy_percent: Family<Zone, Gauge>,
    unhealthy: Family<Zone, Gauge>,
    round: Histogram,
    known: BTreeSet<String>,
}

impl Figures {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let this = Self {
            evictions: Family::default(),
            size: Family::default(),
            healthy_percent: Family::default(),
            unhealthy: Family::default(),
            round: Histogram::new(exponential_buckets(0.01, 4.0, 8)),
            known: BTreeSet::new(),
        };
        metrics.register(|registry| {
            let evictions = "Number of Node evictions that happened since current instance of NodeController started";
            let size = "Gauge measuring number of registered Nodes per zones";
            let health = "Gauge measuring percentage of healthy nodes per zone";
            let unhealthy = "Gauge measuring number of not Ready Nodes per zones";
            let round = "Duration in seconds for NodeController to update the health of all nodes";
            registry.register("node_collector_evictions", evictions, this.evictions.clone());
            registry.register("node_collector_zone_size", size, this.size.clone());
            registry.register("node_collector_zone_health", health, this.healthy_percent.clone());
            registry.register(
                "node_collector_unhealthy_nodes_in_zone",
                unhealthy,
                this.unhealthy.clone(),
            );
            registry.register(
                "node_collector_update_all_nodes_health_duration_seconds",
                round,
                this.round.clone(),
            );
        });
        this
    }

    /// A look at all zones.
    pub(super) fn look(&mut self, zones: &Zones) {
        let now = zones.counts();
        self.known.extend(now.keys().cloned());
        for name in &self.known {
            let (ready, other) = now.get(name).copied().unwrap_or_default();
            let set = |family: &Family<Zone, Gauge>, value: usize| {
                family
                    .get_or_create(&zone(name))
                    .set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            set(&self.size, ready + other);
            set(&self.unhealthy, other);
            let all = (ready + other).max(1);
            set(
                &self.healthy_percent,
                if ready + other == 0 { 100 } else { 100 * ready / all },
            );
            // Zero until something happens.
            drop(self.evictions.get_or_create(&zone(name)));
        }
    }

    pub(super) fn evicted(&self, name: &str) {
        self.evictions.get_or_create(&zone(name)).inc();
    }

    pub(super) fn round(&self, took: Duration) {
        self.round.observe(took.as_secs_f64());
    }
}
