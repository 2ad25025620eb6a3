//! The loop: look, judge, reclaim what nobody uses, end at most one pod for the node's sake, wait until it is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use steersman_runtime::events::{EventType, Recorder};
use steersman_types::api::core::v1::{Pod, PodCondition};
use steersman_types::jiff::Timestamp;

use super::judge::{History, crossed, judge, observations};
use super::threshold::{Signal, Threshold};
use super::{Kind, REASON, local, message, rank};
use crate::context::Context;
use crate::events::PodEvents;
use crate::gc::Collector;
use crate::node::update::reference;
use crate::pod;
use crate::pod::seen::Trouble;
use crate::pod::worker::Evicted;
use crate::pods::Pods;
use crate::stats::Figures;
use crate::stats::types::PodStats;

/// Upstream's `evictionMonitoringPeriod`, `podCleanupTimeout` and `podCleanupPollFreq`.
const INTERVAL: Duration = Duration::from_secs(10);
const CLEANUP: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_secs(1);
/// Seconds that a pod gets which must go at once.
const AT_ONCE: i64 = 1;

/// See the module.
pub struct Manager {
    pub context: Arc<Context>,
    pub pods: Arc<Pods>,
    pub figures: Arc<Figures>,
    pub collector: Arc<Collector>,
    pub recorder: Recorder,
    pub node: String,
    pub thresholds: Vec<Threshold>,
    /// How long a condition outlives its cause.
    pub transition: Duration,
    /// Most seconds that a pod gets at a soft threshold.
    pub max_grace: i64,
    /// Whether limits of pods' own disk use count.
    pub local_limits: bool,
}

impl Manager {
    /// Runs forever.
    pub async fn run(self) {
        let mut history = History::default();
        if self.thresholds.is_empty() && !self.local_limits {
            return;
        }
        let begun = Instant::now();
        loop {
            // Just after the start the node may not know all of its pods, nor what they use: only conditions are set.
            let may_act = begun.elapsed() >= INTERVAL;
            let ended = self.look(&mut history, may_act).await;
            if ended.is_empty() {
                tokio::time::sleep(INTERVAL).await;
            } else {
                self.wait_gone(&ended).await;
            }
        }
    }

    /// One look; gives the uids of pods that were told to end.
    async fn look(&self, history: &mut History, may_act: bool) -> Vec<String> {
        // Before the figures: whoever comes in between is not among those about whom nothing is known.
        let mut active = self.pods.active();
        let summary = match self.figures.summary(false).await {
            Ok(summary) => summary,
            Err(e) => {
                tracing::warn!(error = %e, "Eviction manager: failed to get summary stats");
                return Vec::new();
            }
        };
        let own_image_fs = self.figures.has_own_image_fs().await;
        let seen = observations(&summary);
        let (judged, next) = judge(&self.thresholds, &seen, history, self.transition, Timestamp::now());
        *history = next;
        self.context.pressure.set(judged.short_of);
        let stats: BTreeMap<&str, &PodStats> = summary.pods.iter().map(|p| (p.pod_ref.uid.as_str(), p)).collect();
        if !may_act {
            return Vec::new();
        }
        if self.local_limits {
            let ended = self.end_exceeding(&active, &stats, own_image_fs);
            if !ended.is_empty() {
                return ended;
            }
        }
        let Some(worst) = judged.due.first() else {
            return Vec::new();
        };
        let resource = worst.signal.resource();
        tracing::info!(resource = resource.name(), "Eviction manager: attempting to reclaim");
        let text = format!("Attempting to reclaim {}", resource.name());
        self.recorder.event(
            &reference(&self.node),
            EventType::Warning,
            "EvictionThresholdMet",
            &text,
        );
        if self.reclaim(worst.signal, own_image_fs).await {
            tracing::info!(
                resource = resource.name(),
                "Able to reduce resource pressure without evicting pods"
            );
            return Vec::new();
        }
        if active.is_empty() {
            tracing::error!("Eviction thresholds have been met, but no pods are active to evict");
            return Vec::new();
        }
        rank::rank(&mut active, &stats, worst.signal, own_image_fs);
        for pod in &active {
            let (text, annotations) =
                message::message(resource, pod, stats.get(pod::uid(pod)).copied(), &judged.due, &seen);
            let grace = self.grace(pod, worst);
            if self.end(pod, grace, text, annotations, true) {
                self.context.pressure.count(worst.signal.name());
                return vec![pod::uid(pod).to_owned()];
            }
        }
        tracing::info!("Eviction manager: unable to evict any pods from the node");
        Vec::new()
    }

    fn grace(&self, pod: &Pod, threshold: &Threshold) -> i64 {
        if threshold.is_hard() {
            return AT_ONCE;
        }
        let own = pod::spec(pod).termination_grace_period_seconds;
        own.map_or(self.max_grace, |own| own.min(self.max_grace)).max(AT_ONCE)
    }

    /// Ends every pod that exceeds a limit of its own.
    fn end_exceeding(&self, active: &[Arc<Pod>], stats: &BTreeMap<&str, &PodStats>, own_image_fs: bool) -> Vec<String> {
        let mut ended = Vec::new();
        for pod in active {
            let Some(stats) = stats.get(pod::uid(pod)) else {
                continue;
            };
            let Some(why) = local::exceeded(pod, stats, own_image_fs) else {
                continue;
            };
            if self.end(pod, AT_ONCE, why.message, BTreeMap::new(), false) {
                self.context.pressure.count(why.signal);
                ended.push(pod::uid(pod).to_owned());
            }
        }
        ended
    }

    /// Removes what nobody uses. Tells whether that was enough.
    async fn reclaim(&self, signal: Signal, own_image_fs: bool) -> bool {
        let images = matches!(signal, Signal::ImageFs | Signal::ImageFsInodes);
        // On two file systems, nothing that could go lies on that of the node.
        if signal.kind() != Kind::Disk || (own_image_fs && !images) {
            return false;
        }
        self.collector.remove_dead_containers().await;
        self.collector.remove_unused_images().await;
        match self.figures.summary(false).await {
            Ok(summary) => crossed(&self.thresholds, &observations(&summary), true).is_empty(),
            Err(_) => false,
        }
    }

    fn end(
        &self,
        pod: &Arc<Pod>,
        grace: i64,
        text: String,
        annotations: BTreeMap<String, String>,
        for_the_node: bool,
    ) -> bool {
        if pod::is_critical(pod) {
            tracing::error!(pod = %pod::full_name(pod), "Eviction manager: cannot evict a critical pod");
            return false;
        }
        PodEvents::new(self.context.sink.clone(), pod).evicted(&text, annotations);
        let condition = for_the_node.then(|| PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some("TerminationByKubelet".into()),
            message: Some(text.clone()),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        });
        let why = Trouble {
            reason: REASON.into(),
            message: text,
        };
        tracing::info!(pod = %pod::full_name(pod), message = why.message, "Evicting pod");
        self.pods.evict(pod::uid(pod), Evicted { why, grace, condition })
    }

    async fn wait_gone(&self, uids: &[String]) {
        let gone = async {
            while uids.iter().any(|uid| self.context.allocations.holds(uid)) {
                tokio::time::sleep(POLL).await;
            }
        };
        if tokio::time::timeout(CLEANUP, gone).await.is_err() {
            tracing::info!("Eviction manager: timed out waiting for pods to be cleaned up");
        }
    }
}
