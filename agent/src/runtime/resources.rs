//! Requests and limits as the kernel's numbers.

use steersman_cri::v1;
use steersman_types::api::core::v1::{Container, Pod};

use crate::pod::{self, qos};
use crate::quantity::{milli_of, value_of};

/// The kernel's accounting period for cpu quotas, in microseconds: 100 ms.
pub const QUOTA_PERIOD: i64 = 100_000;
/// The kernel refuses less than 1 ms.
const MIN_QUOTA: i64 = 1000;
/// The kernel's bounds for shares; 1024 is one core.
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// Pods from this priority on belong to the node itself (`system-node-critical`).
const NODE_CRITICAL: i32 = 2_000_001_000;

#[must_use]
pub fn shares(milli_cpu: i64) -> i64 {
    if milli_cpu <= 0 {
        MIN_SHARES
    } else {
        (milli_cpu.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
    }
}

/// Microseconds of cpu time per period; 0 means no limit.
#[must_use]
pub fn quota(milli_cpu: i64, period: i64) -> i64 {
    if milli_cpu <= 0 {
        0
    } else {
        (milli_cpu.saturating_mul(period) / 1000).max(MIN_QUOTA)
    }
}

/// cgroup v2's weight for the same shares: the range 2…262144 mapped onto 1…10000.
#[must_use]
pub fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(MIN_SHARES, MAX_SHARES) - 2) * 9999 / 262_142
}

/// What the kernel does to a container on the node.
#[derive(Debug, Clone, Copy)]
pub struct NodeLimits {
    /// Bytes of memory of the node, for the out-of-memory score.
    pub memory: i64,
    /// Enforce cpu limits (`cpuCFSQuota`).
    pub quota: bool,
    pub quota_period: i64,
    pub cgroup_v2: bool,
}

/// A container's resources in CRI's terms.
#[must_use]
pub fn container_resources(pod: &Pod, container: &Container, node: &NodeLimits) -> v1::LinuxContainerResources {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    // A container without a limit of its own has the pod's.
    let of_pod = pod::demand::of_pod(pod).and_then(|own| own.limits.as_ref());
    let limit = milli_of(limits, "cpu").or_else(|| milli_of(of_pod, "cpu")).unwrap_or(0);
    let memory = value_of(limits, "memory")
        .or_else(|| value_of(of_pod, "memory"))
        .unwrap_or(0);
    let mut resources = v1::LinuxContainerResources {
        cpu_shares: shares(milli_of(requests, "cpu").unwrap_or(limit)),
        memory_limit_in_bytes: memory,
        oom_score_adj: oom_score(pod, container, node.memory),
        ..Default::default()
    };
    if node.quota {
        resources.cpu_period = node.quota_period;
        resources.cpu_quota = quota(limit, node.quota_period);
    }
    if node.cgroup_v2 {
        // No swap, and one process over the limit ends the whole container.
        resources.memory_swap_limit_in_bytes = memory;
        resources.unified.insert("memory.oom.group".into(), "1".into());
    }
    resources
}

/// Whom the kernel kills first when the node has no memory left: -1000 never, 1000 first.
#[must_use]
pub fn oom_score(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    if pod::spec(pod).priority.is_some_and(|p| p >= NODE_CRITICAL) {
        return -997;
    }
    match qos::qos(pod) {
        qos::Qos::Guaranteed => -997,
        qos::Qos::BestEffort => 1000,
        qos::Qos::Burstable => {
            let asked =
                |c: &Container| value_of(c.resources.as_ref().and_then(|r| r.requests.as_ref()), "memory").unwrap_or(0);
            let mut request = asked(container);
            if pod::is_sidecar(container) && pod::init_containers(pod).iter().any(|c| c.name == container.name) {
                // A sidecar outlives the containers it serves.
                request = request.max(pod::main_containers(pod).iter().map(asked).min().unwrap_or(0));
            }
            let score =
                1000 - i64::try_from(1000 * i128::from(request) / i128::from(node_memory.max(1))).unwrap_or(1000);
            if score < 3 { 3 } else { score.min(999) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_become_shares_quota_and_weight_as_upstream_computes_them() {
        assert_eq!([0, 1, 100, 1000, 300_000_000].map(shares), [2, 2, 102, 1024, 262_144]);
        assert_eq!(
            [0, 5, 100, 1500].map(|m| quota(m, QUOTA_PERIOD)),
            [0, 1000, 10_000, 150_000]
        );
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }
}
