//! Requests and limits as the kernel's numbers.

use steersman_cri::v1;
use steersman_types::api::core::v1::{Container, Pod};

use super::hugepages;
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
    /// When one process of a container is over its memory limit, only that one is killed (cgroup v2 can do either).
    pub single_oom_kill: bool,
    pub swap: Swap,
}

/// What containers may put aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swap {
    /// Whether the kernel can limit it; otherwise nothing is said about it.
    pub limitable: bool,
    /// `memorySwap.swapBehavior: LimitedSwap`: containers of burstable pods have a share; otherwise nobody has any.
    pub limited: bool,
    /// Bytes of the node.
    pub capacity: i64,
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
    resources.hugepage_limits = huge_pages(pod, container, hugepages::sizes());
    if node.swap.limitable {
        if node.cgroup_v2 {
            let swap = swap_limit(pod, container, node);
            resources.unified.insert("memory.swap.max".into(), swap.to_string());
        } else {
            // v1 limits the sum of both; as much as memory alone is none beside it.
            resources.memory_swap_limit_in_bytes = memory;
        }
    }
    if node.cgroup_v2 && !node.single_oom_kill {
        // One process over the limit ends the whole container.
        resources.unified.insert("memory.oom.group".into(), "1".into());
    }
    resources
}

/// Bytes that a container may put aside: of the node's swap the part that it asked for of the node's memory, if its pod is
/// burstable and not critical and the container itself may use more than it asked for.
fn swap_limit(pod: &Pod, container: &Container, node: &NodeLimits) -> i64 {
    let of = |r: Option<&crate::quantity::Resources>| value_of(r, "memory").unwrap_or(0);
    let own = container.resources.as_ref();
    let request = of(own.and_then(|r| r.requests.as_ref()));
    let limit = of(own.and_then(|r| r.limits.as_ref()));
    let may = node.swap.limited && !pod::is_critical(pod) && qos::qos(pod) == qos::Qos::Burstable && request != limit;
    if !may || node.memory <= 0 || request > node.memory {
        return 0;
    }
    // As upstream computes it, so that the same numbers give the same bytes.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    let share = (request as f64 / node.memory as f64 * node.swap.capacity as f64) as i64;
    share
}

/// Nothing of each size that neither the container nor, for it, the pod has a limit of.
fn huge_pages(pod: &Pod, container: &Container, sizes: &[i64]) -> Vec<v1::HugepageLimit> {
    let own = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let of_pod = pod::spec(pod).resources.as_ref().and_then(|r| r.limits.as_ref());
    let limit = |size: i64| {
        let name = hugepages::resource_name(size);
        let limit = value_of(own, &name).or_else(|| value_of(of_pod, &name));
        v1::HugepageLimit {
            page_size: hugepages::kernel_name(size),
            limit: limit.and_then(|l| u64::try_from(l).ok()).unwrap_or(0),
        }
    };
    sizes.iter().map(|size| limit(*size)).collect()
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

    use steersman_types::Typed;

    fn burstable(request: &str, limit: &str) -> Pod {
        let resources = serde_json::json!({"requests": {"memory": request, "hugepages-2Mi": "4Mi"},
            "limits": {"memory": limit, "hugepages-2Mi": "4Mi"}});
        let spec = serde_json::json!({"containers": [{"name": "c", "resources": resources}, {"name": "other"}]});
        Pod::from_value(&serde_json::json!({ "spec": spec })).unwrap()
    }

    fn node(cgroup_v2: bool, swap: Swap) -> NodeLimits {
        NodeLimits {
            memory: 1 << 30,
            quota: true,
            quota_period: QUOTA_PERIOD,
            cgroup_v2,
            single_oom_kill: !cgroup_v2,
            swap,
        }
    }

    fn given(pod: &Pod, node: &NodeLimits) -> v1::LinuxContainerResources {
        container_resources(pod, &pod::main_containers(pod)[0], node)
    }

    #[test]
    fn without_more_being_said_nobody_has_swap_and_a_container_is_killed_as_a_whole() {
        let pod = burstable("64Mi", "128Mi");
        let none = Swap {
            limitable: true,
            ..Swap::default()
        };
        let v2 = given(&pod, &node(true, none));
        assert_eq!(v2.unified["memory.swap.max"], "0");
        assert_eq!(v2.unified["memory.oom.group"], "1");
        assert_eq!(v2.memory_swap_limit_in_bytes, 0);
        let v1 = given(&pod, &node(false, none));
        assert_eq!((v1.memory_swap_limit_in_bytes, v1.unified.len()), (128 << 20, 0));
        let unknown = given(&pod, &node(true, Swap::default()));
        assert!(
            !unknown.unified.contains_key("memory.swap.max"),
            "a kernel without swap has no such file"
        );
        let single = NodeLimits {
            single_oom_kill: true,
            ..node(true, Swap::default())
        };
        assert!(given(&pod, &single).unified.is_empty());
    }

    #[test]
    fn limited_swap_is_for_burstable_pods_in_proportion_to_their_requests() {
        let limited = node(
            true,
            Swap {
                limitable: true,
                limited: true,
                capacity: 1 << 29,
            },
        );
        let swap = |pod: &Pod| given(pod, &limited).unified["memory.swap.max"].clone();
        assert_eq!(swap(&burstable("64Mi", "128Mi")), (32 << 20).to_string());
        assert_eq!(swap(&burstable("64Mi", "64Mi")), "0", "uses what it asked for at most");
        let mut critical = burstable("64Mi", "128Mi");
        critical.spec.as_mut().unwrap().priority = Some(2_000_000_000);
        assert_eq!(swap(&critical), "0");
        let best_effort = Pod::from_value(&serde_json::json!({"spec": {"containers": [{"name": "c"}]}})).unwrap();
        assert_eq!(swap(&best_effort), "0");
    }

    #[test]
    fn huge_pages_that_nobody_asked_for_are_limited_to_none() {
        let pod = burstable("64Mi", "128Mi");
        let all = huge_pages(&pod, &pod::main_containers(&pod)[0], &[2 << 20, 1 << 30]);
        let shown: Vec<_> = all.iter().map(|l| (l.page_size.as_str(), l.limit)).collect();
        assert_eq!(shown, [("2MB", 4 << 20), ("1GB", 0)]);
    }

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
