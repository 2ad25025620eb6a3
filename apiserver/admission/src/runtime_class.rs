//! RuntimeClass: a pod that names a runtime class pays its overhead and goes where it runs.
//!
//! Overhead is the class's to say: a pod that sets its own is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use steersman_auth::lister::{items, text};
use steersman_schema::field::quote;
use steersman_schema::quantity::Quantity;
use steersman_schema::status::Status;

use crate::edit::{bad_name, part_mut};
use crate::{Cluster, Operation, Plugin, Request, Surroundings};

struct RuntimeClass {
    cluster: Arc<dyn Cluster>,
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(RuntimeClass {
        cluster: around.cluster.clone(),
    })
}

impl RuntimeClass {
    /// The class that the pod names; `None` when it names none.
    async fn class(&self, request: &Request) -> Result<Option<Arc<Value>>, Box<Status>> {
        let Some(name) = request
            .object
            .as_ref()
            .and_then(|p| p.pointer("/spec/runtimeClassName"))
        else {
            return Ok(None);
        };
        let Some(name) = name.as_str() else { return Ok(None) };
        let find = || self.cluster.get("node.k8s.io", "runtimeclasses", None, name);
        if let Some(class) = find() {
            return Ok(Some(class));
        }
        if name.is_empty() {
            return Err(Box::new(Status::new(500, "", "resource name may not be empty")));
        }
        if let Some(why) = bad_name(name) {
            return Err(Box::new(Status::new(500, "", why)));
        }
        self.cluster.refresh().await?;
        let missing = || Box::new(request.forbidden(format!("pod rejected: RuntimeClass {} not found", quote(name))));
        find().ok_or_else(missing).map(Some)
    }
}

fn looked_at(request: &Request) -> bool {
    request.is("", "pods") && request.subresource.is_empty()
}

/// A resource list by value, so that `1` equals `1000m`.
fn quantities(list: Option<&Value>) -> BTreeMap<&str, Option<Quantity>> {
    let entries = list.and_then(Value::as_object).into_iter().flatten();
    entries
        .map(|(name, value)| (name.as_str(), value.as_str().and_then(|v| Quantity::parse(v).ok())))
        .collect()
}

/// Whether tolerating `wide` tolerates everything that tolerating `narrow` does.
fn covers(wide: &Value, narrow: &Value) -> bool {
    let at = |toleration: &'_ Value, field: &str| text(toleration, &format!("/{field}")).to_owned();
    let (operator, effect) = (at(wide, "operator"), at(wide, "effect"));
    let seconds = |toleration: &Value| toleration.get("tolerationSeconds").and_then(Value::as_i64);
    if wide == narrow {
        return true;
    }
    if at(narrow, "key") != at(wide, "key") && !(at(wide, "key").is_empty() && operator == "Exists") {
        return false;
    }
    if at(narrow, "effect") != effect && !effect.is_empty() {
        return false;
    }
    if effect == "NoExecute"
        && let Some(most) = seconds(wide)
        && seconds(narrow).is_none_or(|s| s > most)
    {
        return false;
    }
    match operator.as_str() {
        "Equal" | "" => at(narrow, "operator") == "Equal" && at(narrow, "value") == at(wide, "value"),
        "Exists" => true,
        _ => false,
    }
}

/// Both lists, without those that another one covers; of equal ones the first stays.
fn merge(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let later = all
            .iter()
            .skip(index + 1)
            .any(|other| other != toleration && covers(other, toleration));
        if !later && !merged.iter().any(|kept| covers(kept, toleration)) {
            merged.push((*toleration).clone());
        }
    }
    merged
}

fn schedule(request: &mut Request, scheduling: &Value) -> Result<(), Box<Status>> {
    let Some(pod) = &request.object else { return Ok(()) };
    let mut selector = pod
        .pointer("/spec/nodeSelector")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for (key, wanted) in scheduling
        .get("nodeSelector")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if let Some(own) = selector.get(key).filter(|own| *own != wanted) {
            let [wanted, own] = [wanted, own].map(|v| v.as_str().unwrap_or_default());
            return Err(Box::new(request.forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}"
            ))));
        }
        selector.insert(key.clone(), wanted.clone());
    }
    let tolerations = merge(items(pod, "/spec/tolerations"), items(scheduling, "/tolerations"));
    if let Some(spec) = request.object.as_mut().and_then(|pod| part_mut(pod, "spec")) {
        if !selector.is_empty() {
            spec.insert("nodeSelector".into(), selector.into());
        }
        if !tolerations.is_empty() {
            spec.insert("tolerations".into(), tolerations.into());
        }
    }
    Ok(())
}

#[async_trait::async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request) -> Result<(), Box<Status>> {
        if !looked_at(request) {
            return Ok(());
        }
        let Some(class) = self.class(request).await? else {
            return Ok(());
        };
        if let Some(overhead) = class.pointer("/overhead").filter(|o| o.is_object()) {
            let fixed = overhead.get("podFixed");
            let own = request.object.as_ref().and_then(|p| p.pointer("/spec/overhead"));
            let said = own.and_then(Value::as_object).is_some_and(|o| !o.is_empty());
            if said && quantities(own) != quantities(fixed) {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return Err(Box::new(request.forbidden(why)));
            }
            let spec = request.object.as_mut().and_then(|pod| part_mut(pod, "spec"));
            if let (Some(spec), Some(fixed)) = (spec, fixed) {
                spec.insert("overhead".into(), fixed.clone());
            }
        }
        match class.get("scheduling").filter(|s| s.is_object()) {
            Some(scheduling) => schedule(request, scheduling),
            None => Ok(()),
        }
    }

    async fn validate(&self, request: &Request) -> Result<(), Box<Status>> {
        if !looked_at(request) {
            return Ok(());
        }
        let class = self.class(request).await?;
        let own = request
            .object
            .as_ref()
            .and_then(|p| p.pointer("/spec/overhead"))
            .filter(|o| o.is_object());
        let why = match class
            .as_deref()
            .and_then(|c| c.pointer("/overhead"))
            .filter(|o| o.is_object())
        {
            Some(overhead) if quantities(own) != quantities(overhead.get("podFixed")) => {
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
            }
            None if own.is_some() => {
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
            }
            _ => return Ok(()),
        };
        Err(Box::new(request.forbidden(why)))
    }
}
