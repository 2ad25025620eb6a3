//! The proxy's metrics, under upstream's names.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use steersman_runtime::metrics::Metrics;

/// Clones share the values.
#[derive(Clone)]
pub struct ProxyMetrics {
    full: Histogram,
    partial: Histogram,
    all: Histogram,
    last: Gauge<f64, AtomicU64>,
    /// Transactions that the kernel refused.
    pub failures: Counter,
}

impl ProxyMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        // Upstream's buckets: 1 ms to 16 s.
        let histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let this = Self {
            full: histogram(),
            partial: histogram(),
            all: histogram(),
            last: Gauge::default(),
            failures: Counter::default(),
        };
        metrics.register(|registry| {
            registry.register(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency for full resyncs",
                this.full.clone(),
            );
            registry.register(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency for partial resyncs",
                this.partial.clone(),
            );
            registry.register(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency",
                this.all.clone(),
            );
            registry.register(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
                this.last.clone(),
            );
            registry.register(
                "kubeproxy_sync_proxy_rules_nftables_sync_failures",
                "Cumulative proxy nftables sync failures",
                this.failures.clone(),
            );
        });
        this
    }

    /// A transaction has succeeded at `now` (seconds since 1970).
    pub fn synced(&self, everything: bool, took: Duration, now: f64) {
        let seconds = took.as_secs_f64();
        if everything { &self.full } else { &self.partial }.observe(seconds);
        self.all.observe(seconds);
        self.last.set(now);
    }
}
