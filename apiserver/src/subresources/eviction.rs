//! `pods/NAME/eviction`: a delete that asks the pod's disruption budget first.

use std::sync::Arc;

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

    let asked_version = delete_options.resource_version.clone();
    let whole = Target {
        subresource: String::new(),
        ..target.clone()
    };
    for round in 1.. {
        let pod = get::value(api, target).await?;
        let version = || text_at(&pod, "/metadata/resourceVersion");
        let mut budget = None;
        let mut bound = None;
        if !needs_budget(&pod) {
            // It must not become ready in between, and so protected.
            bound = (text_at(&pod, "/status/phase").as_deref() == Some("Pending"))
                .then(version)
                .flatten();
        } else if let Some(found) = guarding(api, target, &pod)? {
            let name = text_at(&found, "/metadata/name").unwrap_or_default();
            if may_go_unhealthy(&found, &pod) {
                bound = version();
            } else {
                spend_one(api, ticket, target, &name, &admitted, delete_options.dry_run).await?;
            }
            budget = Some(name);
        }
        if delete_options.uid.is_none() {
            delete_options.uid = text_at(&pod, "/metadata/uid");
        }
        delete_options.resource_version = asked_version.clone().or_else(|| bound.clone());
        let outcome = remove(api, ticket, target, &whole, &admitted, delete_options.clone()).await;
        match outcome {
            Err(status) if status.code == 409 && asked_version.is_none() && bound.is_some() => match budget {
                Some(name) => return Err(being_processed(&name)),
                None if round < ROUNDS => {}
                None => return Err(status),
            },
            outcome => {
                outcome?;
                break;
            }
        }
    }
    Ok(respond::status(&output, &Status::success(201)))
}

/// How often the pod may change under a deletion that is bound to its version.
const ROUNDS: usize = 20;
/// More evictions than this that the controller has not confirmed are refused (upstream: `MaxDisruptedPodSize`).
const MOST_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

