//! One request, top to bottom.
//!
//! [`handle`] is what happens to every request, in the order in which it happens. Each stage takes the ticket of the one
//! before, so none can be left out: `route` makes a [`Call`], `authenticate` turns it into [`Authenticated`],
//! `authorize` that into [`Authorized`], and every handler wants an `Authorized`. (Audit would begin after
//! authentication, and fair queuing stands where the seat is taken; both are for a later issue.)
//!
//! Three facts about writes, which live in [`crate::registry`]: for updates and patches everything from applying the
//! patch to validating admission runs *inside* the compare-and-swap retry, against the live object; a PUT that creates
//! is authorized again, as `create`; a watch is authorized when it begins and not again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, Response};
use steersman_auth::authz::{Attributes, Requirement, forbidden};
use steersman_auth::{User, authn};
use steersman_schema::selector::{FieldSelector, LabelSelector, Operator};
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::{Body, RequestBody};
use crate::call::{Authenticated, Authorized, Call, Target};
use crate::limits::Seat;
use crate::query::Query;
use crate::registry::{collection, create, delete, get, list, patch, update, watch};
use crate::routes::{self, RequestInfo};
use crate::server::Peer;
use crate::{negotiate, nonresource, respond, subresources};

/// While the store does not answer, requests fail after this long: less than ten seconds.
const WITHOUT_STORE: Duration = Duration::from_millis(9_500);
/// Longest `Audit-ID` that is taken from a client.
const MAX_AUDIT_ID: usize = 64;

/// Answers a request. Never fails: a refusal is an answer.
pub async fn handle(api: Arc<Api>, peer: Arc<Peer>, request: Request<RequestBody>) -> Response<Body> {
    handle_recorded(api, peer, request).await.0
}

/// [`handle`], and the request with the stages it passed (none when its line could not be read): for tests.
pub async fn handle_recorded(
    api: Arc<Api>,
    peer: Arc<Peer>,
    request: Request<RequestBody>,
) -> (Response<Body>, Option<Arc<Call>>) {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let audit_id = audit_id(&parts.headers);
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let refusal = negotiate::output_of_refusal(&parts.headers, &query);
    let head = parts.method == Method::HEAD;

    let call = match route(parts, query, body, peer) {
        Ok(call) => Arc::new(call),
        Err(status) => {
            return (
                respond::finish(respond::status(&refusal, &status), &audit_id, &[]),
                None,
            );
        }
    };
    let served = match deadline(&api, &call) {
        Ok(None) => stages(&api, call.clone()).await,
        Ok(Some(patience)) => match tokio::time::timeout(patience, to_the_end(&api, call.clone())).await {
            Ok(served) => served,
            Err(_) => Err(Status::timeout(
                "request did not complete within the allotted timeout",
                0,
            )),
        },
        Err(status) => Err(status),
    };
    let response = match served {
        Ok(response) => response,
        Err(status) => respond::status(&refusal, &status),
    };
    let mut response = respond::finish(response, &audit_id, &call.warnings());
    if head {
        *response.body_mut() = crate::body::empty();
    }
    api.metrics.answered(&api, &call, response.status().as_u16(), started);
    log(&call, &audit_id, response.status().as_u16(), started);
    (response, Some(call))
}

/// Runs the stages. A write goes on when its client goes away or its time is over: what it has taken (an address, a
/// port) is given back by the code that follows, which must run.
async fn to_the_end(api: &Arc<Api>, call: Arc<Call>) -> Result<Response<Body>, Status> {
    if matches!(call.info.verb.as_str(), "get" | "list" | "watch") {
        return stages(api, call).await;
    }
    let api = api.clone();
    match tokio::spawn(async move { stages(&api, call).await }).await {
        Ok(served) => served,
        Err(error) => match error.try_into_panic() {
            // Answered where every panic is.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Status::service_unavailable("apiserver is shutting down")),
        },
    }
}

