//! `serviceaccounts/token`: TokenRequest.

use http::Response;
use serde_json::Value;
use steersman_admission::Operation;
use steersman_schema::facts::Gvk;
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::options::WriteOptions;
use crate::registry::admit::Admission;
use crate::registry::{decode, get};
use crate::{negotiate, respond};

/// Mints a token.
///
/// # Errors
/// 404 without the account or the object it is bound to, 422 for bad requests.
pub async fn create(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let media = negotiate::input(&call.headers)?;
    call.stage("decode");
    let body = call.read_body().await?;
    let gvk = Gvk::new("authentication.k8s.io", "v1", "TokenRequest");
    let request = decode::object(call, media, &body, &gvk, options.field_validation)?;
    let admission = Admission {
        api,
        ticket,
        target,
        gvk: &gvk,
        operation: Operation::Create,
        options: options.to_value("CreateOptions"),
        dry_run: options.dry_run,
    };
    let request = admission.mutate(request, None).await?;
    // The account and what the token is bound to must be the newest there are.
    let account = get::value(api, target).await?;
    call.stage("validate");
    let issuer = &api.issuer;
    let request = issuer
        .prepare(request, &target.namespace, &target.name, &account, call.now)
        .map_err(|status| *status)?;
    let request = admission.validate(request, None).await?.into_object();
    let id = uuid::Uuid::new_v4().to_string();
    let minted = issuer
        .mint(request, &account, api.lister.as_ref(), call.now, &id)
        .map_err(|status| *status)?;
    minted.warnings.iter().for_each(|text| call.warn(text));
    if options.dry_run {
        let mut object = minted.object;
        // A token that works is a token that was made.
        if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
            status.insert("token".into(), "".into());
        }
        return respond::object(&output, 201, &object);
    }
    respond::object(&output, 201, &minted.object)
}
