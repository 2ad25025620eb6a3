//! What is below an object's path. One file per behaviour; those that write the whole object (`status`, and what a
//! kind lists in `updates`) are the registry's own verbs.

pub mod binding;
pub mod component_status;
pub mod eviction;
mod links;
mod log_socket;
pub mod node_streams;
pub mod proxy;
pub mod reviews;
pub mod scale;
pub mod token;

use std::sync::Arc;

use http::Response;
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::registry::{get, patch, update};

/// Answers a request for a subresource.
///
/// # Errors
/// 404 for one that the resource does not have, 405 for a verb that it does not have.
pub async fn serve(api: &Arc<Api>, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let verb = ticket.info().verb.as_str();
    let facts = target.resource.facts;
    let Some(sub) = facts.subresource(&target.subresource) else {
        return Err(Status::no_such_path());
    };
    // A proxied backend may be asked for its options, for which there is no verb.
    let options = sub.name == "proxy" && ticket.call().method == http::Method::OPTIONS;
    if !sub.verbs.contains(&verb) && !options {
        return Err(Status::method_not_allowed());
    }
    let whole = sub.kind == facts.kind && sub.group == facts.group;
    match (facts.plural, sub.name, verb) {
        (_, "scale", _) => scale::serve(api, ticket, target).await,
        ("pods", "binding", _) => binding::pod(api, ticket, target).await,
        ("pods", "eviction", _) => eviction::create(api, ticket, target).await,
        ("serviceaccounts", "token", _) => token::create(api, ticket, target).await,
        ("pods", "log" | "exec" | "attach" | "portforward" | "proxy", _) | ("services" | "nodes", "proxy", _) => {
            node_streams::serve(api, ticket, target).await
        }
        (_, _, "get") if whole => get::get(api, ticket, target).await,
        (_, _, "update") if whole => update::update(api, ticket, target).await,
        (_, _, "patch") if whole => patch::patch(api, ticket, target).await,
        _ => Err(Status::method_not_allowed()),
    }
}
