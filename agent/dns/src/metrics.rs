//! How many questions came, and what became of them.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use steersman_runtime::metrics::Metrics;

use crate::answer::{Reply, Transport};

/// At most a dozen combinations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    proto: &'static str,
    /// The answer's code, `forward` or `none`.
    rcode: String,
}

/// Clones share the values.
#[derive(Clone, Default)]
pub struct DnsMetrics(Family<Labels, Counter>);

impl DnsMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(|registry| {
            registry.register(
                "cluster_dns_responses",
                "Queries by protocol and outcome",
                this.0.clone(),
            )
        });
        this
    }

    /// Counts one query.
    pub fn answered(&self, transport: Transport, reply: &Reply) {
        let proto = match transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let rcode = match reply {
            Reply::Answer(bytes) => (bytes.get(3).copied().unwrap_or_default() & 0x0f).to_string(),
            Reply::Forward | Reply::Complete(_) => "forward".to_owned(),
            Reply::Silence => "none".to_owned(),
        };
        self.0.get_or_create(&Labels { proto, rcode }).inc();
    }
}
