//! Does the node take a pod that was assigned to it? The last check, against what the node itself knows.

use steersman_types::api::core::v1::Pod;

use crate::env::Allocatable;
use crate::pod;
use crate::pod::seen::Trouble;
use crate::quantity::{milli_of, value_of};

/// Why the pod is refused, if it is. A pod that already ran here (it has a start time) is always taken.
#[must_use]
pub fn refusal(
    new: &Pod,
    active: &[std::sync::Arc<Pod>],
    allocatable: &Allocatable,
    max_pods: usize,
) -> Option<Trouble> {
    if new.status.as_ref().is_some_and(|s| s.start_time.is_some()) || new.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if let Some(os) = pod::spec(new).os.as_ref().filter(|os| os.name != "linux") {
        let message = format!(
            "Failed to admit pod because the OS field doesn't match node OS: {}",
            os.name
        );
        return Some(Trouble {
            reason: "PodOSNotSupported".into(),
            message,
        });
    }
    let over = |p: &&std::sync::Arc<Pod>| {
        !matches!(
            p.status.as_ref().and_then(|s| s.phase.as_deref()),
            Some("Succeeded" | "Failed")
        )
    };
    let active: Vec<&Pod> = active.iter().filter(over).map(AsRef::as_ref).collect();
    let lacking = |name: &str, asked: i64, used: i64, capacity: i64| {
        let message = format!(
            "Pod was rejected: Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {capacity}"
        );
        Some(Trouble {
            reason: format!("OutOf{name}"),
            message,
        })
    };
    let count = i64::try_from(active.len()).unwrap_or(i64::MAX);
    let max = i64::try_from(max_pods).unwrap_or(i64::MAX);
    if count >= max {
        return lacking("pods", 1, count, max);
    }
    for name in ["cpu", "memory"] {
        let Some(capacity) = allocatable.get(name).copied() else {
            continue;
        };
        let asked = request(new, name);
        let used: i64 = active.iter().map(|p| request(p, name)).sum();
        if asked > 0 && used.saturating_add(asked) > capacity {
            return lacking(name, asked, used, capacity);
        }
    }
    None
}

/// What the pod asks for: its main containers and sidecars together, or its largest init container if that is more.
fn request(pod: &Pod, name: &str) -> i64 {
    let of = |c: &steersman_types::api::core::v1::Container| {
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        if name == "cpu" {
            milli_of(requests, name)
        } else {
            value_of(requests, name)
        }
        .unwrap_or(0)
    };
    let init = pod::init_containers(pod);
    let sidecars: i64 = init.iter().filter(|c| pod::is_sidecar(c)).map(of).sum();
    let main: i64 = pod::main_containers(pod).iter().map(of).sum();
    let largest = init.iter().filter(|c| !pod::is_sidecar(c)).map(of).max().unwrap_or(0);
    (main + sidecars).max(largest)
}