fn text_at(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

/// Marks the pod and deletes it. A version asked for is that before the mark.
async fn remove(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    whole: &Target,
    admitted: &Admitted,
    mut options: DeleteOptions,
) -> Result<(), Status> {
    if !options.dry_run {
        let marked = mark(api, ticket, target, admitted, &options).await?;
        if options.resource_version.is_some() {
            options.resource_version = text_at(&marked, "/metadata/resourceVersion");
        }
    }
    delete::object_of(api, ticket, whole, &options).await.map(drop)
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

/// The budget that guards the pod.
fn guarding(api: &Api, target: &Target, pod: &Value) -> Result<Option<Arc<Value>>, Status> {
    let labels = pod
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    let mut matching = api
        .lister
        .list("policy", "poddisruptionbudgets", Some(&target.namespace))
        .into_iter()
        .filter(|budget| {
            let parsed = serde_json::from_value::<steersman_types::LabelSelector>(budget["spec"]["selector"].clone());
            parsed.is_ok_and(|parsed| selector::matches(&parsed, &labels)) && budget["spec"]["selector"].is_object()
        });
    let first = matching.next();
    if matching.next().is_some() {
        return Err(Status::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    Ok(first)
}

/// A pod that is not ready protects nothing, if there are enough others or the budget says so.
fn may_go_unhealthy(budget: &Value, pod: &Value) -> bool {
    let policy = budget
        .pointer("/spec/unhealthyPodEvictionPolicy")
        .and_then(Value::as_str)
        .unwrap_or("IfHealthyBudget");
    let int = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let enough = int("/status/currentHealthy") >= int("/status/desiredHealthy") && int("/status/desiredHealthy") > 0;
    !is_ready(pod) && (policy == "AlwaysAllow" || enough)
}

async fn spend_one(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    name: &str,
    admitted: &Admitted,
    dry_run: bool,
) -> Result<(), Status> {
    let resource = api
        .resources
        .find("policy", "v1", "poddisruptionbudgets")
        .ok_or_else(Status::no_such_path)?;
    let budget_target = Target {
        resource: resource.clone(),
        namespace: target.namespace.clone(),
        name: name.to_owned(),
        subresource: "status".to_owned(),
    };
    let now = ticket.call().now_text();
    rewrite::rewrite(api, ticket, &budget_target, admitted, dry_run, |budget| {
        spend(budget, name, &target.name, &now)
    })
    .await?;
    Ok(())
}

fn refused(seconds: i32, why: String) -> Status {
    Status::too_many_requests(REFUSED, seconds).with_cause("DisruptionBudget", why, "")
}

fn being_processed(name: &str) -> Status {
    refused(
        10,
        format!("The disruption budget {name} is still being processed by the server."),
    )
}

/// The budget with one disruption less, or why there is none to spend; pure.
fn spend(budget: &Value, name: &str, pod: &str, now: &str) -> Result<Value, Status> {
    let int = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let forbidden = |why: &str| Err(Status::forbidden("policy", "poddisruptionbudget", name, why));
    if int("/status/observedGeneration") < int("/metadata/generation") {
        return Err(being_processed(name));
    }
    let allowed = int("/status/disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let disrupted = budget.pointer("/status/disruptedPods").and_then(Value::as_object);
    if disrupted.is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(refused(0, why_none(budget, name)));
    }
    let mut budget = budget.clone();
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if allowed == 1 {
        set_condition(
            &mut budget,
            "DisruptionAllowed",
            "False",
            Some(("InsufficientPods", "")),
            now,
        );
    }
    if !budget["status"]["disruptedPods"].is_object() {
        budget["status"]["disruptedPods"] = json!({});
    }
    budget["status"]["disruptedPods"][pod] = now.into();
    Ok(budget)
}

/// Why a budget allows nothing.
fn why_none(budget: &Value, name: &str) -> String {
    let int = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let (desired, healthy) = (int("/status/desiredHealthy"), int("/status/currentHealthy"));
    let conditions = budget.pointer("/status/conditions").and_then(Value::as_array);
    let condition = conditions
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "DisruptionAllowed" && c["status"] == "False");
    let said = |field: &str| {
        let text = condition.and_then(|c| c[field].as_str());
        text.filter(|text| !text.is_empty())
    };
    match (said("reason"), said("message")) {
        (Some("SyncFailed"), Some(message)) => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
            )
        }
        _ if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        (reason, Some(message)) => format!(
            "The disruption budget {name} does not allow evicting pods currently ({}): {message}",
            reason.unwrap_or_default()
        ),
        _ => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// The pod says why it goes. The pod as it is stored then.
async fn mark(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    admitted: &Admitted,
    options: &DeleteOptions,
) -> Result<Value, Status> {
    let now = ticket.call().now_text();
    let why = ("EvictionByEvictionAPI", "Eviction API: evicting");
    rewrite::rewrite(api, ticket, target, admitted, false, |pod| {
        for (wanted, at, what) in [
            (&options.uid, "/metadata/uid", "UID"),
            (&options.resource_version, "/metadata/resourceVersion", "ResourceVersion"),
        ] {
            let have = text_at(pod, at).unwrap_or_default();
            if let Some(wanted) = wanted.as_ref().filter(|w| **w != have) {
                let rest = if what == "UID" { "deleted and then recreated" } else { "modified" };
                return Err(Status::conflict(
                    "",
                    "Pod",
                    &target.name,
                    &format!("the {what} in the precondition ({wanted}) does not match the {what} in record ({have}). The object might have been {rest}"),
                ));
            }
        }
        let mut pod = pod.clone();
        set_condition(&mut pod, "DisruptionTarget", "True", Some(why), &now);
        Ok(pod)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_one_by_one() {
        let budget = json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 2, "currentHealthy": 2}});
        let spent = spend(&budget, "b", "p", "t").expect("one left");
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
        assert_eq!(spent["status"]["disruptedPods"]["p"], "t");
        let refused = spend(&spent, "b", "q", "t").expect_err("none left");
        assert_eq!(refused.code, 429);
        let causes = &refused.details.as_ref().expect("details").causes;
        assert_eq!(
            causes[0].message,
            "The disruption budget b needs 2 healthy pods and has 2 currently"
        );
    }

    #[test]
    fn a_refusal_says_why() {
        let cause = |status: Value| {
            let budget = json!({"metadata": {"generation": 1}, "status": status});
            let refused = spend(&budget, "b", "p", "t").expect_err("refused");
            let causes = refused.details.clone().map(|d| d.causes).unwrap_or_default();
            causes.first().map_or(refused.message, |c| c.message.clone())
        };
        for (status, expected) in [
            (
                json!({}),
                "The disruption budget b is still being processed by the server.",
            ),
            (
                json!({"observedGeneration": 1, "conditions": [{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "x"}]}),
                "The disruption budget b does not allow evicting pods currently because it failed sync: x",
            ),
            (
                json!({"observedGeneration": 1, "currentHealthy": 1}),
                "The disruption budget b does not allow evicting pods currently",
            ),
        ] {
            assert_eq!(cause(status), expected);
        }
    }
}
