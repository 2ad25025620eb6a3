//! The node's status, from facts. Pure.

use std::collections::{BTreeMap, BTreeSet};

use steersman_cri::v1;
use steersman_types::Quantity;
use steersman_types::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};
use steersman_types::jiff::Timestamp;
use steersman_types::meta::Time;

use super::VERSION;
use super::machine::{Available, Machine};
use crate::config::KubeletConfiguration;
use crate::eviction::Kind;
use crate::pod::status::second;
use crate::quantity::{milli, value};

/// Upstream reports at most so many images, the largest first, each with so many names.
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// What upstream's programs ask for before they allow it on a node, as far as this agent does it.
const DECLARED: [&str; 1] = ["InPlacePodLevelResourcesVerticalScaling"];

/// What the status is made from.
#[derive(Debug, Clone, Default)]
pub struct NodeSeen {
    pub now: Timestamp,
    pub name: String,
    pub addresses: Vec<String>,
    pub machine: Machine,
    pub available: Available,
    /// `containerd://2.1.9`.
    pub runtime_version: String,
    /// Why the node cannot run pods; empty when it can.
    pub problems: Vec<String>,
    pub images: Vec<v1::Image>,
    pub handlers: Vec<v1::RuntimeHandler>,
    pub supplemental_groups_policy: Option<bool>,
    /// Of what the node has too little.
    pub short_of: BTreeSet<Kind>,
}

/// The complete status; `old` gives the times of conditions that did not change, and what others added to the capacity.
#[must_use]
pub fn status(seen: &NodeSeen, config: &KubeletConfiguration, old: &NodeStatus) -> NodeStatus {
    let capacity = capacity(seen, config, old);
    let mut addresses: Vec<NodeAddress> = seen
        .addresses
        .iter()
        .map(|ip| NodeAddress {
            type_: "InternalIP".into(),
            address: ip.clone(),
        })
        .collect();
    addresses.push(NodeAddress {
        type_: "Hostname".into(),
        address: seen.name.clone(),
    });
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(allocatable(&capacity, seen, config)),
        capacity: Some(capacity),
        conditions: Some(conditions(seen, old)),
        declared_features: Some(DECLARED.map(str::to_owned).to_vec()),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(config.port),
            }),
        }),
        features: seen.supplemental_groups_policy.map(|on| NodeFeatures {
            supplemental_groups_policy: Some(on),
        }),
        images: Some(images(&seen.images)),
        node_info: Some(info(seen)),
        runtime_handlers: (!seen.handlers.is_empty()).then(|| handlers(&seen.handlers)),
        ..NodeStatus::default()
    }
}

fn info(seen: &NodeSeen) -> NodeSystemInfo {
    let m = &seen.machine;
    NodeSystemInfo {
        architecture: m.architecture.clone(),
        boot_id: m.boot_id.clone(),
        container_runtime_version: seen.runtime_version.clone(),
        kernel_version: m.kernel.clone(),
        // Upstream leaves this empty: the proxy is another program.
        kube_proxy_version: String::new(),
        kubelet_version: VERSION.into(),
        machine_id: m.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: m.os_image.clone(),
        swap: (m.swap > 0).then_some(NodeSwapStatus { capacity: Some(m.swap) }),
        system_uuid: m.system_uuid.clone(),
    }
}

fn kibi(bytes: i64) -> Quantity {
    Quantity(format!("{}Ki", bytes / 1024))
}

/// What the machine has, and what others say that it has: the kinds of resources that only they know stay.
fn capacity(seen: &NodeSeen, config: &KubeletConfiguration, old: &NodeStatus) -> BTreeMap<String, Quantity> {
    let mut pods = i64::from(config.max_pods);
    if config.pods_per_core > 0 {
        pods = pods.min(i64::from(config.pods_per_core).saturating_mul(seen.machine.cpus));
    }
    let foreign = old
        .capacity
        .iter()
        .flatten()
        .filter(|(name, _)| !name.starts_with("hugepages-"));
    let mut all: BTreeMap<String, Quantity> = foreign.map(|(k, v)| (k.clone(), v.clone())).collect();
    all.extend([
        ("cpu".into(), Quantity(seen.machine.cpus.to_string())),
        ("memory".into(), kibi(seen.machine.memory)),
        ("ephemeral-storage".into(), kibi(seen.available.disk_capacity)),
        ("pods".into(), Quantity(pods.to_string())),
        ("hugepages-1Gi".into(), Quantity("0".into())),
        ("hugepages-2Mi".into(), Quantity("0".into())),
    ]);
    all
}

