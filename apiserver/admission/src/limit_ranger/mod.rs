//! LimitRanger: a namespace's LimitRange objects give containers default requests and limits, and bound what containers, pods
//! and claims may ask for.

mod bounds;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use steersman_auth::lister::{items, text};
use steersman_schema::status::Status;

use crate::edit::part_mut;
use crate::{Cluster, Operation, Plugin, Request, Surroundings};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

struct LimitRanger {
    cluster: Arc<dyn Cluster>,
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(LimitRanger {
        cluster: around.cluster.clone(),
    })
}

impl LimitRanger {
    /// The ranges that apply to a request; none when it is not one that they are about.
    fn ranges(&self, request: &Request) -> Vec<Arc<Value>> {
        let pod = request.is("", "pods");
        let claim = request.is("", "persistentvolumeclaims");
        let wanted = match (request.operation, request.subresource.as_str()) {
            (Operation::Create, "") => pod || claim,
            // A pod's containers are fixed after creation, except by resizing.
            (Operation::Update, "") => claim,
            (Operation::Update, "resize") => pod,
            _ => false,
        };
        let dying = request
            .old
            .as_deref()
            .is_some_and(|o| !text(o, "/metadata/deletionTimestamp").is_empty());
        if !wanted || dying {
            return Vec::new();
        }
        self.cluster.list("", "limitranges", Some(&request.namespace))
    }
}

/// What a range gives to containers that do not say: `(requests, limits)`.
fn defaults(range: &Value) -> (Map<String, Value>, Map<String, Value>) {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for limit in items(range, "/spec/limits")
        .iter()
        .filter(|l| text(l, "/type") == "Container")
    {
        let entries = |field: &str| limit.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
        requests.extend(entries("defaultRequest"));
        limits.extend(entries("default"));
    }
    (requests, limits)
}

/// Fills in a list of a container's resources; the names of what was added, sorted.
fn fill(container: &mut Value, list: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let Some(resources) = part_mut(container, "resources") else {
        return Vec::new();
    };
    let have = resources.entry(list).or_insert(Value::Null);
    if have.is_null() {
        *have = json!({});
    }
    let Some(have) = have.as_object_mut() else {
        return Vec::new();
    };
    let lacking = defaults.iter().filter(|(name, _)| !have.contains_key(*name));
    let added: Vec<(String, Value)> = lacking.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut names: Vec<String> = added.iter().map(|(name, _)| name.clone()).collect();
    have.extend(added);
    if have.is_empty() {
        resources.remove(list);
    }
    names.sort();
    names
}

fn apply_defaults(pod: &mut Value, range: &Value) {
    let (requests, limits) = defaults(range);
    let mut notes: Vec<String> = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = text(container, "/name").to_owned();
            let limited = fill(container, "limits", &limits);
            let requested = fill(container, "requests", &requests);
            for (names, what) in [(requested, "request"), (limited, "limit")] {
                if !names.is_empty() {
                    notes.push(format!("{} {what} for {word} {name}", names.join(", ")));
                }
            }
        }
    }
    if notes.is_empty() {
        return;
    }
    let Some(metadata) = part_mut(pod, "metadata") else {
        return;
    };
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(
            ANNOTATION.into(),
            format!("LimitRanger plugin set: {}", notes.join("; ")).into(),
        );
    }
}

#[async_trait::async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request) -> Result<(), Box<Status>> {
        let ranges = self.ranges(request);
        if request.resource != "pods" {
            return Ok(());
        }
        if let Some(pod) = request.object.as_mut() {
            ranges.iter().for_each(|range| apply_defaults(pod, range));
        }
        Ok(())
    }

    async fn validate(&self, request: &Request) -> Result<(), Box<Status>> {
        let Some(object) = &request.object else { return Ok(()) };
        for range in self.ranges(request) {
            let faults = if request.resource == "pods" {
                bounds::of_pod(&range, object)
            } else {
                bounds::of_claim(&range, object)
            };
            let why = match faults.as_slice() {
                [] => continue,
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            };
            return Err(Box::new(request.forbidden(why)));
        }
        Ok(())
    }
}
