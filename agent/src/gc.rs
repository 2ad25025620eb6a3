//! Keeps the node's disk from filling: long logs are put aside, unused images and ended containers removed.
//!
//! Runs by itself (logs every ten seconds, images every five minutes), and on request of [`crate::eviction`], which
//! tries this before it ends pods. What stays true: an image that a container or a pod's volume uses is never removed.

pub mod images;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use steersman_cri::v1;
use steersman_runtime::events::{EventType, Recorder};
use steersman_types::Quantity;
use steersman_types::jiff::Timestamp;

use crate::admit::is_over;
use crate::config::KubeletConfiguration;
use crate::context::Context;
use crate::logs::rotate::{Limits, rotate};
use crate::node::update::reference;
use crate::pod;
use crate::pods::Pods;
use crate::quantity::value;
use crate::runtime::labels;
use crate::stats::Figures;
use images::{Policy, Records, Wanted};

/// Upstream's image collection period.
const IMAGES: Duration = Duration::from_secs(300);

/// Rotates the logs of running containers, forever.
pub async fn rotate_logs(context: Arc<Context>, config: Arc<KubeletConfiguration>) {
    let max_size = u64::try_from(value(&Quantity(config.container_log_max_size.clone())))
        .unwrap_or(0)
        .max(1);
    let limits = Limits {
        max_size,
        max_files: config.container_log_max_files,
    };
    loop {
        tokio::time::sleep(config.container_log_monitor_interval).await;
        let Ok(all) = context.runtime.list_containers(v1::ContainerFilter::default()).await else {
            continue;
        };
        for c in all
            .into_iter()
            .filter(|c| c.state == v1::ContainerState::ContainerRunning as i32)
        {
            let label = |name: &str| c.labels.get(name).cloned().unwrap_or_default();
            let pod = format!(
                "{}_{}_{}",
                label(labels::POD_NAMESPACE),
                label(labels::POD_NAME),
                label(labels::POD_UID)
            );
            let Some(meta) = &c.metadata else { continue };
            let log = context
                .pod_logs
                .join(pod)
                .join(&meta.name)
                .join(format!("{}.log", meta.attempt));
            if let Err(e) = rotate(context.runtime.as_ref(), &c.id, &log, limits, Timestamp::now()).await {
                tracing::warn!(log = %log.display(), error = %e, "Failed to rotate a log");
            }
        }
    }
}

/// Removes what nobody uses.
pub struct Collector {
    context: Arc<Context>,
    pods: Arc<Pods>,
    figures: Arc<Figures>,
    policy: Policy,
    began: Timestamp,
    records: Mutex<Records>,
}

impl Collector {
    #[must_use]
    pub fn new(
        context: Arc<Context>,
        pods: Arc<Pods>,
        figures: Arc<Figures>,
        config: &KubeletConfiguration,
        now: Timestamp,
    ) -> Arc<Self> {
        Arc::new(Self {
            context,
            pods,
            figures,
            policy: Policy {
                high: i64::from(config.image_gc_high_threshold_percent),
                low: i64::from(config.image_gc_low_threshold_percent),
                min_age: config.image_minimum_gc_age,
                max_age: Some(config.image_maximum_gc_age).filter(|age| !age.is_zero()),
            },
            began: now,
            records: Mutex::default(),
        })
    }

    /// Looks after images, forever.
    pub async fn run(self: Arc<Self>, recorder: Recorder, node: String) {
        let mut failed_before = false;
        loop {
            let failed = match self.once().await {
                Ok(()) => false,
                Err(failure) => {
                    if let Some(reason) = failure.reason {
                        recorder.event(&reference(&node), EventType::Warning, reason, &failure.message);
                    }
                    // Once may be bad luck.
                    if failed_before {
                        let message = failure.message.as_str();
                        recorder.event(&reference(&node), EventType::Warning, "ImageGCFailed", message);
                    }
                    tracing::error!(error = failure.message, "Image garbage collection failed");
                    true
                }
            };
            failed_before = failed;
            tokio::time::sleep(IMAGES).await;
        }
    }

