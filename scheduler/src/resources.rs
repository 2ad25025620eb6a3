//! What a pod asks for and what a node has, as integers.
//!
//! Pure arithmetic over specs; the rules are upstream's `PodRequests` (KEP-753 for sidecars, KEP-2837 for pod-level
//! resources): containers add up, init containers count by their peak, overhead comes on top.

use std::collections::BTreeMap;

use steersman_schema::quantity::Quantity;
use steersman_types::api::core::v1::{Container, Pod};

/// Milli-CPU that scoring assumes for a container that asks for none (upstream: `DefaultMilliCPURequest`).
const DEFAULT_MILLI_CPU: i64 = 100;
/// Bytes of memory that scoring assumes for a container that asks for none (upstream: `DefaultMemoryRequest`, 200 MB).
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

type Requests = BTreeMap<String, steersman_types::Quantity>;

/// Amounts of resources. CPU in thousandths of a core, memory and ephemeral storage in bytes, everything else whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources, huge pages and attachable volumes, by name.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    /// From a map such as `requests` or `allocatable`. The `pods` count is not a resource in this sense.
    #[must_use]
    pub fn from_map(map: &Requests) -> Self {
        let mut out = Self::default();
        for (name, quantity) in map {
            // The API server accepts only quantities; a text that is none counts as nothing.
            let Ok(quantity) = Quantity::parse(&quantity.0) else {
                continue;
            };
            match name.as_str() {
                "cpu" => out.milli_cpu = quantity.milli_value(),
                "memory" => out.memory = quantity.value(),
                "ephemeral-storage" => out.ephemeral_storage = quantity.value(),
                "pods" => {}
                _ => {
                    out.scalar.insert(name.clone(), quantity.value());
                }
            }
        }
        out
    }

    pub fn add(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_add(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let sum = self.scalar.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    pub fn subtract(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_sub(other.milli_cpu);
        self.memory = self.memory.saturating_sub(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_sub(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            if let Some(left) = self.scalar.get_mut(name) {
                *left = left.saturating_sub(*amount);
                if *left == 0 {
                    self.scalar.remove(name);
                }
            }
        }
    }

    fn raise_to(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let most = self.scalar.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
    }

    /// The amount of a resource by its name.
    #[must_use]
    pub fn get(&self, resource: &str) -> i64 {
        match resource {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            other => self.scalar.get(other).copied().unwrap_or_default(),
        }
    }

    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0 && self.memory == 0 && self.ephemeral_storage == 0 && self.scalar.values().all(|v| *v == 0)
    }
}

/// What a pod occupies: as filters count it, and as scores do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRequests {
    pub exact: Resources,
    /// CPU and memory with defaults in place of absent requests, so that pods without requests still spread.
    pub non_zero_milli_cpu: i64,
    pub non_zero_memory: i64,
}

/// The requests of `pod`.
#[must_use]
pub fn requests(pod: &Pod) -> PodRequests {
    let exact = effective(pod, |container| container_requests(container));
    let assumed = effective(pod, |container| {
        let mut request = container_requests(container);
        let named = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let has = |name: &str| named.is_some_and(|r| r.contains_key(name));
        if !has("cpu") {
            request.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !has("memory") {
            request.memory = DEFAULT_MEMORY;
        }
        request
    });
    PodRequests {
        exact,
        non_zero_milli_cpu: assumed.milli_cpu,
        non_zero_memory: assumed.memory,
    }
}

fn container_requests(container: &Container) -> Resources {
    container
        .resources
        .as_ref()
        .and_then(|r| r.requests.as_ref())
        .map(Resources::from_map)
        .unwrap_or_default()
}

fn effective(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else {
        return Resources::default();
    };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut request = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            // A sidecar stays: it adds to the containers, and to whatever init containers follow it.
            total.add(&request);
            sidecars.add(&request);
            request = sidecars.clone();
        } else {
            request.add(&sidecars);
        }
        peak.raise_to(&request);
    }
    total.raise_to(&peak);
    if let Some(pod_level) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let level = Resources::from_map(pod_level);
        if pod_level.contains_key("cpu") {
            total.milli_cpu = level.milli_cpu;
        }
        if pod_level.contains_key("memory") {
            total.memory = level.memory;
        }
        total.scalar.extend(level.scalar);
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_map(overhead));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use steersman_types::Typed;

    fn pod(spec: serde_json::Value) -> Pod {
        Pod::from_value(&json!({"spec": spec})).unwrap()
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let p = pod(
            json!({"containers": [container("1"), container("500m")], "initContainers": [container("1"), container("2")]}),
        );
        assert_eq!(requests(&p).exact.milli_cpu, 2000);
    }

    #[test]
    fn sidecars_add_to_what_follows_and_to_the_containers() {
        let mut sidecar = container("300m");
        sidecar["restartPolicy"] = json!("Always");
        let p = pod(
            json!({"containers": [container("100m")], "initContainers": [sidecar, container("1")], "overhead": {"cpu": "50m"}}),
        );
        assert_eq!(requests(&p).exact.milli_cpu, 1350);
    }

    #[test]
    fn scores_assume_a_little_where_nothing_is_asked() {
        let p = pod(json!({"containers": [{"name": "c"}, container("1")]}));
        let r = requests(&p);
        assert_eq!(
            (r.exact.milli_cpu, r.non_zero_milli_cpu, r.non_zero_memory),
            (1000, 1100, 2 * DEFAULT_MEMORY)
        );
    }

    #[test]
    fn pod_level_requests_replace_the_sum() {
        let p = pod(json!({"containers": [container("1")], "resources": {"requests": {"cpu": "3", "memory": "1Gi"}}}));
        assert_eq!(
            (requests(&p).exact.milli_cpu, requests(&p).exact.memory),
            (3000, 1 << 30)
        );
    }

    #[test]
    fn adding_and_subtracting_are_inverse() {
        let map: Requests =
            serde_json::from_value(json!({"cpu": "1500m", "memory": "1Ki", "example.com/gpu": "2"})).unwrap();
        let one = Resources::from_map(&map);
        let mut sum = one.clone();
        sum.add(&one);
        sum.subtract(&one);
        assert_eq!(sum, one);
    }
}
