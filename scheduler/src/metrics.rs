//! The scheduler's metrics, under upstream's names.

use std::sync::Weak;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

use crate::run::Scheduler;

/// `scheduler_pending_pods{queue}`: pods that wait, by where; read when somebody asks.
#[derive(Debug)]
pub struct Pending(pub Weak<Scheduler>);

impl Collector for Pending {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(scheduler) = self.0.upgrade() else {
            return Ok(());
        };
        let (active, backoff, unschedulable) = scheduler.pending();
        let help = "Number of pending pods, by the queue type";
        for (queue, count) in [
            ("active", active),
            ("backoff", backoff),
            ("unschedulable", unschedulable),
        ] {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            let labels = [("queue", queue)];
            let mut descriptor =
                encoder.encode_descriptor("scheduler_pending_pods", help, None, gauge.metric_type())?;
            gauge.encode(descriptor.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