    async fn once(&self) -> Result<(), Failure> {
        let now = Timestamp::now();
        let unused = self.unused(now).await?;
        let old = images::too_old(&unused, &self.policy, self.began, now);
        self.remove(&old, i64::MAX).await;
        let unused: Vec<Wanted> = unused.into_iter().filter(|i| !old.contains(i)).collect();
        let fs = self.figures.image_fs().await;
        let fs = fs.ok_or_else(|| Failure::plain("failed to get image stats"))?;
        let whole = |n: Option<u64>| i64::try_from(n.unwrap_or(0)).unwrap_or(i64::MAX);
        let (capacity, available) = (whole(fs.capacity_bytes), whole(fs.available_bytes));
        if capacity == 0 {
            return Err(Failure {
                reason: Some("InvalidDiskCapacity"),
                message: "invalid capacity 0 on image filesystem".into(),
            });
        }
        let Some(short) = images::shortage(capacity, available, &self.policy) else {
            return Ok(());
        };
        let freed = self.remove(&images::removable(&unused, &self.policy, now), short).await;
        if freed >= short {
            return Ok(());
        }
        Err(Failure {
            reason: Some("FreeDiskSpaceFailed"),
            message: images::insufficient(capacity, available, freed),
        })
    }

    /// Removes every unused image that is old enough.
    pub async fn remove_unused_images(&self) {
        let now = Timestamp::now();
        match self.unused(now).await {
            Ok(unused) => {
                self.remove(&images::removable(&unused, &self.policy, now), i64::MAX)
                    .await;
            }
            Err(e) => tracing::warn!(error = e.message, "Unused images could not be removed"),
        }
    }

    /// Removes containers and sandboxes of pods that have ended; their logs stay until the pods go.
    pub async fn remove_dead_containers(&self) {
        let runtime = self.context.runtime.as_ref();
        for pod in self.pods.list().iter().filter(|p| is_over(p)) {
            let label_selector = [(labels::POD_UID.to_owned(), pod::uid(pod).to_owned())].into();
            let filter = v1::ContainerFilter {
                label_selector,
                ..Default::default()
            };
            let ended = v1::ContainerState::ContainerExited as i32;
            let containers = runtime.list_containers(filter).await.unwrap_or_default();
            for container in containers.iter().filter(|c| c.state == ended) {
                if let Err(e) = runtime.remove_container(&container.id).await {
                    tracing::warn!(container = %container.id, error = %e, "Failed to remove a dead container");
                }
            }
        }
    }

    /// Images that nothing uses, the one to go first in front.
    async fn unused(&self, now: Timestamp) -> Result<Vec<Wanted>, Failure> {
        let runtime = self.context.runtime.as_ref();
        let failed = |e: steersman_cri::CriError| Failure::plain(&e.to_string());
        // Containers first: an image that is taken into use in between is then too young.
        let images = runtime.list_images().await.map_err(failed)?;
        let containers = runtime
            .list_containers(v1::ContainerFilter::default())
            .await
            .map_err(failed)?;
        let mut used: HashSet<String> = containers
            .into_iter()
            .flat_map(|c| [c.image_ref, c.image_id, c.image.unwrap_or_default().image])
            .collect();
        for pod in self.pods.list() {
            let volumes = pod::spec(&pod).volumes.iter().flatten();
            let references = volumes.filter_map(|v| v.image.as_ref()?.reference.clone());
            used.extend(references.filter_map(|r| crate::images::with_tag(&r)));
        }
        Ok(self.records.lock().unused(&images, &used, now))
    }

    /// Removes images until so many bytes are freed; gives how many were.
    async fn remove(&self, images: &[Wanted], wanted: i64) -> i64 {
        let mut freed = 0_i64;
        for image in images {
            if freed >= wanted {
                break;
            }
            tracing::info!(image = %image.id, size = image.size, "Removing image to free bytes");
            match self.context.runtime.remove_image(&image.id).await {
                Ok(()) => {
                    self.context.images.removed(&image.id);
                    freed = freed.saturating_add(image.size);
                }
                Err(e) => tracing::warn!(image = %image.id, error = %e, "Failed to remove an image"),
            }
        }
        freed
    }
}

/// Why images could not be collected; some reasons are told in an event.
struct Failure {
    reason: Option<&'static str>,
    message: String,
}

impl Failure {
    fn plain(message: &str) -> Self {
        Self {
            reason: None,
            message: message.to_owned(),
        }
    }
}
