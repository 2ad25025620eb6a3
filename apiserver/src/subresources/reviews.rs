//! Resources that are questions: the access reviews, TokenReview, SelfSubjectReview. Nothing is stored; the answer is
//! the object with its status. Also `bindings`, the older way to bind a pod.

use http::Response;
use serde_json::Value;
use steersman_admission::Operation;
use steersman_auth::review;
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
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
    let output = negotiate::output_without_table(&call.headers, &call.query)?;
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
    let review = admission.validate(review, None).await?.into_object();
    call.stage("validate");
    let (user, authorizer) = (ticket.user(), api.authorizer.as_ref());
    let review = match resource.plural() {
        "tokenreviews" => Ok(token(api, ticket, review).await?),
        "selfsubjectreviews" => Ok(review::self_subject(user, call.now)),
        "selfsubjectrulesreviews" => review::self_subject_rules(&review, user, authorizer),
        "subjectaccessreviews" => review::subject_access(review, authorizer),
        "localsubjectaccessreviews" => review::local_subject_access(review, &target.namespace, authorizer),
        "selfsubjectaccessreviews" => review::self_subject_access(review, user, authorizer),
        _ => return Err(Status::method_not_allowed()),
    };
    let review = review.map_err(|status| *status)?;
    respond::object(&output, 201, &review)
}

/// A token that names an object which the cache does not have yet is looked at twice.
async fn token(api: &Api, ticket: &Authorized, asked: Value) -> Result<Value, Status> {
    let now = ticket.call().now;
    let (answer, stale) = review::token(asked.clone(), &api.authenticator, now).map_err(|status| *status)?;
    if !stale || api.fresh().await.is_err() {
        return Ok(answer);
    }
    let (answer, _) = review::token(asked, &api.authenticator, now).map_err(|status| *status)?;
    Ok(answer)
}
