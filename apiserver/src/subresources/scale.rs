//! `…/scale`: the replica count alone, as autoscaling/v1 Scale.

use std::sync::Arc;

use http::Response;
use serde_json::Value;
use steersman_schema::facts::Gvk;
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::options::WriteOptions;
use crate::registry::patch::Patch;
use crate::registry::update::{Change, check_identity};
use crate::registry::{decode, get};
use crate::{negotiate, respond};

/// Answers GET, PUT and PATCH.
///
/// # Errors
/// As the verbs of the object itself.
pub async fn serve(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let verb = call.info.verb.as_str();
    let gvk = Gvk::new("autoscaling", "v1", "Scale");
    if verb == "get" {
        let found = get::value(api, target).await?;
        return respond::object(&output, 200, &of(target, &found)?);
    }
    let patching = verb == "patch";
    let options_kind = if patching { "PatchOptions" } else { "UpdateOptions" };
    let options = WriteOptions::read(&call.query, options_kind)?;
    let wanted = if patching {
        Wanted::Patch(Patch::read(call).await?)
    } else {
        let media = negotiate::input(&call.headers)?;
        let body = call.read_body().await?;
        let scale = decode::object(call, media, &body, &gvk, options.field_validation)?;
        check_identity(&scale, target)?;
        Wanted::Scale(scale)
    };
    // The object itself is what changes; validation and admission see it, under the subresource's name.
    let change = Change {
        api,
        ticket,
        target,
        options: &options,
        gvk: &gvk,
        options_kind,
        may_create: false,
        applies: false,
    };
    let changed = change
        .run(|old: Option<Arc<Value>>| {
            let outcome = match old {
                Some(old) => scaled(ticket, target, &wanted, &old, &options),
                None => Err(target.not_found()),
            };
            async move { outcome }
        })
        .await?;
    respond::object(&output, 200, &of(target, &changed.object)?)
}

enum Wanted {
    Scale(Value),
    Patch(Patch),
}

fn of(target: &Target, object: &Value) -> Result<Value, Status> {
    steersman_kinds::scale::from_object(target.resource.kind, object).ok_or_else(Status::no_such_path)
}

fn scaled(
    ticket: &Authorized,
    target: &Target,
    wanted: &Wanted,
    old: &Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let scale = match wanted {
        Wanted::Scale(scale) => scale.clone(),
        Wanted::Patch(patch) => {
            let current = of(target, old)?;
            let patched = patch.apply(ticket.call(), &current, options.field_validation)?;
            check_identity(&patched, target)?;
            patched
        }
    };
    let errors = steersman_kinds::scale::validate(&scale);
    if !errors.is_empty() {
        return Err(Status::invalid("autoscaling", "Scale", &target.name, &errors));
    }
    let mut new = old.clone();
    if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        // Without a version the count is set whatever the object is now.
        metadata.remove("resourceVersion");
    }
    steersman_kinds::scale::into_object(target.resource.kind, &scale, &mut new);
    Ok(new)
}
