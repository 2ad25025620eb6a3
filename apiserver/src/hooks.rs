//! What a few kinds need around a write that is not a pure function of the object: addresses and ports of Services, the
//! life of Events, the rules against escalation, the two-step end of a Namespace.
//!
//! Called by the registry at fixed places, for every kind; each function is one `match` on the resource. A reservation
//! made before a write is released when the write does not happen.

use std::time::Duration;

use serde_json::Value;
use steersman_auth::authz::rbac::escalation;
use steersman_kinds::Kind;
use steersman_schema::status::Status;

use crate::api::Api;
use crate::call::{Authorized, Target};
use crate::resources::Resource;
use crate::services;

/// What was taken for a write and must be given back if it fails.
#[derive(Default)]
pub struct Reservation {
    /// Given back when the write fails.
    taken: services::Taken,
    /// Given back when the write succeeds: what the object no longer uses.
    freed: services::Taken,
}

/// Before a new object is prepared and validated.
///
/// # Errors
/// What the kind refuses.
pub async fn before_create(
    api: &Api,
    ticket: &Authorized,
    resource: &Resource,
    object: &mut Value,
    dry_run: bool,
) -> Result<Reservation, Status> {
    if resource.is("", "services") {
        let taken = api.services.allocate(api, object, None, dry_run).await?;
        return Ok(Reservation {
            taken,
            freed: services::Taken::default(),
        });
    }
    if resource.group() == escalation_group() {
        may_grant(api, ticket, resource, object, None).await?;
    }
    Ok(Reservation::default())
}

/// Before a changed object is prepared and validated.
///
/// # Errors
/// What the kind refuses.
pub async fn before_update(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    new: &mut Value,
    old: &Value,
    dry_run: bool,
) -> Result<Reservation, Status> {
    let resource = &target.resource;
    if resource.is("", "services") && target.subresource.is_empty() {
        services::patch_allocated_values(new, old);
        let taken = api.services.allocate(api, new, Some(old), dry_run).await?;
        let freed = services::released(new, old);
        return Ok(Reservation { taken, freed });
    }
    if resource.group() == escalation_group() {
        may_grant(api, ticket, resource, new, Some(old)).await?;
    }
    Ok(Reservation::default())
}

/// The write did not happen.
pub async fn release(api: &Api, reservation: Reservation) {
    api.services.release(api, reservation.taken).await;
}

/// A new object is in the store.
pub async fn created(_api: &Api, _reservation: Reservation) {}

/// A changed object is in the store.
pub async fn updated(api: &Api, reservation: Reservation) {
    api.services.release(api, reservation.freed).await;
}

/// An object is gone from the store.
pub async fn deleted(api: &Api, resource: &Resource, object: &Value) {
    if resource.is("", "services") {
        api.services.release(api, services::used(object)).await;
    }
}

fn escalation_group() -> &'static str {
    steersman_auth::authz::rbac::GROUP
}

async fn may_grant(
    api: &Api,
    ticket: &Authorized,
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if ticket.user().has_group("system:masters") {
        return Ok(());
    }
    // What the user holds must be what the store says now.
    api.fresh()
        .await
        .map_err(|error| crate::registry::cache_refusal(error, resource, "create"))?;
    let info = ticket.info();
    let write = escalation::Write {
        user: ticket.user(),
        plural: resource.plural(),
        namespace: if resource.facts.namespaced { &info.namespace } else { "" },
        name: &info.name,
        object,
        old,
    };
    escalation::check(&write, &api.rbac, api.authorizer.as_ref(), api.lister.as_ref()).map_err(|status| *status)
}

/// How long an object lives by itself.
pub fn ttl(api: &Api, resource: &Resource) -> Option<Duration> {
    let ttl = api.options.etcd.event_ttl.0;
    (resource.plural() == "events" && !ttl.is_zero()).then_some(ttl)
}

/// Whether a delete answers with the object instead of a Status (upstream: `ReturnDeletedObject`).
pub fn returns_object(resource: &Resource) -> bool {
    match resource.group() {
        "" => matches!(
            resource.plural(),
            "namespaces"
                | "persistentvolumeclaims"
                | "persistentvolumes"
                | "pods"
                | "podtemplates"
                | "resourcequotas"
                | "serviceaccounts"
                | "services"
        ),
        "storage.k8s.io" => resource.plural() != "csistoragecapacities",
        "resource.k8s.io" => true,
        _ => false,
    }
}

/// Whether something in the object itself delays its removal: a Namespace's own finalizers.
pub fn holds_itself(kind: &Kind, object: &Value) -> bool {
    is_namespace(kind.group, kind.plural) && namespace_is_held(object)
}

/// What else changes when deletion begins: a Namespace says that it is terminating.
pub fn mark_dying(kind: &Kind, object: &mut Value) {
    if is_namespace(kind.group, kind.plural) {
        object["status"]["phase"] = "Terminating".into();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("deletionGracePeriodSeconds");
        }
    }
}

/// Whether an object whose last finalizer went may go too.
pub fn may_go(resource: &Resource, object: &Value) -> bool {
    !(is_namespace(resource.group(), resource.plural()) && namespace_is_held(object))
}

fn is_namespace(group: &str, plural: &str) -> bool {
    group.is_empty() && plural == "namespaces"
}

fn namespace_is_held(object: &Value) -> bool {
    object
        .pointer("/spec/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty())
}
