//! Keeps the node's disk from filling: long logs are put aside, unused images removed when space is short.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use steersman_cri::v1;
use steersman_runtime::events::{EventType, Recorder};
use steersman_types::Quantity;
use steersman_types::jiff::Timestamp;

use crate::config::KubeletConfiguration;
use crate::context::Context;
use crate::logs::rotate::{Limits, rotate};
use crate::node::machine::Available;
use crate::node::update::reference;
use crate::quantity::value;
use crate::runtime::labels;

/// Upstream's `containerLogMonitorInterval` and image collection period.
const LOGS: Duration = Duration::from_secs(10);
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
        tokio::time::sleep(LOGS).await;
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

/// Removes unused images when the disk is fuller than the high threshold, until it is below the low one; forever.
pub async fn collect_images(
    context: Arc<Context>,
    config: Arc<KubeletConfiguration>,
    recorder: Recorder,
    node: String,
) {
    let mut first_seen: HashMap<String, Instant> = HashMap::new();
    loop {
        let images = context.runtime.list_images().await.unwrap_or_default();
        first_seen.retain(|id, _| images.iter().any(|i| i.id == *id));
        for image in &images {
            first_seen.entry(image.id.clone()).or_insert_with(Instant::now);
        }
        let used: HashSet<String> = match context.runtime.list_containers(v1::ContainerFilter::default()).await {
            Ok(all) => all
                .into_iter()
                .flat_map(|c| [c.image_ref, c.image_id, c.image.unwrap_or_default().image])
                .collect(),
            // Without knowing what is used nothing is removed.
            Err(_) => {
                tokio::time::sleep(IMAGES).await;
                continue;
            }
        };
        let in_use = |i: &v1::Image| {
            i.pinned || used.contains(&i.id) || i.repo_tags.iter().chain(&i.repo_digests).any(|n| used.contains(n))
        };
        let old = |i: &v1::Image| {
            first_seen
                .get(&i.id)
                .is_some_and(|at| at.elapsed() >= config.image_minimum_gc_age)
        };
        let candidates: Vec<&v1::Image> = images.iter().filter(|i| !in_use(i) && old(i)).collect();
        if let Some(short) = shortage(&Available::read(&context.root), &config) {
            let freed = remove(&context, &candidates, short).await;
            if freed < short {
                let message = format!(
                    "Failed to garbage collect required amount of images. Attempted to free {short} bytes, but only found {freed} bytes eligible to free."
                );
                recorder.event(&reference(&node), EventType::Warning, "FreeDiskSpaceFailed", &message);
            }
        }
        tokio::time::sleep(IMAGES).await;
    }
}

/// How many bytes to free, when the disk is above the high threshold.
fn shortage(disk: &Available, config: &KubeletConfiguration) -> Option<i64> {
    let percent = |p: u32| disk.disk_capacity / 100 * i64::from(p);
    let used = disk.disk_capacity - disk.disk;
    let over = disk.disk_capacity > 0 && used >= percent(config.image_gc_high_threshold_percent);
    over.then(|| used - percent(config.image_gc_low_threshold_percent))
}

async fn remove(context: &Context, candidates: &[&v1::Image], wanted: i64) -> i64 {
    let mut freed = 0;
    for image in candidates {
        if freed >= wanted {
            break;
        }
        tracing::info!(image = %image.id, size = image.size, "Removing image to free bytes");
        if context.runtime.remove_image(&image.id).await.is_ok() {
            context.images.removed(&image.id);
            freed += i64::try_from(image.size).unwrap_or(0);
        }
    }
    freed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_freed_only_above_the_high_and_down_to_the_low_threshold() {
        let config = KubeletConfiguration::default();
        let disk = |free: i64| Available {
            disk: free,
            disk_capacity: 1000,
            ..Available::default()
        };
        assert_eq!(shortage(&disk(200), &config), None);
        assert_eq!(shortage(&disk(150), &config), Some(50));
        assert_eq!(shortage(&disk(0), &config), Some(200));
    }
}