/// The stages of a request that has been read.
async fn stages(api: &Arc<Api>, call: Arc<Call>) -> Result<Response<Body>, Status> {
    let authenticated = authenticate(api, call).await?;
    let authenticated = impersonate(api, authenticated)?;
    let _seat = take_seat(api, &authenticated)?;
    let authorized = authorize(api, authenticated)?;
    if !authorized.info().is_resource {
        return nonresource::serve(api, &authorized).await;
    }
    let info = authorized.info();
    if !api.resources.has_group(&info.group) {
        return Ok(respond::page_not_found());
    }
    let target = resolve(api, info)?;
    warn_of_age(&authorized, &target);
    if !target.subresource.is_empty() {
        return subresources::serve(api, &authorized, &target).await;
    }
    let (api_, ticket) = (api.as_ref(), &authorized);
    if !target.resource.has_verb(&authorized.info().verb) && !subresources::reviews::is_review(&target) {
        return Err(Status::method_not_allowed());
    }
    if target.resource.is("", "componentstatuses") {
        return subresources::component_status::serve(api_, ticket, &target).await;
    }
    match authorized.info().verb.as_str() {
        // read
        "get" => get::get(api_, ticket, &target).await,
        "list" => list::list(api_, ticket, &target).await,
        // watch
        "watch" => watch::watch(api, ticket, &target).await,
        // write
        "create" if !target.resource.facts.stored() => subresources::reviews::create(api_, ticket, &target).await,
        "create" => create::create(api_, ticket, &target).await,
        "update" => update::update(api_, ticket, &target).await,
        "patch" => patch::patch(api_, ticket, &target).await,
        "delete" => delete::delete(api_, ticket, &target).await,
        "deletecollection" => collection::delete(api_, ticket, &target).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Reads the request line.
fn route(parts: http::request::Parts, query: Query, body: RequestBody, peer: Arc<Peer>) -> Result<Call, Status> {
    let info = routes::parse(&parts.method, parts.uri.path(), &query)?;
    let call = Call::new(info, query, parts, body, peer);
    call.stage("route");
    Ok(call)
}

/// Who sends it. A credential that names an object which the cache does not have yet is looked at twice.
async fn authenticate(api: &Api, call: Arc<Call>) -> Result<Authenticated, Status> {
    call.stage("authenticate");
    let none = authn::Peer::none();
    let identity = call.peer.as_ref().map_or(&none, |peer| &peer.identity);
    let ask = || {
        api.authenticator
            .authenticate(identity, &call.headers, &call.info.path, call.now)
    };
    let mut answer = ask();
    if answer.as_ref().is_err_and(|refusal| refusal.stale) && api.fresh().await.is_ok() {
        answer = ask();
    }
    match answer {
        Ok(found) => Ok(Authenticated::new(call.clone(), found.user)),
        Err(refusal) => {
            tracing::debug!(path = %call.info.path, why = %refusal.why, "unable to authenticate the request");
            Err(Status::unauthorized())
        }
    }
}

/// As whom it acts.
fn impersonate(api: &Api, authenticated: Authenticated) -> Result<Authenticated, Status> {
    let call = authenticated.call().clone();
    call.stage("impersonate");
    let what = attributes(authenticated.user().clone(), &call.info);
    let user = steersman_auth::impersonate::apply(&call.headers, &what, api.authorizer.as_ref());
    match user.map_err(|status| *status)? {
        Some(user) => Ok(Authenticated::new(call, user)),
        None => Ok(authenticated),
    }
}

/// Whether there is room for it.
fn take_seat(api: &Api, authenticated: &Authenticated) -> Result<Seat, Status> {
    let call = authenticated.call();
    call.stage("seat");
    if routes::is_long_running(&call.info) || !call.info.is_resource {
        return Ok(None);
    }
    api.limits
        .enter(&call.info.verb, authenticated.user().has_group("system:masters"))
}

/// Whether it may.
fn authorize(api: &Api, authenticated: Authenticated) -> Result<Authorized, Status> {
    let call = authenticated.call();
    call.stage("authorize");
    let attributes = attributes(authenticated.user().clone(), &call.info);
    let outcome = api.authorizer.authorize(&attributes);
    if outcome.allowed() {
        return Ok(Authorized::granted(authenticated));
    }
    if let Some(error) = &outcome.error {
        tracing::debug!(user = %attributes.user.name, %error, "authorization had trouble");
    }
    Err(forbidden(&attributes, outcome.reason.as_str()))
}

/// Authorizes the create inside a PUT.
///
/// # Errors
/// 403.
pub fn authorize_create(api: &Api, ticket: &Authorized, target: &Target) -> Result<(), Status> {
    let mut attributes = attributes(ticket.user().clone(), ticket.info());
    attributes.verb = "create".into();
    attributes.namespace.clone_from(&target.namespace);
    let outcome = api.authorizer.authorize(&attributes);
    if outcome.allowed() {
        Ok(())
    } else {
        Err(forbidden(&attributes, outcome.reason.as_str()))
    }
}

/// The resource that the path names.
fn resolve(api: &Api, info: &RequestInfo) -> Result<Target, Status> {
    let resource = api
        .resources
        .find(&info.group, &info.version, &info.resource)
        .ok_or_else(Status::no_such_path)?;
    let (named, verb) = (info.parts.len() > 1, info.verb.as_str());
    let placed = if resource.facts.namespaced {
        // Across namespaces there are only collections.
        !info.namespace.is_empty() || !named
    } else {
        info.namespace.is_empty() || resource.is("", "namespaces")
    };
    if !placed || info.parts.iter().any(String::is_empty) {
        return Err(Status::no_such_path());
    }
    let fits = match verb {
        _ if !info.subresource.is_empty() => true,
        "create" => !named,
        "update" | "patch" | "delete" => named,
        _ => true,
    };
    // Across namespaces one can only read.
    let reads = matches!(verb, "list" | "watch") || !resource.facts.namespaced || !info.namespace.is_empty();
    if !fits || !reads {
        return Err(Status::method_not_allowed());
    }
    Ok(Target::of(resource.clone(), info))
}

/// Some kinds are served although newer ones took their place.
fn warn_of_age(ticket: &Authorized, target: &Target) {
    let text = match (target.resource.group(), target.resource.plural()) {
        ("", "endpoints") => "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        ("", "componentstatuses") => "v1 ComponentStatus is deprecated in v1.19+",
        _ => return,
    };
    ticket.call().warn(text);
}

/// What an authorizer is asked about a request.
pub fn attributes(user: User, info: &RequestInfo) -> Attributes {
    if !info.is_resource {
        return Attributes {
            user,
            verb: info.verb.clone(),
            path: info.path.clone(),
            ..Attributes::default()
        };
    }
    Attributes {
        user,
        verb: info.verb.clone(),
        resource_request: true,
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        field_selector: field_requirements(&info.field_selector),
        label_selector: label_requirements(&info.label_selector),
    }
}

fn field_requirements(text: &str) -> Vec<Requirement> {
    let Ok(selector) = FieldSelector::parse(text) else {
        return Vec::new();
    };
    let one = |term: &steersman_schema::selector::FieldTerm| Requirement {
        key: term.field.clone(),
        operator: if term.negated { "NotIn" } else { "In" },
        values: vec![term.value.clone()],
    };
    selector.terms().iter().map(one).collect()
}

fn label_requirements(text: &str) -> Vec<Requirement> {
    let Ok(selector) = LabelSelector::parse(text) else {
        return Vec::new();
    };
    let one = |requirement: &steersman_schema::selector::Requirement| {
        let operator = match requirement.operator {
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            // Comparisons are nothing that an authorizer can reason about.
            _ => return None,
        };
        Some(Requirement {
            key: requirement.key.clone(),
            operator,
            values: requirement.values.clone(),
        })
    };
    selector.requirements().iter().filter_map(one).collect()
}

/// How long the request may take; `None`: as long as it likes.
fn deadline(api: &Api, call: &Call) -> Result<Option<Duration>, Status> {
    if routes::is_long_running(&call.info) {
        return Ok(None);
    }
    let mut most = api.request_timeout;
    if call.info.is_resource && !api.store_health.is_good() {
        most = most.min(WITHOUT_STORE);
    }
    let Some(asked) = call.query.get("timeout").filter(|text| !text.is_empty()) else {
        return Ok(Some(most));
    };
    let asked: crate::flags::GoDuration = asked.parse().map_err(|_| {
        Status::bad_request(format!(
            "invalid timeout specified in the request URL - time: invalid duration {asked:?}"
        ))
    })?;
    Ok(Some(if asked.0.is_zero() { most } else { asked.0.min(most) }))
}

fn audit_id(headers: &HeaderMap) -> String {
    let given = headers
        .get("audit-id")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if given.is_empty() || given.len() > MAX_AUDIT_ID {
        uuid::Uuid::new_v4().to_string()
    } else {
        given.to_owned()
    }
}

fn log(call: &Call, audit_id: &str, code: u16, started: Instant) {
    tracing::debug!(
        verb = %call.info.verb,
        path = %call.info.path,
        agent = call.user_agent(),
        audit_id,
        code,
        milliseconds = started.elapsed().as_millis() as u64,
        "request"
    );
}
