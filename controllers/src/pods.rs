//! Facts about pods that several controllers need.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use steersman_types::api::core::v1::{Pod, PodCondition};

/// Gives back the room that decoding reserved and did not need; the pod stays as it is. Elements of these lists are large,
/// and lists grow by doubling: of ten thousand pods this is a fourth of what they take.
pub fn shrink(pod: &mut Pod) {
    fn fit<T>(list: &mut Option<Vec<T>>) {
        if let Some(list) = list {
            list.shrink_to_fit();
        }
    }
    fit(&mut pod.metadata.owner_references);
    if let Some(spec) = &mut pod.spec {
        fit(&mut spec.volumes);
        fit(&mut spec.tolerations);
        fit(&mut spec.init_containers);
        spec.containers.shrink_to_fit();
        for volume in spec.volumes.iter_mut().flatten() {
            if let Some(projected) = &mut volume.projected {
                fit(&mut projected.sources);
                let sources = projected.sources.iter_mut().flatten();
                for source in sources {
                    if let Some(map) = &mut source.config_map {
                        fit(&mut map.items);
                    }
                    if let Some(fields) = &mut source.downward_api {
                        fit(&mut fields.items);
                    }
                }
            }
        }
        let init = spec.init_containers.iter_mut().flatten();
        for container in spec.containers.iter_mut().chain(init) {
            fit(&mut container.env);
            fit(&mut container.env_from);
            fit(&mut container.ports);
            fit(&mut container.volume_mounts);
            fit(&mut container.args);
            fit(&mut container.command);
        }
    }
    if let Some(status) = &mut pod.status {
        fit(&mut status.conditions);
        fit(&mut status.container_statuses);
        fit(&mut status.init_container_statuses);
        fit(&mut status.pod_ips);
        fit(&mut status.host_ips);
        for one in status.container_statuses.iter_mut().flatten() {
            fit(&mut one.volume_mounts);
        }
    }
}

/// The condition of a type.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == kind)
}

#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Succeeded or failed: it will not run again.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

#[must_use]
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither finished nor being deleted: counts as a replica.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// When the Ready condition last changed.
#[must_use]
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready")
        .and_then(|c| c.last_transition_time.as_ref())
        .map(|t| t.0)
}

/// Ready for at least `min_ready_seconds` at `now`.
#[must_use]
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    if min_ready_seconds <= 0 {
        return true;
    }
    let wanted = SignedDuration::from_secs(i64::from(min_ready_seconds));
    ready_since(pod).is_some_and(|since| now.duration_since(since) >= wanted)
}

/// How long until the next of `pods` that is ready has been so for long enough; `None` when time changes nothing.
pub fn next_available<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Duration> {
    let wanted = SignedDuration::from_secs(i64::from(min_ready_seconds));
    pods.filter(|pod| is_ready(pod) && !is_available(pod, min_ready_seconds, now))
        .filter_map(ready_since)
        .map(|since| (wanted - now.duration_since(since)).max(SignedDuration::from_millis(100)))
        .min()
        .and_then(|left| Duration::try_from(left).ok())
}

/// The node the pod is bound to; empty before.
#[must_use]
pub fn node(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or_default()
}

/// The highest restart count among its containers.
#[must_use]
pub fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let main = status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten();
    main.map(|c| c.restart_count).max().unwrap_or(0)
}
