//! Resources that are questions: the access reviews, TokenReview, SelfSubjectReview. Nothing is stored; the answer is
//! the object with its status. Also `bindings`, the older way to bind a pod.

use http::Response;
use serde_json::{Map, Value, json};
use steersman_admission::Operation;
use steersman_auth::authz::{Attributes, Decision, Outcome, Rule};
use steersman_auth::{User, UserInfo};
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target, seconds};
use crate::options::WriteOptions;
use crate::registry::admit::Admission;
use crate::registry::decode;
use crate::{negotiate, respond};

/// Whether a resource is answered here.
pub fn is_review(target: &Target) -> bool {
    !target.resource.facts.stored() && target.resource.plural() != "componentstatuses"
}

/// Answers a create of a resource that is not stored.
///
/// # Errors
/// 400 and 422 for bad questions.
pub async fn create(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    if target.resource.is("", "bindings") {
        return super::binding::legacy(api, ticket, target).await;
    }
    let call = ticket.call();
    let resource = &target.resource;
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let media = negotiate::input(&call.headers)?;
    call.stage("decode");
    let body = call.read_body().await?;
    let review = decode::object(call, media, &body, &resource.gvk, options.field_validation)?;
    let admission = Admission {
        api,
        ticket,
        target,
        gvk: &resource.gvk,
        operation: Operation::Create,
        options: options.to_value("CreateOptions"),
        dry_run: options.dry_run,
    };
    let review = admission.mutate(review, None).await?;
    let mut review = admission.validate(review, None).await?.into_object();
    call.stage("validate");
    match resource.plural() {
        "tokenreviews" => token_review(api, ticket, &mut review)?,
        "selfsubjectreviews" => self_subject(ticket, &mut review),
        "selfsubjectrulesreviews" => rules(api, ticket, &mut review)?,
        "subjectaccessreviews" | "localsubjectaccessreviews" | "selfsubjectaccessreviews" => {
            access(api, ticket, target, &mut review)?
        }
        _ => return Err(Status::method_not_allowed()),
    }
    respond::object(&output, 201, &review)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn strings(value: &Value, pointer: &str) -> Vec<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn token_review(api: &Api, ticket: &Authorized, review: &mut Value) -> Result<(), Status> {
    let token = text(review, "/spec/token").to_owned();
    if token.is_empty() {
        return Err(Status::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let audiences = strings(review, "/spec/audiences");
    // The token itself does not come back.
    review["spec"]["token"] = token.clone().into();
    review["status"] = match api.authenticator.token(&token, &audiences, ticket.call().now) {
        Ok(found) => {
            let mut status = json!({"authenticated": true, "user": found.user.to_value()});
            if !found.audiences.is_empty() {
                status["audiences"] = json!(found.audiences);
            }
            status
        }
        Err(why) => json!({"user": {}, "error": why.to_string()}),
    };
    Ok(())
}

fn self_subject(ticket: &Authorized, review: &mut Value) {
    review["metadata"]["creationTimestamp"] = seconds(ticket.call().now).into();
    review["status"] = json!({"userInfo": ticket.user().to_value()});
}

fn rules(api: &Api, ticket: &Authorized, review: &mut Value) -> Result<(), Status> {
    let namespace = text(review, "/spec/namespace").to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let rules = api.authorizer.rules_for(ticket.user(), &namespace);
    let resource = |rule: &&Rule| rule.paths.is_empty();
    let put = |out: &mut Map<String, Value>, key: &str, list: &[String]| {
        if !list.is_empty() {
            out.insert(key.to_owned(), json!(list));
        }
    };
    let resource_rules: Vec<Value> = rules
        .rules
        .iter()
        .filter(resource)
        .map(|rule| {
            let mut out = Map::new();
            out.insert("verbs".into(), json!(rule.verbs));
            put(&mut out, "apiGroups", &rule.groups);
            put(&mut out, "resources", &rule.resources);
            put(&mut out, "resourceNames", &rule.resource_names);
            if rule.groups.is_empty() {
                out.insert("apiGroups".into(), json!([""]));
            }
            Value::Object(out)
        })
        .collect();
    let path_rules: Vec<Value> = rules
        .rules
        .iter()
        .filter(|rule| !rule.paths.is_empty())
        .map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}))
        .collect();
    let mut status =
        json!({"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": rules.incomplete});
    if let Some(error) = rules.error {
        status["evaluationError"] = error.into();
    }
    review["status"] = status;
    Ok(())
}

