//! POST to a collection.

use http::Response;
use serde_json::Value;
use steersman_admission::Operation;
use steersman_kinds::{Context, meta};
use steersman_schema::status::Status;
use steersman_storage::store;

use super::admit::{Admission, Admitted};
use super::{decode, managed, object, store_refusal, transform};
use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::options::WriteOptions;
use crate::{hooks, negotiate, respond};

/// Tries to find a free generated name (upstream: `maxNameGenerationCreateAttempts`).
const NAME_ATTEMPTS: usize = 8;

/// Answers a create.
///
/// # Errors
/// 400, 409, 422 and what admission and the store refuse.
pub async fn create(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let resource = &target.resource;
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let media = negotiate::input(&call.headers)?;
    call.stage("decode");
    let body = call.read_body().await?;
    let mut object = decode::resource_object(call, media, &body, resource, options.field_validation)?;
    managed::track(api, ticket, target, &options, None, &mut object);
    let created = object_of(api, ticket, target, object, &options).await?;
    let created = transform::object(resource, created, &output, &call.query, call.now)?;
    respond::object(&output, 201, &created)
}

/// Creates a decoded, defaulted object whose owners are known ([`managed`]): admission, preparation, validation, store.
/// What is returned carries its resourceVersion (none for a dry run).
///
/// # Errors
/// 400, 409, 422 and what admission and the store refuse.
pub async fn object_of(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    object: Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let generated = object
        .pointer("/metadata/generateName")
        .and_then(Value::as_str)
        .is_some_and(|base| !base.is_empty())
        && object
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty);
    let mut attempt = 1;
    loop {
        match once(api, ticket, target, object.clone(), options).await {
            Err(status) if generated && status.reason == "AlreadyExists" => {
                if attempt == NAME_ATTEMPTS {
                    let name = status
                        .details
                        .as_ref()
                        .map(|details| details.name.clone())
                        .unwrap_or_default();
                    return Err(Status::generate_name_conflict(
                        target.resource.group(),
                        target.resource.plural(),
                        &name,
                        1,
                    ));
                }
                attempt += 1;
            }
            other => return other,
        }
    }
}

async fn once(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    object: Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let resource = &target.resource;
    let call = ticket.call();
    let admission = Admission {
        api,
        ticket,
        target,
        gvk: &resource.gvk,
        operation: Operation::Create,
        options: options.to_value("CreateOptions"),
        dry_run: options.dry_run,
    };
    let mut object = object;
    wipe(&mut object);
    let namespace = resource.facts.namespaced.then_some(target.namespace.as_str());
    meta::ensure_namespace(&mut object, namespace).map_err(|error| Status::bad_request(error.to_string()))?;
    dedup_owners(call, &mut object, false);
    let mut object = admission.mutate(object, None).await?;
    dedup_owners(call, &mut object, true);
    let (admitted, reservation) = prepare(api, ticket, target, object, options, &admission).await?;
    if options.dry_run {
        hooks::release(api, reservation).await;
        let mut object = admitted.into_object();
        object::as_stored(resource, &mut object);
        return Ok(object);
    }
    call.stage("store");
    match store(api, target, admitted).await {
        Ok(created) => {
            hooks::created(api, reservation).await;
            Ok(created)
        }
        Err(status) => {
            hooks::release(api, reservation).await;
            Err(status)
        }
    }
}

