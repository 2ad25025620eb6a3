//! What the server writes when it starts: system namespaces, the bootstrap policy, priority classes, the `kubernetes`
//! Service with its endpoints, the default ServiceCIDR, and the authentication ConfigMap for extension servers.
//!
//! Everything goes through the registry as user `system:apiserver`, so admission and validation see it. Several
//! servers may do this at once: who loses a race takes the other's result. What exists is only read.

mod endpoints;
mod objects;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use steersman_auth::bootstrap::{self, Action};
use steersman_schema::status::Status;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::call::{Authorized, Target};
use crate::options::{DeleteOptions, FieldValidation, WriteOptions};
use crate::registry::{create, delete, managed, object, update};
use crate::routes::RequestInfo;

/// Objects that are written at the same time.
const AT_ONCE: usize = 32;
/// How often endpoints are refreshed (upstream: 10 s).
const ENDPOINTS_EVERY: Duration = Duration::from_secs(10);
/// How often system namespaces are looked after (upstream: a minute).
const NAMESPACES_EVERY: Duration = Duration::from_secs(60);
/// Pause after a failed attempt.
const AGAIN: Duration = Duration::from_millis(500);

/// Writes what is missing, then keeps it up to date until the server stops.
pub async fn run(api: Arc<Api>, stop: CancellationToken) {
    loop {
        match once(&api).await {
            Ok(()) => break,
            Err(status) => tracing::warn!(error = %status.message, "start-up objects are not complete yet"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    api.health.bootstrapped.store(true, Ordering::Release);
    tracing::info!("start-up objects are in place");
    let mut endpoints = tokio::time::interval(ENDPOINTS_EVERY);
    let mut namespaces = tokio::time::interval(NAMESPACES_EVERY);
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => break,
            _ = endpoints.tick() => endpoints::reconcile(&api).await,
            _ = namespaces.tick() => ensure_all(&api, objects::namespaces()).await,
        };
        if let Err(status) = outcome {
            tracing::warn!(error = %status.message, "a start-up object could not be refreshed");
        }
    }
    endpoints::withdraw(&api).await;
}

async fn once(api: &Api) -> Result<(), Status> {
    ensure_all(api, objects::namespaces()).await?;
    let mut wanted = objects::priority_classes();
    wanted.push(objects::service_cidr(&api.services));
    wanted.extend(objects::authentication_config(api)?);
    let (rest, policy) = tokio::join!(ensure_all(api, wanted), policy(api));
    rest?;
    policy?;
    objects::mark_cidr_ready(api).await?;
    ensure_all(api, vec![objects::kubernetes_service(api)]).await?;
    endpoints::reconcile(api).await
}

/// Creates what does not exist.
async fn ensure_all(api: &Api, wanted: Vec<Value>) -> Result<(), Status> {
    let outcomes: Vec<Result<(), Status>> = futures::stream::iter(wanted)
        .map(|object| async move { ensure(api, object).await })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    outcomes.into_iter().collect()
}

async fn ensure(api: &Api, wanted: Value) -> Result<(), Status> {
    let (ticket, target) = address(api, &wanted)?;
    if api.cache.get(&target.key()).is_some() {
        return Ok(());
    }
    write_new(api, &ticket, &target, wanted).await
}

async fn write_new(api: &Api, ticket: &Authorized, target: &Target, mut wanted: Value) -> Result<(), Status> {
    steersman_schema::defaults::apply(&mut wanted);
    (target.resource.kind.default)(&mut wanted);
    let collection = Target {
        name: String::new(),
        ..target.clone()
    };
    managed::track(api, ticket, &collection, &options(), None, &mut wanted);
    match create::object_of(api, ticket, &collection, wanted, &options()).await {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}

/// Roles and bindings: missing ones are made, existing ones get what they lack.
async fn policy(api: &Api) -> Result<(), Status> {
    let one = |wanted: Value| async move {
        let (ticket, target) = address(api, &wanted)?;
        let Some(found) = api.cache.get(&target.key()) else {
            return write_new(api, &ticket, &target, wanted).await;
        };
        let existing = object::value(&target.resource, &found)?;
        match bootstrap::reconcile(&existing, &wanted) {
            Action::Nothing => Ok(()),
            Action::Update(updated) => replace(api, &ticket, &target, updated).await,
            Action::Recreate(wanted) => {
                let options = DeleteOptions {
                    uid: Some(found.uid().to_owned()),
                    ..DeleteOptions::default()
                };
                delete::object_of(api, &ticket, &target, &options).await?;
                write_new(api, &ticket, &target, wanted).await
            }
        }
    };
    let outcomes: Vec<Result<(), Status>> = futures::stream::iter(bootstrap::policy())
        .map(one)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    outcomes.into_iter().collect()
}

/// Replaces an object by another that was made from its newest state.
async fn replace(api: &Api, ticket: &Authorized, target: &Target, new: Value) -> Result<(), Status> {
    let options = options();
    let change = update::Change {
        api,
        ticket,
        target,
        options: &options,
        gvk: &target.resource.gvk,
        options_kind: "UpdateOptions",
        may_create: false,
        applies: false,
    };
    let outcome = change.run(|_| std::future::ready(Ok(new.clone()))).await;
    match outcome {
        // Another server was faster: it wants the same.
        Err(status) if status.reason == "Conflict" => Ok(()),
        other => other.map(|_| ()),
    }
}

fn options() -> WriteOptions {
    WriteOptions {
        dry_run: false,
        field_manager: "kube-apiserver".to_owned(),
        field_validation: FieldValidation::Ignore,
        force: false,
    }
}

/// The path under which an object is written, with the ticket for it.
fn address(api: &Api, object: &Value) -> Result<(Authorized, Target), Status> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = steersman_schema::facts::split_api_version(text("/apiVersion"));
    let resource = api
        .resources
        .all()
        .iter()
        .find(|r| {
            r.facts.group == group && r.facts.version == version && r.facts.kind == text("/kind") && r.facts.stored()
        })
        .ok_or_else(|| Status::internal(format!("{group}/{version} {} is not served", text("/kind"))))?;
    let info = RequestInfo {
        is_resource: true,
        verb: "create".to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: text("/metadata/namespace").to_owned(),
        resource: resource.facts.plural.to_owned(),
        name: text("/metadata/name").to_owned(),
        ..RequestInfo::default()
    };
    let target = Target::of(resource.clone(), &info);
    Ok((Authorized::own(info), target))
}
