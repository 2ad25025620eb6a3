//! Binding a pod to a node: `pods/NAME/binding`, and the older `bindings`.

use http::Response;
use serde_json::{Value, json};
use steersman_admission::Operation;
use steersman_schema::facts::Gvk;
use steersman_schema::field::{FieldError, Path};
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::options::WriteOptions;
use crate::registry::admit::Admission;
use crate::registry::{decode, rewrite};
use crate::{negotiate, respond};

/// Answers `POST …/pods/NAME/binding`.
///
/// # Errors
/// 400, 404, 409 when the pod is bound already, 422.
pub async fn pod(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    bind(api, ticket, target, target).await
}

/// Answers `POST …/bindings`; the pod's name is in the body.
///
/// # Errors
/// As [`pod`].
pub async fn legacy(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let pods = api.resources.find("", "v1", "pods").ok_or_else(Status::no_such_path)?;
    let pod = Target {
        resource: pods.clone(),
        namespace: target.namespace.clone(),
        name: String::new(),
        subresource: "binding".to_owned(),
    };
    bind(api, ticket, target, &pod).await
}

async fn bind(api: &Api, ticket: &Authorized, asked: &Target, pod: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let media = negotiate::input(&call.headers)?;
    call.stage("decode");
    let body = call.read_body().await?;
    let gvk = Gvk::new("", "v1", "Binding");
    let binding = decode::object(call, media, &body, &gvk, options.field_validation)?;
    let text = |pointer: &str| {
        binding
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut pod = pod.clone();
    if pod.name.is_empty() {
        pod.name = text("/metadata/name");
    } else if !text("/metadata/name").is_empty() && text("/metadata/name") != pod.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let namespace = text("/metadata/namespace");
    if !namespace.is_empty() && namespace != pod.namespace {
        return Err(Status::bad_request(
            steersman_kinds::meta::NamespaceMismatch.to_string(),
        ));
    }
    let admission = Admission {
        api,
        ticket,
        target: asked,
        gvk: &gvk,
        operation: Operation::Create,
        options: options.to_value("CreateOptions"),
        dry_run: options.dry_run,
    };
    let binding = admission.mutate(binding, None).await?;
    call.stage("validate");
    let errors = faults(&binding);
    if !errors.is_empty() {
        return Err(Status::invalid("", "Binding", &pod.name, &errors));
    }
    let admitted = admission.validate(binding, None).await?;
    let now = call.now_text();
    rewrite::rewrite(api, ticket, &pod, &admitted, options.dry_run, |object| {
        assigned(object, admitted.object(), &pod.name, &now)
    })
    .await?;
    Ok(respond::status(&output, &Status::success(201)))
}

fn faults(binding: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let text = |pointer: &str| binding.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let path = Path::new("target");
    let kind = text("/target/kind");
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported(
            &path.child("kind"),
            kind,
            &["Node", "<empty>"],
        ));
    }
    if text("/target/name").is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    errors
}

/// The pod with its node; pure.
fn assigned(pod: &Value, binding: &Value, name: &str, now: &str) -> Result<Value, Status> {
    let conflict = |why: String| Err(Status::conflict("", "pods/binding", name, &why));
    let text = |value: &Value, pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let uid = text(binding, "/metadata/uid");
    if !uid.is_empty() && uid != text(pod, "/metadata/uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            text(pod, "/metadata/uid")
        );
        return conflict(why);
    }
    let version = text(binding, "/metadata/resourceVersion");
    if !version.is_empty() && version != text(pod, "/metadata/resourceVersion") {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
            text(pod, "/metadata/resourceVersion")
        );
        return conflict(why);
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = text(pod, "/spec/nodeName");
    if !node.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {node:?}"));
    }
    if pod
        .pointer("/spec/schedulingGates")
        .and_then(Value::as_array)
        .is_some_and(|gates| !gates.is_empty())
    {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = text(binding, "/target/name").into();
    for (field, overwrite) in [("annotations", true), ("labels", false)] {
        let Some(more) = binding
            .pointer(&format!("/metadata/{field}"))
            .and_then(Value::as_object)
        else {
            continue;
        };
        if !pod["metadata"][field].is_object() {
            pod["metadata"][field] = json!({});
        }
        for (key, value) in more {
            if overwrite || pod["metadata"][field].get(key).is_none() {
                pod["metadata"][field][key] = value.clone();
            }
        }
    }
    set_condition(&mut pod, "PodScheduled", "True", None, now);
    Ok(pod)
}

/// Sets a condition of a pod's status; the transition time moves only when the status does.
pub fn set_condition(pod: &mut Value, kind: &str, status: &str, why: Option<(&str, &str)>, now: &str) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = pod["status"]["conditions"].as_array_mut() else {
        return;
    };
    let mut condition = json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": now});
    if let Some((reason, message)) = why {
        condition["reason"] = reason.into();
        condition["message"] = message.into();
    }
    if let Some(object) = condition.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => {
            if old["status"] == status {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {}, "status": {}});
        let binding = json!({"metadata": {"name": "a"}, "target": {"name": "n1"}});
        let bound = assigned(&pod, &binding, "a", "t").expect("bound");
        assert_eq!(bound["spec"]["nodeName"], "n1");
        assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
        let again = assigned(&bound, &binding, "a", "t").expect_err("twice");
        assert_eq!(
            again.message,
            "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\""
        );
        let dying = json!({"metadata": {"name": "a", "deletionTimestamp": "t"}, "spec": {}});
        assert_eq!(assigned(&dying, &binding, "a", "t").expect_err("dying").code, 409);
    }
}
