//! Pods that take more of the node's disk than they may: a volume's `sizeLimit`, limits of ephemeral storage. Pure.

use steersman_schema::quantity::Quantity;
use steersman_types::api::core::v1::{Container, Pod};

use crate::pod::{init_containers, is_sidecar, main_containers, spec};
use crate::stats::types::PodStats;

/// Which limit, for the count of evictions, and what is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    pub signal: &'static str,
    pub message: String,
}

fn above(used: u64, limit: &Quantity) -> bool {
    i64::try_from(used).unwrap_or(i64::MAX) > limit.value()
}

/// The first limit that the pod exceeds, volumes before the pod before containers.
#[must_use]
pub fn exceeded(pod: &Pod, stats: &PodStats, own_image_fs: bool) -> Option<Exceeded> {
    volume(pod, stats)
        .or_else(|| whole(pod, stats))
        .or_else(|| container(pod, stats, own_image_fs))
}

fn volume(pod: &Pod, stats: &PodStats) -> Option<Exceeded> {
    spec(pod).volumes.iter().flatten().find_map(|v| {
        let limit = v.empty_dir.as_ref()?.size_limit.as_ref()?;
        let limit = Quantity::parse(&limit.0).ok().filter(|l| l.sign() > 0)?;
        let used = stats.volumes.iter().find(|s| s.name == v.name)?.fs.used_bytes?;
        above(used, &limit).then(|| Exceeded {
            signal: "emptydirfs.limit",
            message: format!("Usage of EmptyDir volume {:?} exceeds the limit \"{limit}\". ", v.name),
        })
    })
}

fn limit(c: &Container) -> Option<Quantity> {
    let limits = c.resources.as_ref()?.limits.as_ref()?;
    Quantity::parse(&limits.get("ephemeral-storage")?.0).ok()
}

/// Upstream adds what containers have and leaves out those without; ordinary init containers run one at a time.
fn total(pod: &Pod) -> Option<Quantity> {
    let add = |sum: Option<Quantity>, own: Option<Quantity>| match (sum, own) {
        (Some(sum), Some(own)) => Some(sum.plus(&own)),
        (sum, own) => sum.or(own),
    };
    let mut sum = main_containers(pod).iter().map(limit).fold(None, add);
    let (mut sidecars, mut peak) = (None, None);
    for c in init_containers(pod) {
        let now = add(sidecars, limit(c));
        if is_sidecar(c) {
            sidecars = now;
            sum = add(sum, limit(c));
        }
        peak = peak.max(now);
    }
    sum.max(peak)
}

fn whole(pod: &Pod, stats: &PodStats) -> Option<Exceeded> {
    let limit = total(pod)?;
    let used = stats.ephemeral_storage?.used_bytes.unwrap_or(0);
    above(used, &limit).then(|| Exceeded {
        signal: "ephemeralpodfs.limit",
        message: format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "),
    })
}

fn container(pod: &Pod, stats: &PodStats, own_image_fs: bool) -> Option<Exceeded> {
    stats.containers.iter().find_map(|own| {
        let container = main_containers(pod).iter().find(|c| c.name == own.name)?;
        let limit = limit(container).filter(|l| !l.is_zero())?;
        let logs = own.logs.and_then(|f| f.used_bytes).unwrap_or(0);
        let layer = own
            .rootfs
            .and_then(|f| f.used_bytes)
            .filter(|_| !own_image_fs)
            .unwrap_or(0);
        above(logs.saturating_add(layer), &limit).then(|| Exceeded {
            signal: "ephemeralcontainerfs.limit",
            message: format!(
                "Container {} exceeded its local ephemeral storage limit \"{limit}\". ",
                own.name
            ),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::types::{ContainerStats, FsStats, VolumeStats};
    use steersman_types::Typed;

    fn fs(megabytes: u64) -> FsStats {
        FsStats::default().used_by(Some(megabytes << 20), None)
    }

    fn check(spec: serde_json::Value, volume: u64, layer: u64, logs: u64, pod: u64) -> Option<String> {
        let pod_ = Pod::from_value(&serde_json::json!({ "spec": spec })).unwrap();
        let stats = PodStats {
            volumes: vec![VolumeStats {
                fs: fs(volume),
                name: "v".into(),
            }],
            containers: vec![ContainerStats {
                name: "c".into(),
                rootfs: Some(fs(layer)),
                logs: Some(fs(logs)),
                ..ContainerStats::default()
            }],
            ephemeral_storage: Some(fs(pod)),
            ..PodStats::default()
        };
        let own = exceeded(&pod_, &stats, true).map(|e| e.message);
        let shared = exceeded(&pod_, &stats, false).map(|e| e.message);
        assert!(own.is_none() || own == shared, "fewer things count on two file systems");
        shared
    }

    #[test]
    fn each_limit_has_its_message() {
        let limited = |n: &str| serde_json::json!({"name": n, "resources": {"limits": {"ephemeral-storage": "10Mi"}}});
        let volume = serde_json::json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "5Mi"}}]});
        assert_eq!(check(volume.clone(), 5, 99, 99, 99), None);
        assert_eq!(
            check(volume, 6, 0, 0, 0).as_deref(),
            Some("Usage of EmptyDir volume \"v\" exceeds the limit \"5Mi\". ")
        );
        let both = serde_json::json!({"containers": [limited("c"), limited("d")]});
        assert_eq!(
            check(both.clone(), 0, 0, 0, 21).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 20Mi. ")
        );
        assert_eq!(
            check(both.clone(), 0, 6, 5, 11).as_deref(),
            Some("Container c exceeded its local ephemeral storage limit \"10Mi\". ")
        );
        assert_eq!(check(both, 0, 6, 4, 10), None);
        let init = serde_json::json!({"containers": [{"name": "c"}], "initContainers": [limited("i"), limited("j")]});
        assert!(check(init, 0, 0, 0, 11).is_some_and(|m| m.contains("10Mi")));
    }
}
