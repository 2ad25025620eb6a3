//! `pods/NAME/eviction`: a delete that asks the pod's disruption budget first.

use http::Response;
use serde_json::{Value, json};
use steersman_admission::Operation;
use steersman_auth::Lister;
use steersman_kinds::selector;
use steersman_schema::facts::Gvk;
use steersman_schema::status::Status;

use super::binding::set_condition;
use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::options::{DeleteOptions, WriteOptions};
use crate::registry::admit::{Admission, Admitted};
use crate::registry::{decode, delete, get, rewrite};
use crate::{negotiate, respond};

/// Answers an eviction.
///
/// # Errors
/// 404, 409, 429 when the budget does not allow it, 500 when there are several budgets.
pub async fn create(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let media = negotiate::input(&call.headers)?;
    call.stage("decode");
    let body = call.read_body().await?;
    let gvk = Gvk::new("policy", "v1", "Eviction");
    let eviction = decode::object(call, media, &body, &gvk, options.field_validation)?;
    let name = eviction
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !name.is_empty() && name != target.name {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let admission = Admission {
        api,
        ticket,
        target,
        gvk: &gvk,
        operation: Operation::Create,
        options: options.to_value("CreateOptions"),
        dry_run: options.dry_run,
    };
    let eviction = admission.mutate(eviction, None).await?;
    let admitted = admission.validate(eviction, None).await?;
    let mut delete_options = DeleteOptions::read(Some(&admitted.object()["deleteOptions"]), &call.query)?;
    delete_options.dry_run |= options.dry_run;

    let pod = get::value(api, target).await?;
    if needs_budget(&pod) {
        allowed_by_budget(api, ticket, target, &pod, &admitted, delete_options.dry_run).await?;
        mark(api, ticket, target, &admitted, delete_options.dry_run).await?;
    }
    if delete_options.uid.is_none() {
        delete_options.uid = pod.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned);
    }
    let whole = Target {
        subresource: String::new(),
        ..target.clone()
    };
    delete::object_of(api, ticket, &whole, &delete_options).await?;
    Ok(respond::status(&output, &Status::success(201)))
}

/// Pods that are over, not begun, or dying anyway may always go.
fn needs_budget(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    !matches!(phase, "Succeeded" | "Failed" | "Pending") && pod.pointer("/metadata/deletionTimestamp").is_none()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    conditions
        .into_iter()
        .any(|c| c["type"] == "Ready" && c["status"] == "True")
}

async fn allowed_by_budget(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    pod: &Value,
    admitted: &Admitted,
    dry_run: bool,
) -> Result<(), Status> {
    let labels = pod
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    let matching: Vec<_> = api
        .lister
        .list("policy", "poddisruptionbudgets", Some(&target.namespace))
        .into_iter()
        .filter(|budget| {
            let parsed = serde_json::from_value::<steersman_types::LabelSelector>(budget["spec"]["selector"].clone());
            parsed.is_ok_and(|parsed| selector::matches(&parsed, &labels)) && budget["spec"]["selector"].is_object()
        })
        .collect();
    let budget = match matching.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(Status::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let policy = budget
        .pointer("/spec/unhealthyPodEvictionPolicy")
        .and_then(Value::as_str)
        .unwrap_or("IfHealthyBudget");
    let int = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    if !is_ready(pod) {
        let healthy_budget =
            int("/status/currentHealthy") >= int("/status/desiredHealthy") && int("/status/desiredHealthy") > 0;
        if policy == "AlwaysAllow" || healthy_budget {
            return Ok(());
        }
    }
    let name = budget
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let resource = api
        .resources
        .find("policy", "v1", "poddisruptionbudgets")
        .ok_or_else(Status::no_such_path)?;
    let budget_target = Target {
        resource: resource.clone(),
        namespace: target.namespace.clone(),
        name: name.clone(),
        subresource: "status".to_owned(),
    };
    let now = ticket.call().now_text();
    rewrite::rewrite(api, ticket, &budget_target, admitted, dry_run, |budget| {
        spend(budget, &name, &target.name, &now)
    })
    .await?;
    Ok(())
}

/// The budget with one disruption less, or why there is none to spend; pure.
fn spend(budget: &Value, name: &str, pod: &str, now: &str) -> Result<Value, Status> {
    let int = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    if int("/status/observedGeneration") < int("/metadata/generation") {
        let status = Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 10);
        return Err(status.with_cause(
            "DisruptionBudget",
            format!("The disruption budget {name} is still being processed by the server."),
            "",
        ));
    }
    let allowed = int("/status/disruptionsAllowed");
    if allowed <= 0 {
        let (desired, healthy) = (int("/status/desiredHealthy"), int("/status/currentHealthy"));
        let status = Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0);
        let why = format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
        return Err(status.with_cause("DisruptionBudget", why, ""));
    }
    let mut budget = budget.clone();
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if !budget["status"]["disruptedPods"].is_object() {
        budget["status"]["disruptedPods"] = json!({});
    }
    budget["status"]["disruptedPods"][pod] = now.into();
    Ok(budget)
}

/// The pod says why it goes.
async fn mark(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    admitted: &Admitted,
    dry_run: bool,
) -> Result<(), Status> {
    let now = ticket.call().now_text();
    let why = ("EvictionByEvictionAPI", "Eviction API: evicting");
    rewrite::rewrite(api, ticket, target, admitted, dry_run, |pod| {
        let mut pod = pod.clone();
        set_condition(&mut pod, "DisruptionTarget", "True", Some(why), &now);
        Ok(pod)
    })
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_one_by_one() {
        let budget = json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 2, "currentHealthy": 3}});
        let spent = spend(&budget, "b", "p", "t").expect("one left");
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
        assert_eq!(spent["status"]["disruptedPods"]["p"], "t");
        let refused = spend(&spent, "b", "q", "t").expect_err("none left");
        assert_eq!(refused.code, 429);
        let causes = &refused.details.as_ref().expect("details").causes;
        assert_eq!(
            causes[0].message,
            "The disruption budget b needs 2 healthy pods and has 3 currently"
        );
    }
}
