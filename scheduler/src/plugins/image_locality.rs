//! ImageLocality: prefers nodes that already hold the pod's images, scaled by how widely an image is spread.

use super::{MAX_SCORE, Normalize, Plugin, Score, Scorer};
use crate::cycle::Cycle;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

const MEGABYTE: i64 = 1024 * 1024;
/// Below this size an image counts for nothing (upstream's figure).
const SMALLEST: i64 = 23 * MEGABYTE;
/// Above this size, per container, more counts for nothing more.
const LARGEST: i64 = 1000 * MEGABYTE;

pub const PLUGIN: Plugin = Plugin {
    name: "ImageLocality",
    filter: None,
    score: Some(Score {
        weight: 1,
        of: Scorer::Each(score, Normalize::Not),
    }),
    wakes_on: |_, _| false,
};

fn score(pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> i64 {
    let Some(spec) = &pod.pod.spec else { return 0 };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let images: Vec<String> = containers.filter_map(|c| c.image.as_deref()).map(with_tag).collect();
    let held = images.iter().filter_map(|image| {
        let size = node.images.get(image)?;
        let holders = cycle.snapshot.image_holders.get(image).copied().unwrap_or_default();
        Some((*size as f64 * holders as f64 / cycle.snapshot.nodes.len().max(1) as f64) as i64)
    });
    let sum: i64 = held.sum();
    let most = LARGEST * i64::try_from(images.len()).unwrap_or(1).max(1);
    MAX_SCORE * (sum.clamp(SMALLEST, most) - SMALLEST) / (most - SMALLEST)
}

/// Nodes list images with a tag or digest; a name without one means `latest`.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}