/// Capacity without what is reserved for the system and what must stay free.
#[must_use]
pub fn allocatable(
    capacity: &BTreeMap<String, Quantity>,
    seen: &NodeSeen,
    config: &KubeletConfiguration,
) -> BTreeMap<String, Quantity> {
    let mut all = capacity.clone();
    let reserved = |name: &str, read: fn(&Quantity) -> i64| -> i64 {
        let of = |map: &BTreeMap<String, String>| map.get(name).map_or(0, |q| read(&Quantity(q.clone())));
        of(&config.kube_reserved) + of(&config.system_reserved)
    };
    let cpu = reserved("cpu", milli);
    if cpu > 0 {
        all.insert(
            "cpu".into(),
            Quantity(format!("{}m", (seen.machine.cpus * 1000 - cpu).max(0))),
        );
    }
    let memory = threshold(config, "memory.available", seen.machine.memory) + reserved("memory", value);
    all.insert("memory".into(), kibi((seen.machine.memory - memory).max(0)));
    let disk =
        threshold(config, "nodefs.available", seen.available.disk_capacity) + reserved("ephemeral-storage", value);
    let left = (seen.available.disk_capacity - disk).max(0);
    all.insert("ephemeral-storage".into(), Quantity(left.to_string()));
    all
}

/// An eviction threshold in units: a quantity, or a percentage of the capacity.
fn threshold(config: &KubeletConfiguration, signal: &str, capacity: i64) -> i64 {
    match config.eviction_hard.get(signal).map(String::as_str) {
        None => 0,
        Some(text) => match text.strip_suffix('%').and_then(|p| p.parse::<f32>().ok()) {
            // Upstream keeps percentages as 32-bit fractions; the same arithmetic gives the same bytes.
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
            Some(percent) => (capacity as f64 * f64::from(percent / 100.0)) as i64,
            None => value(&Quantity(text.to_owned())),
        },
    }
}

/// Status, reason, message.
type Verdict = (bool, &'static str, String);

fn conditions(seen: &NodeSeen, old: &NodeStatus) -> Vec<NodeCondition> {
    let short = |kind: Kind| seen.short_of.contains(&kind);
    let pressure = |on: bool, yes: (&'static str, &str), no: (&'static str, &str)| -> Verdict {
        let (reason, message) = if on { yes } else { no };
        (on, reason, message.to_owned())
    };
    let all: [(&str, Verdict); 4] = [
        (
            "MemoryPressure",
            pressure(
                short(Kind::Memory),
                (
                    "KubeletHasInsufficientMemory",
                    "kubelet has insufficient memory available",
                ),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ),
        ),
        (
            "DiskPressure",
            pressure(
                short(Kind::Disk),
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
        ),
        (
            "PIDPressure",
            pressure(
                short(Kind::Pid),
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ),
        ),
        (
            "Ready",
            if seen.problems.is_empty() {
                (true, "KubeletReady", "kubelet is posting ready status".to_owned())
            } else {
                let problems = match seen.problems.as_slice() {
                    [one] => one.clone(),
                    several => format!("[{}]", several.join(", ")),
                };
                (false, "KubeletNotReady", problems)
            },
        ),
    ];
    let one = |(kind, (on, reason, message)): (&str, Verdict)| {
        let status = if on { "True" } else { "False" };
        let before = old.conditions.iter().flatten().find(|c| c.type_ == kind);
        let since = before
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone());
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(Time(second(seen.now))),
            last_transition_time: Some(since.unwrap_or_else(|| Time(second(seen.now)))),
        }
    };
    all.into_iter().map(one).collect()
}

