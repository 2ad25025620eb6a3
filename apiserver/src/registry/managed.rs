//! Who owns the fields of what is written: [`steersman_fieldmanager`] with what a request says of its writer.
//!
//! Called for every write by which a client gives an object or a part of it (create, update, patch, apply, and these on
//! subresources), before admission changes anything: what admission adds is nobody's. Bindings, evictions and deletions
//! own nothing.

use std::sync::LazyLock;

use serde_json::Value;
use steersman_fieldmanager::set::Set;
use steersman_fieldmanager::{Conflict, FieldManager, Refusal, conflict_message};
use steersman_schema::facts::{Type, facts, split_api_version};
use steersman_schema::status::Status;

pub use steersman_fieldmanager::managers::keep_times;

use super::convert;
use crate::api::Api;
use crate::call::{Authorized, Target};
use crate::options::WriteOptions;
use crate::resources::Resource;

/// Upstream's `FieldManagerMaxLength`.
const MAX_NAME: usize = 128;

/// Writes into `new` who owns what after this request made it of `live` (`None`: created it).
pub fn track(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    options: &WriteOptions,
    live: Option<&Value>,
    new: &mut Value,
) {
    with(api, ticket, target, |fields| {
        fields.update(live, new, &writer(ticket, options))
    });
}

/// Applies a configuration to the live object (`None`: there is none): the result, with its owners, not defaulted.
///
/// # Errors
/// 409 with the conflicting fields, 400 for a wrong request or a kind that the table does not know, 500 (as upstream) for
/// fields that the kind does not have.
pub fn apply(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    options: &WriteOptions,
    live: Option<&Value>,
    config: &Value,
) -> Result<Value, Status> {
    let resource = &target.resource;
    let nothing = serde_json::json!({"apiVersion": resource.api_version, "kind": resource.gvk.kind});
    let live = live.unwrap_or(&nothing);
    with(api, ticket, target, |fields| {
        fields.apply(live, config, &options.field_manager, options.force)
    })
    .unwrap_or_else(|| Err(Refusal::Bad(format!("invalid object type: {}", resource.gvk.kind))))
    .map_err(|refusal| match refusal {
        Refusal::Conflicts(conflicts) => conflict(&conflicts),
        Refusal::Bad(why) => Status::bad_request(why),
        Refusal::Misfit(why) => Status::new(500, "", why),
    })
}

fn conflict(conflicts: &[Conflict]) -> Status {
    let status = Status::new(409, "Conflict", conflict_message(conflicts));
    conflicts.iter().fold(status, |status, conflict| {
        let what = format!("conflict with {}", conflict.manager);
        status.with_cause("FieldManagerConflict", what, &conflict.field())
    })
}

/// Runs with everything that decides about ownership; `None` for kinds that the table does not know.
fn with<T>(api: &Api, ticket: &Authorized, target: &Target, run: impl FnOnce(&FieldManager<'_>) -> T) -> Option<T> {
    let resource = &target.resource;
    let ty = facts().kind_of(&resource.api_version, &resource.gvk.kind)?;
    let convert = |object: &Value, version: &str| in_version(api, resource, object, version);
    Some(run(&FieldManager {
        ty,
        version: &resource.api_version,
        subresource: &target.subresource,
        reset: reset_fields(resource, &target.subresource),
        convert: &convert,
        now: &ticket.call().now_text(),
    }))
}

/// An object of this resource in another version that is served.
fn in_version(api: &Api, resource: &Resource, object: &Value, version: &str) -> Option<(Value, &'static Type)> {
    let find = |version: &str| {
        let (group, version) = split_api_version(version);
        let found = api.resources.find(group, version, resource.plural())?;
        (found.stored_gvk == resource.stored_gvk).then_some(found)
    };
    let from = find(object.get("apiVersion")?.as_str()?)?;
    let to = find(version)?;
    let mut value = object.clone();
    convert::to_stored(from, &mut value);
    convert::to_served(to, &mut value);
    Some((value, facts().kind_of(&to.api_version, &to.gvk.kind)?))
}

/// The writer's name: what it calls itself, or the program that its `User-Agent` names.
fn writer(ticket: &Authorized, options: &WriteOptions) -> String {
    if !options.field_manager.is_empty() {
        return options.field_manager.clone();
    }
    let headers = &ticket.call().headers;
    let agent = headers
        .get(http::header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let program = agent.split('/').next().unwrap_or_default();
    let mut name = String::new();
    for c in program.chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        name.push(c);
    }
    name
}

/// What a write of this resource cannot change (upstream: `GetResetFields` of its strategies).
fn reset_fields(resource: &Resource, subresource: &str) -> &'static Set {
    static STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["status"]));
    static SPEC: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["spec"]));
    static BOTH: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["spec", "metadata"]));
    static POD: LazyLock<Set> =
        LazyLock::new(|| Set::of_fields(&["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"]));
    static DEPLOYMENT: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["spec", "metadata.labels"]));
    static REQUEST: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["spec", "status"]));
    static REQUEST_STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["spec", "status.conditions"]));
    static REQUEST_APPROVAL: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["spec", "status.certificate"]));
    static NONE: LazyLock<Set> = LazyLock::new(Set::default);
    match (resource.group(), resource.plural(), subresource) {
        (_, "certificatesigningrequests", "") => &REQUEST,
        (_, "certificatesigningrequests", "status") => &REQUEST_STATUS,
        (_, "certificatesigningrequests", "approval") => &REQUEST_APPROVAL,
        ("", "namespaces", "finalize") => &STATUS,
        (_, _, "") if resource.kind.status.is_some() => &STATUS,
        ("", "pods", "status") => &POD,
        ("apps", "deployments", "status") => &DEPLOYMENT,
        (
            "admissionregistration.k8s.io"
            | "apiextensions.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "resource.k8s.io"
            | "storage.k8s.io",
            _,
            "status",
        )
        | ("networking.k8s.io", "servicecidrs", "status") => &BOTH,
        (_, _, "status") => &SPEC,
        _ => &NONE,
    }
}
