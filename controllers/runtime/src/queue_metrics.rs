//! What work queues tell about themselves: upstream's `workqueue_*`, one label `name` per queue.
//!
//! A program registers one [`QueueMetrics`] and makes its queues with [`crate::WorkQueue::named`]. Counts are kept by the
//! queue; how long work under way has taken is computed when somebody asks.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::metrics::Metrics;

type Name = [(&'static str, &'static str); 1];
type Histograms = Family<Name, Histogram, fn() -> Histogram>;
/// Seconds of work under way: of all of it, and of what has taken longest. `None`: the queue is gone.
type UnderWay = Box<dyn Fn() -> Option<(f64, f64)> + Send + Sync>;

/// Clones share the figures.
#[derive(Clone)]
pub struct QueueMetrics {
    depth: Family<Name, Gauge>,
    adds: Family<Name, Counter>,
    retries: Family<Name, Counter>,
    waited: Histograms,
    worked: Histograms,
    under_way: Arc<Mutex<Vec<(&'static str, UnderWay)>>>,
}

/// One queue's figures.
#[derive(Clone)]
pub(crate) struct Meter {
    pub depth: Gauge,
    pub adds: Counter,
    pub retries: Counter,
    pub waited: Histogram,
    pub worked: Histogram,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(10e-9, 10.0, 10))
}

impl Default for QueueMetrics {
    fn default() -> Self {
        Self {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            waited: Family::new_with_constructor(seconds),
            worked: Family::new_with_constructor(seconds),
            under_way: Arc::default(),
        }
    }
}

impl QueueMetrics {
    /// Registered with `metrics`.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(|registry| {
            let waited = "How long in seconds an item stays in workqueue before being requested";
            let worked = "How long in seconds processing an item from workqueue takes";
            registry.register("workqueue_depth", "Current depth of workqueue", this.depth.clone());
            registry.register(
                "workqueue_adds",
                "Total number of adds handled by workqueue",
                this.adds.clone(),
            );
            registry.register(
                "workqueue_retries",
                "Total number of retries handled by workqueue",
                this.retries.clone(),
            );
            registry.register("workqueue_queue_duration_seconds", waited, this.waited.clone());
            registry.register("workqueue_work_duration_seconds", worked, this.worked.clone());
            registry.register_collector(Box::new(Unfinished(this.under_way.clone())));
        });
        this
    }

    pub(crate) fn meter(&self, name: &'static str, under_way: UnderWay) -> Meter {
        let name_label = [("name", name)];
        self.under_way.lock().push((name, under_way));
        Meter {
            depth: self.depth.get_or_create(&name_label).clone(),
            adds: self.adds.get_or_create(&name_label).clone(),
            retries: self.retries.get_or_create(&name_label).clone(),
            waited: self.waited.get_or_create(&name_label).clone(),
            worked: self.worked.get_or_create(&name_label).clone(),
        }
    }
}

/// `workqueue_unfinished_work_seconds` and `workqueue_longest_running_processor_seconds`.
struct Unfinished(Arc<Mutex<Vec<(&'static str, UnderWay)>>>);

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unfinished")
    }
}

impl Collector for Unfinished {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let seen: Vec<(&'static str, (f64, f64))> = {
            let mut queues = self.0.lock();
            queues.retain(|(_, under_way)| under_way().is_some());
            queues
                .iter()
                .filter_map(|(name, under_way)| Some((*name, under_way()?)))
                .collect()
        };
        let sum = "How many seconds of work has done that is in progress and hasn't been observed by work_duration";
        let longest = "How many seconds has the longest running processor for workqueue been running";
        let gauge = ConstGauge::new(0.0);
        let kind = gauge.metric_type();
        let mut descriptor = encoder.encode_descriptor("workqueue_unfinished_work_seconds", sum, None, kind)?;
        for (name, (sum, _)) in &seen {
            ConstGauge::new(*sum).encode(descriptor.encode_family(&[("name", *name)])?)?;
        }
        let name = "workqueue_longest_running_processor_seconds";
        let mut descriptor = encoder.encode_descriptor(name, longest, None, kind)?;
        for (name, (_, longest)) in &seen {
            ConstGauge::new(*longest).encode(descriptor.encode_family(&[("name", *name)])?)?;
        }
        Ok(())
    }
}