fn images(all: &[v1::Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&v1::Image> = all.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let names = |i: &v1::Image| {
        i.repo_digests
            .iter()
            .chain(&i.repo_tags)
            .take(MAX_NAMES)
            .cloned()
            .collect()
    };
    let size = |i: &v1::Image| i64::try_from(i.size).ok();
    sorted
        .into_iter()
        .take(MAX_IMAGES)
        .map(|i| ContainerImage {
            names: Some(names(i)),
            size_bytes: size(i),
        })
        .collect()
}

fn handlers(all: &[v1::RuntimeHandler]) -> Vec<NodeRuntimeHandler> {
    let one = |h: &v1::RuntimeHandler| NodeRuntimeHandler {
        name: Some(h.name.clone()),
        features: h.features.as_ref().map(|f| NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(f.recursive_read_only_mounts),
            user_namespaces: Some(f.user_namespaces),
        }),
    };
    all.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> NodeSeen {
        NodeSeen {
            name: "n1".into(),
            addresses: vec!["192.0.2.1".into()],
            machine: Machine {
                cpus: 2,
                memory: 4 << 30,
                ..Machine::default()
            },
            available: Available {
                memory: 2 << 30,
                disk: 90 << 30,
                disk_capacity: 100 << 30,
                inodes_free: 50,
                inodes: 100,
            },
            ..NodeSeen::default()
        }
    }

    #[test]
    fn what_must_stay_free_is_not_allocatable() {
        let config = KubeletConfiguration {
            system_reserved: BTreeMap::from([("cpu".into(), "500m".into())]),
            ..KubeletConfiguration::default()
        };
        let status = status(&seen(), &config, &NodeStatus::default());
        let of = |map: &Option<BTreeMap<String, Quantity>>, name: &str| map.as_ref().unwrap()[name].0.clone();
        assert_eq!(
            (of(&status.capacity, "cpu"), of(&status.allocatable, "cpu")),
            ("2".into(), "1500m".into())
        );
        assert_eq!(of(&status.capacity, "memory"), "4194304Ki");
        assert_eq!(of(&status.allocatable, "memory"), "4091904Ki");
        assert_eq!(of(&status.allocatable, "ephemeral-storage"), "96636764000");
        assert_eq!(of(&status.allocatable, "pods"), "110");
    }

    #[test]
    fn capacity_that_others_add_is_allocatable_too() {
        let config = KubeletConfiguration::default();
        let given = |n: &str| BTreeMap::from([("example.com/dongle".to_owned(), Quantity(n.into()))]);
        let old = NodeStatus {
            capacity: Some(given("3")),
            allocatable: Some(BTreeMap::from([("example.com/gone".to_owned(), Quantity("1".into()))])),
            ..NodeStatus::default()
        };
        let status = status(&seen(), &config, &old);
        let of = |map: &Option<BTreeMap<String, Quantity>>, name: &str| map.as_ref().unwrap().get(name).cloned();
        assert_eq!(of(&status.capacity, "example.com/dongle"), Some(Quantity("3".into())));
        assert_eq!(
            of(&status.allocatable, "example.com/dongle"),
            Some(Quantity("3".into()))
        );
        assert_eq!(of(&status.allocatable, "example.com/gone"), None);
    }

    #[test]
    fn conditions_have_upstreams_reasons_and_keep_their_times() {
        let config = KubeletConfiguration::default();
        let first = status(&seen(), &config, &NodeStatus::default());
        let text = |s: &NodeStatus| -> Vec<String> {
            let conditions = s.conditions.clone().unwrap();
            conditions
                .iter()
                .map(|c| format!("{}={} {}", c.type_, c.status, c.reason.clone().unwrap()))
                .collect()
        };
        let fine = [
            "MemoryPressure=False KubeletHasSufficientMemory",
            "DiskPressure=False KubeletHasNoDiskPressure",
            "PIDPressure=False KubeletHasSufficientPID",
            "Ready=True KubeletReady",
        ];
        assert_eq!(text(&first), fine);
        let mut later = seen();
        later.now = Timestamp::from_second(100).unwrap();
        later.short_of.insert(Kind::Memory);
        later.problems = vec!["container runtime is down".into()];
        let second = status(&later, &config, &first);
        assert_eq!(text(&second)[0], "MemoryPressure=True KubeletHasInsufficientMemory");
        assert_eq!(text(&second)[3], "Ready=False KubeletNotReady");
        let since = |s: &NodeStatus, i: usize| {
            s.conditions.as_ref().unwrap()[i]
                .last_transition_time
                .clone()
                .unwrap()
                .0
        };
        assert_eq!((since(&second, 0).as_second(), since(&second, 1).as_second()), (100, 0));
    }
}
