//! DELETE of a collection: list, then delete one by one.

use http::Response;
use serde_json::{Value, json};
use steersman_schema::status::Status;

use super::{delete, list};
use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::options::ListOptions;
use crate::{negotiate, respond};

/// Answers a deletecollection: the list of what was there.
///
/// # Errors
/// The first delete that fails, other than by finding nothing.
pub async fn delete(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let list_options = ListOptions::read(&call.query, false, &target.resource)?;
    let options = delete::read_options(call).await?;
    let selected = list::select(api, target, &list_options).await?;
    let resource = &target.resource;
    for object in &selected.objects {
        let one = Target {
            resource: resource.clone(),
            namespace: object.namespace(&resource.prefix).to_owned(),
            name: object.name().to_owned(),
            subresource: String::new(),
        };
        match delete::object_of(api, ticket, &one, &options).await {
            Ok(_) => {}
            Err(status) if status.reason == "NotFound" => {}
            Err(status) => return Err(status),
        }
    }
    let items: Vec<Value> = list::values(resource, &selected.objects)?
        .into_iter()
        .map(|mut item| {
            if let Some(item) = item.as_object_mut() {
                item.remove("apiVersion");
                item.remove("kind");
            }
            item
        })
        .collect();
    let whole = json!({
        "apiVersion": resource.api_version,
        "kind": resource.list_kind,
        "metadata": list::metadata(&selected),
        "items": items,
    });
    respond::object(&output, 200, &whole)
}