fn access(api: &Api, ticket: &Authorized, target: &Target, review: &mut Value) -> Result<(), Status> {
    let kind = target.resource.gvk.kind.as_str();
    let own = kind == "SelfSubjectAccessReview";
    let errors = access_faults(review, own, kind, &target.namespace);
    if !errors.is_empty() {
        return Err(Status::invalid("authorization.k8s.io", kind, "", &errors));
    }
    let user: User = if own {
        ticket.user().clone()
    } else {
        subject(review).into()
    };
    let mut what = Attributes {
        user,
        ..Attributes::default()
    };
    if let Some(resource) = review.pointer("/spec/resourceAttributes") {
        what.resource_request = true;
        what.verb = text(resource, "/verb").into();
        what.group = text(resource, "/group").into();
        what.version = text(resource, "/version").into();
        what.resource = text(resource, "/resource").into();
        what.subresource = text(resource, "/subresource").into();
        what.namespace = text(resource, "/namespace").into();
        what.name = text(resource, "/name").into();
        if what.version.is_empty() {
            what.version = "*".into();
        }
    } else {
        what.verb = text(review, "/spec/nonResourceAttributes/verb").into();
        what.path = text(review, "/spec/nonResourceAttributes/path").into();
    }
    review["status"] = status_of(&api.authorizer.authorize(&what));
    Ok(())
}

fn status_of(outcome: &Outcome) -> Value {
    let mut status = json!({"allowed": outcome.allowed()});
    if outcome.decision == Decision::Deny {
        status["denied"] = true.into();
    }
    if !outcome.reason.as_str().is_empty() {
        status["reason"] = outcome.reason.as_str().into();
    }
    if let Some(error) = &outcome.error {
        status["evaluationError"] = error.as_str().into();
    }
    status
}

fn subject(review: &Value) -> UserInfo {
    let extra = review
        .pointer("/spec/extra")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    UserInfo {
        name: text(review, "/spec/user").into(),
        uid: text(review, "/spec/uid").into(),
        groups: strings(review, "/spec/groups"),
        extra: extra
            .map(|(key, value)| (key.to_lowercase(), strings(value, "")))
            .collect(),
    }
}

fn access_faults(review: &Value, own: bool, kind: &str, namespace: &str) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let spec = Path::new("spec");
    let has = |key: &str| {
        review
            .pointer(&format!("/spec/{key}"))
            .is_some_and(|value| !value.is_null())
    };
    match (has("resourceAttributes"), has("nonResourceAttributes")) {
        (true, true) => {
            let path = spec.child("nonResourceAttributes");
            errors.push(FieldError::invalid(
                &path,
                &review["spec"]["nonResourceAttributes"],
                "cannot be specified in combination with resourceAttributes",
            ));
        }
        (false, false) => {
            let path = spec.child("resourceAttributes");
            errors.push(FieldError::invalid(
                &path,
                &Value::Null,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
        _ => {}
    }
    if !own && text(review, "/spec/user").is_empty() && strings(review, "/spec/groups").is_empty() {
        errors.push(FieldError::invalid(
            &spec.child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    if kind == "LocalSubjectAccessReview" {
        let inside = text(review, "/spec/resourceAttributes/namespace");
        if inside != namespace {
            let path = spec.child("resourceAttributes").child("namespace");
            errors.push(FieldError::invalid(&path, inside, "must match metadata.namespace"));
        }
        if has("nonResourceAttributes") {
            let path = spec.child("nonResourceAttributes");
            errors.push(FieldError::invalid(
                &path,
                &review["spec"]["nonResourceAttributes"],
                "disallowed on this kind of request",
            ));
        }
    }
    errors
}
