//! What the scheduler keeps of pods and nodes: what decisions read, and no more. With ten thousand pods the rest would be
//! most of its memory.
//!
//! Called by the informers for every object that arrives. Nothing here is ever written back: the scheduler binds, and
//! patches single fields.

use std::mem::take;

use steersman_runtime::Informers;
use steersman_types::api::apps::v1::{ReplicaSet, StatefulSet};
use steersman_types::api::core::v1::{Container, Node, Pod, PodTemplateSpec, ReplicationController};

/// To be called before the first informer starts.
pub fn all(informers: &Informers) {
    informers.trim::<Pod>(pod);
    informers.trim::<Node>(node);
    // Of these only the selector matters.
    informers.trim::<ReplicaSet>(|set| {
        set.metadata.annotations = None;
        if let Some(spec) = &mut set.spec {
            spec.template = None;
        }
    });
    informers.trim::<StatefulSet>(|set| {
        set.metadata.annotations = None;
        if let Some(spec) = &mut set.spec {
            spec.template = PodTemplateSpec::default();
            spec.volume_claim_templates = None;
        }
    });
    informers.trim::<ReplicationController>(|controller| {
        controller.metadata.annotations = None;
        if let Some(spec) = &mut controller.spec {
            spec.template = None;
        }
    });
}

/// Keeps metadata as far as decisions, events and default spreading read it, resources, ports, images and constraints.
pub fn pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    pod.metadata.finalizers = None;
    if let Some(spec) = &mut pod.spec {
        if let Some(volumes) = &mut spec.volumes {
            // What is made on the node itself is to be had everywhere.
            volumes.retain(|v| {
                v.projected.is_none()
                    && v.config_map.is_none()
                    && v.secret.is_none()
                    && v.empty_dir.is_none()
                    && v.downward_api.is_none()
                    && v.host_path.is_none()
            });
            volumes.shrink_to_fit();
        }
        spec.image_pull_secrets = None;
        spec.ephemeral_containers = None;
        spec.host_aliases = None;
        spec.security_context = None;
        spec.dns_config = None;
        spec.readiness_gates = None;
        let init = spec.init_containers.iter_mut().flatten();
        spec.containers.iter_mut().chain(init).for_each(container);
        // Decided already: what it wanted of nodes is history. What it wants of other pods is not.
        if spec.node_name.as_ref().is_some_and(|node| !node.is_empty()) {
            spec.tolerations = None;
            spec.node_selector = None;
            if let Some(affinity) = &mut spec.affinity {
                affinity.node_affinity = None;
            }
        }
    }
    pod.metadata.generate_name = None;
    if let Some(status) = &mut pod.status {
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|c| matches!(c.type_.as_str(), "PodScheduled" | "DisruptionTarget"));
            conditions.shrink_to_fit();
        }
        status.pod_ips = None;
        status.host_ips = None;
        status.container_statuses = None;
        status.init_container_statuses = None;
        status.ephemeral_container_statuses = None;
    }
}

fn container(container: &mut Container) {
    *container = Container {
        name: take(&mut container.name),
        image: container.image.take(),
        ports: container.ports.take(),
        resources: container.resources.take(),
        restart_policy: container.restart_policy.take(),
        ..Container::default()
    };
    // Only ports of the host are scarce.
    if let Some(ports) = &mut container.ports {
        ports.retain(|port| port.host_port.is_some_and(|port| port > 0));
        ports.shrink_to_fit();
    }
}

/// Keeps everything but what only people read.
pub fn node(node: &mut Node) {
    node.metadata.annotations = None;
    if let Some(status) = &mut node.status {
        status.conditions = None;
        status.addresses = None;
        status.node_info = None;
        status.volumes_in_use = None;
        status.volumes_attached = None;
        status.capacity = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodInfo;
    use serde_json::json;
    use std::sync::Arc;
    use steersman_types::Typed;

    #[test]
    fn what_is_known_of_a_pod_for_scheduling_stays_the_same() {
        let whole = Pod::from_value(&json!({
            "metadata": {"namespace": "d", "name": "p", "uid": "u", "labels": {"app": "a"}, "annotations": {"big": "x"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]},
            "spec": {"priority": 5, "schedulerName": "default-scheduler", "volumes": [{"name": "v", "emptyDir": {}}],
                "tolerations": [{"operator": "Exists"}], "nodeSelector": {"disk": "ssd"},
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "a"}}}]}},
                "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "b"}],
                    "resources": {"requests": {"cpu": "1"}}, "ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 81}]}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "reason": "r"}]},
        }))
        .unwrap();
        let mut small = whole.clone();
        pod(&mut small);
        let (before, after) = (
            PodInfo::new(Arc::new(whole.clone())),
            PodInfo::new(Arc::new(small.clone())),
        );
        assert_eq!(before.requests, after.requests);
        assert_eq!(before.host_ports, after.host_ports);
        assert_eq!((before.terms, before.priority), (after.terms, after.priority));
        let (small_spec, whole_spec) = (small.spec.unwrap(), whole.spec.unwrap());
        assert_eq!(small_spec.tolerations, whole_spec.tolerations);
        assert_eq!(small_spec.node_selector, whole_spec.node_selector);
        assert_eq!(small_spec.containers[0].image, whole_spec.containers[0].image);
        assert!(small_spec.volumes.unwrap().is_empty() && small_spec.containers[0].env.is_none());
        assert_eq!(small.metadata.owner_references, whole.metadata.owner_references);
    }
}
