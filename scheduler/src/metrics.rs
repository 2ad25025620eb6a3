//! The scheduler's metrics, under upstream's names.
//!
//! [`Figures`] counts what happens; [`Waiting`] reads the queue and the cache when somebody asks.

use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use steersman_runtime::metrics::Metrics;

use crate::queue::History;
use crate::run::Scheduler;

/// Result (`scheduled`, `unschedulable`, `error`) and profile.
type Outcome = [(&'static str, String); 2];
/// Extension point, status and profile.
type Point = [(&'static str, String); 3];
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn attempt_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn point_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 12))
}

fn sli_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, 20))
}

/// What has happened so far.
pub struct Figures {
    attempts: Family<Outcome, Counter>,
    attempt: Histograms<Outcome>,
    algorithm: Histogram,
    points: Histograms<Point>,
    preemptions: Counter,
    victims: Histogram,
    tries: Histogram,
    sli: Histograms<[(&'static str, String); 1]>,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            attempts: Family::default(),
            attempt: Family::new_with_constructor(attempt_seconds),
            algorithm: attempt_seconds(),
            points: Family::new_with_constructor(point_seconds),
            preemptions: Counter::default(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            tries: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            sli: Family::new_with_constructor(sli_seconds),
        }
    }
}

impl Figures {
    /// Shows them, and what waits in `scheduler`, in `metrics`.
    pub fn register(&self, metrics: &Metrics, scheduler: Weak<Scheduler>) {
        metrics.register(|r| {
            let attempts = "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem";
            let attempt = "Scheduling attempt latency in seconds (scheduling algorithm + binding)";
            let points = "Latency for running all plugins of a specific extension point";
            let sli = "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts";
            r.register("scheduler_schedule_attempts", attempts, self.attempts.clone());
            r.register("scheduler_scheduling_attempt_duration_seconds", attempt, self.attempt.clone());
            r.register(
                "scheduler_scheduling_algorithm_duration_seconds",
                "Scheduling algorithm latency in seconds",
                self.algorithm.clone(),
            );
            r.register("scheduler_framework_extension_point_duration_seconds", points, self.points.clone());
            r.register(
                "scheduler_preemption_attempts",
                "Total preemption attempts in the cluster till now",
                self.preemptions.clone(),
            );
            r.register(
                "scheduler_preemption_victims",
                "Number of selected preemption victims",
                self.victims.clone(),
            );
            r.register(
                "scheduler_pod_scheduling_attempts",
                "Number of attempts to successfully schedule a pod",
                self.tries.clone(),
            );
            r.register("scheduler_pod_scheduling_sli_duration_seconds", sli, self.sli.clone());
            r.register_collector(Box::new(Waiting(scheduler)));
        });
    }

    /// A decision was made.
    pub fn decided(&self, took: Duration) {
        self.algorithm.observe(took.as_secs_f64());
    }

    /// A try came to an end.
    pub fn tried(&self, result: &'static str, profile: &str, took: Duration) {
        let labels = [("result", result.to_owned()), ("profile", profile.to_owned())];
        self.attempts.get_or_create(&labels).inc();
        self.attempt.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A pod was bound, after so many tries since it came.
    pub fn bound(&self, history: History, waited: Duration) {
        self.tries.observe(f64::from(history.tries));
        // As upstream, so that a pod that was hard to place does not make a label of each try.
        let tries = if history.tries >= 15 {
            "15+".to_owned()
        } else {
            history.tries.to_string()
        };
        let labels = [("attempts", tries)];
        self.sli.get_or_create(&labels).observe(waited.as_secs_f64());
    }

    /// One of upstream's extension points ran.
    pub fn ran(&self, point: &str, success: bool, profile: &str, took: Duration) {
        let status = if success { "Success" } else { "Error" };
        let labels = [
            ("extension_point", point.to_owned()),
            ("status", status.to_owned()),
            ("profile", profile.to_owned()),
        ];
        self.points.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Somebody was looked for who could make room; how many were found, if it is possible at all.
    pub fn preempted(&self, victims: Option<usize>) {
        self.preemptions.inc();
        if let Some(victims) = victims {
            self.victims.observe(victims as f64);
        }
    }
}

/// What waits and what is known, read when somebody asks.
struct Waiting(Weak<Scheduler>);

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, usize)>,
) -> fmt::Result {
    let mut descriptor = encoder.encode_descriptor(name, help, None, ConstGauge::new(0_i64).metric_type())?;
    for (labels, value) in values {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        gauge.encode(descriptor.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Collector for Waiting {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(scheduler) = self.0.upgrade() else {
            return Ok(());
        };
        let seen = scheduler.seen();
        let help = "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.";
        let pending = [
            ("active", seen.waiting.active),
            ("backoff", seen.waiting.backing_off),
            ("unschedulable", seen.waiting.unschedulable),
            ("gated", seen.gated),
        ];
        let pending = pending.map(|(queue, n)| ([("queue", queue)], n));
        gauges(&mut encoder, "scheduler_pending_pods", help, pending)?;
        let help = "Number of nodes, pods, and assumed (bound) pods in the scheduler cache.";
        let cache = [
            ("nodes", seen.nodes),
            ("pods", seen.pods),
            ("assumed_pods", seen.assumed),
        ];
        let cache = cache.map(|(kind, n)| ([("type", kind)], n));
        gauges(&mut encoder, "scheduler_cache_size", help, cache)?;
        let help = "The number of unschedulable pods broken down by plugin name. A pod will increment the gauge for all plugins that caused it to not schedule and so this metric have meaning only when broken down by plugin.";
        let refused = seen.refused.into_iter();
        let refused = refused.map(|((plugin, profile), n)| ([("plugin", plugin.to_owned()), ("profile", profile)], n));
        gauges(&mut encoder, "scheduler_unschedulable_pods", help, refused)?;
        let help = "Number of pods added to scheduling queues by event and queue type.";
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut descriptor = encoder.encode_descriptor("scheduler_queue_incoming_pods", help, None, kind)?;
        for ((queue, event), count) in seen.incoming {
            let labels = [("queue", queue), ("event", event)];
            ConstCounter::new(count).encode(descriptor.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
