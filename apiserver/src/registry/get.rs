//! GET of one object.

use std::sync::Arc;

use http::Response;
use serde_json::Value;
use steersman_schema::status::Status;
use steersman_storage::cache::Object;

use super::{cache_refusal, object, transform};
use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::negotiate::{self, Transform};
use crate::options::parse_version;
use crate::respond;
use crate::routes::path_segment_faults;

/// Answers a GET.
///
/// # Errors
/// 404, or what the cache cannot do.
pub async fn get(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let found = find(api, target, call.query.get("resourceVersion").unwrap_or_default()).await?;
    let resource = &target.resource;
    if output.transform == Transform::None && !output.pretty {
        let bytes = object::bytes(&api.cache, resource, &found, output.media, object::Form::Whole)?;
        return Ok(respond::encoded(&output, 200, bytes));
    }
    let value = object::value(resource, &found)?;
    let value = transform::object(resource, value, &output, &call.query, call.now)?;
    respond::object(&output, 200, &value)
}

/// The object as fresh as `version` asks: empty is the newest there is, `0` any, a number at least that new.
///
/// # Errors
/// 404, 504 when the version does not come, 503 when the store cannot tell.
pub async fn find(api: &Api, target: &Target, version: &str) -> Result<Arc<Object>, Status> {
    check_name(&target.name)?;
    let resource = &target.resource;
    match version {
        "" => {
            api.fresh()
                .await
                .map_err(|error| cache_refusal(error, resource, "get"))?;
        }
        "0" => {
            if !api.cache.is_ready() {
                return Err(cache_refusal(
                    steersman_storage::cache::Error::NotReady,
                    resource,
                    "get",
                ));
            }
        }
        version => {
            let revision = parse_version(version)?;
            api.cache
                .wait_for(revision)
                .await
                .map_err(|error| cache_refusal(error, resource, "get"))?;
        }
    }
    api.cache.get(&target.key()).ok_or_else(|| target.not_found())
}

/// The newest state of an object as a value.
///
/// # Errors
/// As [`find`].
pub async fn value(api: &Api, target: &Target) -> Result<Value, Status> {
    let found = find(api, target, "").await?;
    object::value(&target.resource, &found)
}

/// Refuses names that cannot be part of a key.
///
/// # Errors
/// 400 with upstream's text.
pub fn check_name(name: &str) -> Result<(), Status> {
    match path_segment_faults(name).as_slice() {
        [] if name.is_empty() => Err(Status::bad_request("Name parameter required.")),
        [] => Ok(()),
        faults => Err(Status::bad_request(format!(
            "Name parameter invalid: {name:?}: {}",
            faults.join(";")
        ))),
    }
}
