//! Whom to end first. Pure.
//!
//! Upstream's order: who is not known to the figures, who uses more than was asked for, lower priority, who is furthest
//! above what was asked for. Processes have no request: there priority comes first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use steersman_types::api::core::v1::Pod;

use super::threshold::{Resource, Signal};
use crate::pod::{self, demand};
use crate::stats::collect::is_local;
use crate::stats::types::{FsStats, PodStats};

/// A pod's amounts, by what decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Unknown ones first.
    known: bool,
    within_request: bool,
    priority: i32,
    above_request: Reverse<i64>,
}

fn whole(n: Option<u64>) -> i64 {
    i64::try_from(n.unwrap_or(0)).unwrap_or(i64::MAX)
}

/// What is asked for; the overhead counts only for who asks for something at all.
fn request(pod: &Pod, name: &str) -> i64 {
    let overhead = demand::amount(pod::spec(pod).overhead.as_ref(), name).unwrap_or(0);
    let all = demand::request(pod, name);
    if all == overhead { 0 } else { all }
}

/// Which parts of a pod count on the file system that is short: everything if there is one for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parts {
    layers: bool,
    logs_and_volumes: bool,
}

fn parts(signal: Signal, own_image_fs: bool) -> Parts {
    let images = matches!(signal, Signal::ImageFs | Signal::ImageFsInodes);
    Parts {
        layers: !own_image_fs || images,
        logs_and_volumes: !own_image_fs || !images,
    }
}

fn disk(pod: &Pod, stats: &PodStats, resource: Resource, parts: Parts) -> i64 {
    let of = |fs: Option<&FsStats>| {
        let Some(fs) = fs else { return 0 };
        whole(if resource == Resource::Inodes {
            fs.inodes_used
        } else {
            fs.used_bytes
        })
    };
    let mut sum = 0_i64;
    for c in &stats.containers {
        if parts.layers {
            sum = sum.saturating_add(of(c.rootfs.as_ref()));
        }
        if parts.logs_and_volumes {
            sum = sum.saturating_add(of(c.logs.as_ref()));
        }
    }
    if parts.logs_and_volumes {
        let local = pod::spec(pod).volumes.iter().flatten().filter(|v| is_local(v));
        for volume in local {
            let stats = stats.volumes.iter().find(|s| s.name == volume.name);
            sum = sum.saturating_add(of(stats.map(|s| &s.fs)));
        }
    }
    sum
}

fn place(pod: &Pod, stats: Option<&PodStats>, signal: Signal, own_image_fs: bool) -> Place {
    let priority = pod::spec(pod).priority.unwrap_or(0);
    let Some(stats) = stats else {
        return Place {
            known: false,
            within_request: false,
            priority,
            above_request: Reverse(0),
        };
    };
    let (used, asked, limit) = match signal.resource() {
        Resource::Memory => {
            let asked = request(pod, "memory");
            (whole(stats.memory.and_then(|m| m.working_set_bytes)), asked, asked)
        }
        Resource::Pids => (whole(stats.processes.map(|p| p.process_count)), 0, i64::MAX),
        resource @ (Resource::EphemeralStorage | Resource::Inodes) => {
            let asked = request(pod, "ephemeral-storage");
            // Nobody asks for inodes: whoever has some has more than that.
            let limit = if resource == Resource::Inodes { 0 } else { asked };
            (disk(pod, stats, resource, parts(signal, own_image_fs)), asked, limit)
        }
    };
    Place {
        known: true,
        within_request: used <= limit,
        priority,
        above_request: Reverse(used.saturating_sub(asked)),
    }
}

