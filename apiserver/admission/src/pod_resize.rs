//! PodResizeValidator: a running pod cannot be resized to more than its node could ever give (KEP-1287).
//!
//! What fits the node but not beside its other pods is admitted: the kubelet puts it off. Only Linux nodes resize pods.

use std::sync::Arc;

use serde_json::Value;
use steersman_auth::lister::text;
use steersman_quota::{amounts, sums};
use steersman_schema::field::quote;
use steersman_schema::status::Status;

use crate::{Cluster, Operation, Plugin, Request, Surroundings};

struct PodResize {
    cluster: Arc<dyn Cluster>,
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(PodResize {
        cluster: around.cluster.clone(),
    })
}

#[async_trait::async_trait]
impl Plugin for PodResize {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, request: &Request) -> Result<(), Box<Status>> {
        if !request.is("", "pods") || request.subresource != "resize" {
            return Ok(());
        }
        let Some(pod) = &request.object else { return Ok(()) };
        let generation = |pod: &Value| pod.pointer("/metadata/generation").cloned();
        let node = text(pod, "/spec/nodeName");
        let unchanged = request
            .old
            .as_ref()
            .is_some_and(|old| generation(old) == generation(pod));
        if node.is_empty() || unchanged {
            return Ok(());
        }
        let found = self.cluster.get("", "nodes", None, node);
        let Some(found) = found else {
            return Err(Box::new(request.forbidden(format!("node {} not found", quote(node)))));
        };
        match refusal(pod, &found) {
            Some((reason, why)) => Err(Box::new(request.forbidden(why).with_cause(reason, "", ""))),
            None => Ok(()),
        }
    }
}

/// Why a node cannot hold a pod of this size, with the cause's reason.
fn refusal(pod: &Value, node: &Value) -> Option<(&'static str, String)> {
    let system = node
        .pointer("/metadata/labels/kubernetes.io~1os")
        .and_then(Value::as_str);
    if let Some(system) = system.filter(|system| *system != "linux") {
        let name = quote(text(node, "/metadata/name"));
        let why = format!(
            "pod resize is only supported on linux nodes, node {name} is {}",
            quote(system)
        );
        return Some(("UnsupportedPlatform", why));
    }
    let mut wanted = sums::of_pod(pod, "requests");
    amounts::add(&mut wanted, &amounts::of(pod.pointer("/spec/overhead")));
    let there = amounts::of(node.pointer("/status/allocatable"));
    let lacking = |name: &str, shown: fn(&steersman_schema::quantity::Quantity) -> i64| {
        let wanted = wanted.get(name)?;
        let allocatable = there.get(name);
        let fits = allocatable.map_or_else(|| wanted.sign() <= 0, |there| wanted <= there);
        let allocatable = allocatable.map_or(0, shown);
        (!fits).then(|| format!("{name}, requested: {}, allocatable: {allocatable}", shown(wanted)))
    };
    let lacks: Vec<String> = [
        lacking("cpu", |amount| amount.milli_value()),
        lacking("memory", |amount| amount.value()),
    ]
    .into_iter()
    .flatten()
    .collect();
    let why = format!("node didn't have enough allocatable resources: {}", lacks.join("; "));
    (!lacks.is_empty()).then_some(("NodeCapacity", why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str, memory: &str) -> Value {
        json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]}})
    }

    #[test]
    fn what_a_node_could_never_give_is_refused_with_both_amounts() {
        let node = json!({"status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
        assert_eq!(refusal(&pod("2", "1Gi"), &node), None);
        assert_eq!(
            refusal(&pod("2001m", "2Gi"), &node),
            Some((
                "NodeCapacity",
                "node didn't have enough allocatable resources: cpu, requested: 2001, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824"
                    .to_owned()
            ))
        );
        let mut heavy = pod("2", "1Gi");
        heavy["spec"]["overhead"] = json!({"cpu": "1m"});
        assert!(refusal(&heavy, &node).is_some());
    }

    #[test]
    fn only_linux_nodes_resize() {
        let node = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/os": "windows"}}});
        assert_eq!(
            refusal(&pod("1", "1"), &node),
            Some((
                "UnsupportedPlatform",
                "pod resize is only supported on linux nodes, node \"n\" is \"windows\"".to_owned()
            ))
        );
    }
}