/// System metadata, the kind's preparation, validation and validating admission; also used by updates that create.
pub(super) async fn prepare(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    mut object: Value,
    options: &WriteOptions,
    admission: &Admission<'_>,
) -> Result<(Admitted, hooks::Reservation), Status> {
    let resource = &target.resource;
    let call = ticket.call();
    call.stage("prepare");
    let version = object
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !matches!(version, "" | "0") {
        return Err(Status::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let namespace = resource.facts.namespaced.then_some(target.namespace.as_str());
    let uid = uuid::Uuid::new_v4().to_string();
    meta::prepare_create(
        resource.kind,
        &mut object,
        namespace,
        &uid,
        &call.now_text(),
        rand::random(),
    )
    .map_err(|error| Status::bad_request(error.to_string()))?;
    strip(&mut object);
    let reservation = hooks::before_create(api, ticket, resource, &mut object, options.dry_run).await?;
    let checked = check(ticket, target, &mut object);
    let outcome = match checked {
        Ok(()) => admission.validate(object, None).await,
        Err(status) => Err(status),
    };
    match outcome {
        Ok(admitted) => Ok((admitted, reservation)),
        Err(status) => {
            hooks::release(api, reservation).await;
            Err(status)
        }
    }
}

fn check(ticket: &Authorized, target: &Target, object: &mut Value) -> Result<(), Status> {
    let resource = &target.resource;
    let call = ticket.call();
    (resource.kind.prepare_create)(object, &context(ticket));
    call.stage("validate");
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let errors = (resource.kind.validate)(object);
    let own = meta::validate_create(object, resource.facts.namespaced, resource.kind.validate_name);
    let errors: Vec<_> = if meta::comes_last(resource.kind) && !errors.is_empty() {
        errors
    } else {
        own.into_iter().chain(errors).collect()
    };
    if !errors.is_empty() {
        // Upstream names the stored kind: events of events.k8s.io are core's.
        return Err(Status::invalid(
            &resource.stored_gvk.group,
            &resource.gvk.kind,
            &name,
            &errors,
        ));
    }
    (resource.kind.warnings)(object, None)
        .iter()
        .for_each(|text| call.warn(text));
    Ok(())
}

async fn store(api: &Api, target: &Target, admitted: Admitted) -> Result<Value, Status> {
    let resource = &target.resource;
    let mut object = admitted.into_object();
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    super::get::check_name(&name)?;
    let key = resource.key(&target.namespace, &name);
    let bytes = object::to_stored(resource, &object)?;
    let ttl = hooks::ttl(api, resource);
    let revision = api.store.create(&key, bytes, ttl).await.map_err(|error| match error {
        store::Error::AlreadyExists { .. } => exists(api, resource, &key, &name),
        other => store_refusal(other, resource, &name, "create"),
    })?;
    object::set_version(&mut object, revision);
    object::as_stored(resource, &mut object);
    Ok(object)
}

/// 409; when the one in the way is being deleted, it says so.
fn exists(api: &Api, resource: &crate::resources::Resource, key: &str, name: &str) -> Status {
    let mut status = Status::already_exists(resource.group(), resource.plural(), name);
    let dying = api
        .cache
        .get(key)
        .and_then(|found| object::value(resource, &found).ok());
    if dying.is_some_and(|found| found.pointer("/metadata/deletionTimestamp").is_some()) {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}

/// What a kind's functions may know.
pub fn context(ticket: &Authorized) -> Context {
    let user = ticket.user();
    Context {
        now: ticket.call().now_text(),
        user: user.name.clone(),
        groups: user.groups.clone(),
        uid: user.uid.clone(),
        extra: user.extra.clone(),
    }
}

/// Fields of metadata that a client cannot set.
fn wipe(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in [
            "creationTimestamp",
            "uid",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
        ] {
            metadata.remove(key);
        }
    }
}

/// What is not kept, so that an answer shows what is stored.
pub(super) fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("selfLink");
    }
}

/// Removes repeated owner references, with a warning.
pub(super) fn dedup_owners(call: &crate::call::Call, object: &mut Value, after_admission: bool) {
    let Some(owners) = object
        .pointer_mut("/metadata/ownerReferences")
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    let mut repeated = Vec::new();
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            repeated.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    if repeated.is_empty() {
        return;
    }
    call.warn(format!(
        ".metadata.ownerReferences contains duplicate entries{}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        if after_admission { " after mutating admission happens" } else { "" },
        repeated.join(", ")
    ));
}