/// Sorts the pods, who is to go first in front.
pub fn rank<P: AsRef<Pod>>(pods: &mut [P], stats: &BTreeMap<&str, &PodStats>, signal: Signal, own_image_fs: bool) {
    let of = |p: &P| {
        let pod = p.as_ref();
        place(pod, stats.get(pod::uid(pod)).copied(), signal, own_image_fs)
    };
    if signal.resource() == Resource::Pids {
        pods.sort_by_cached_key(|p| {
            let place = of(p);
            (place.priority, place.known, place.above_request)
        });
    } else {
        pods.sort_by_cached_key(of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::types::{ContainerStats, MemoryStats, PodReference, ProcessStats, VolumeStats};
    use proptest::prelude::*;
    use std::sync::Arc;
    use steersman_types::Typed;

    /// Name, priority, requested memory in MiB.
    fn pod(name: &str, priority: i32, request: u64) -> Arc<Pod> {
        let requests =
            serde_json::json!({"memory": format!("{request}Mi"), "ephemeral-storage": format!("{request}Mi")});
        Arc::new(
            Pod::from_value(&serde_json::json!({"metadata": {"name": name, "uid": name},
                "spec": {"priority": priority, "volumes": [{"name": "v", "emptyDir": {}}],
                    "containers": [{"name": "c", "resources": {"requests": requests}}]}}))
            .unwrap(),
        )
    }

    /// What it uses in MiB: memory, layer, volume; and its processes.
    fn stats(name: &str, memory: u64, layer: u64, volume: u64, processes: u64) -> PodStats {
        let fs = |n: u64| FsStats::default().used_by(Some(n << 20), Some(n));
        PodStats {
            pod_ref: PodReference {
                uid: name.into(),
                ..PodReference::default()
            },
            memory: Some(MemoryStats {
                working_set_bytes: Some(memory << 20),
                ..MemoryStats::default()
            }),
            containers: vec![ContainerStats {
                rootfs: Some(fs(layer)),
                ..ContainerStats::default()
            }],
            volumes: vec![VolumeStats {
                fs: fs(volume),
                name: "v".into(),
            }],
            processes: Some(ProcessStats {
                process_count: processes,
            }),
            ..PodStats::default()
        }
    }

    fn order(pods: &[Arc<Pod>], all: &[PodStats], signal: Signal, own_image_fs: bool) -> Vec<String> {
        let by_uid = all.iter().map(|s| (s.pod_ref.uid.as_str(), s)).collect();
        let mut pods = pods.to_vec();
        rank(&mut pods, &by_uid, signal, own_image_fs);
        pods.iter().map(|p| pod::name(p).to_owned()).collect()
    }

    #[test]
    fn who_is_above_his_request_goes_first_then_priority_then_the_difference() {
        let pods = [
            pod("below", 0, 100),
            pod("high", 10, 0),
            pod("low", 0, 0),
            pod("more", 0, 0),
            pod("unknown", 5, 0),
        ];
        let all = [
            stats("below", 90, 0, 0, 1),
            stats("high", 500, 0, 0, 1),
            stats("low", 10, 0, 0, 9),
            stats("more", 20, 0, 0, 5),
        ];
        assert_eq!(
            order(&pods, &all, Signal::Memory, false),
            ["unknown", "more", "low", "high", "below"]
        );
        assert_eq!(
            order(&pods, &all, Signal::Pids, false),
            ["low", "more", "below", "unknown", "high"]
        );
    }

    #[test]
    fn on_two_file_systems_only_what_lies_on_the_short_one_counts() {
        let pods = [pod("layer", 0, 1), pod("volume", 0, 1)];
        let all = [stats("layer", 0, 50, 2, 1), stats("volume", 0, 2, 40, 1)];
        assert_eq!(order(&pods, &all, Signal::NodeFs, false), ["layer", "volume"]);
        assert_eq!(order(&pods, &all, Signal::NodeFs, true), ["volume", "layer"]);
        assert_eq!(order(&pods, &all, Signal::ImageFs, true), ["layer", "volume"]);
        assert_eq!(order(&pods, &all, Signal::NodeFsInodes, true), ["volume", "layer"]);
    }

    proptest! {
        #[test]
        fn nobody_within_his_request_goes_before_somebody_above_it(
            pods in proptest::collection::vec((0i32..3, 0u64..4, 0u64..4), 1..12),
        ) {
            let all: Vec<_> = pods.iter().enumerate().map(|(i, (p, asked, _))| pod(&i.to_string(), *p, *asked)).collect();
            let used: Vec<_> =
                pods.iter().enumerate().map(|(i, (.., used))| stats(&i.to_string(), *used, 0, 0, 1)).collect();
            let order = order(&all, &used, Signal::Memory, false);
            let above: Vec<bool> = order.iter().map(|n| { let p = pods[n.parse::<usize>().unwrap()]; p.2 > p.1 }).collect();
            prop_assert!(above.is_sorted_by_key(|above| !above));
            let mut sorted = order.clone();
            sorted.sort_by_key(|n| n.parse::<usize>().unwrap());
            prop_assert_eq!(sorted, (0..pods.len()).map(|i| i.to_string()).collect::<Vec<_>>(), "none lost");
        }
    }
}
