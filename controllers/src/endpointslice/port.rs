//! The port of a pod that a Service's port leads to. Pure.

use steersman_types::IntOrString;
use steersman_types::api::core::v1::{Container, Pod, ServicePort};

/// A number as it is; a name is looked up among the pod's containers (with their sidecars) for the same protocol.
#[must_use]
pub fn target(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .find_map(|container| named(container, name, protocol(port)))
        }
    }
}

fn named(container: &Container, name: &str, wanted: &str) -> Option<i32> {
    let ports = container.ports.iter().flatten();
    let mut matching =
        ports.filter(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == wanted);
    matching.next().map(|p| p.container_port)
}

/// TCP unless said otherwise.
#[must_use]
pub fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}
