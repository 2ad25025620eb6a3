//! PATCH: JSON patch, merge patch, strategic merge patch, and server-side apply.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, header};
use serde_json::Value;
use steersman_schema::codec::{self, MediaType};
use steersman_schema::defaults;
use steersman_schema::facts::{Gvk, facts};
use steersman_schema::field::{FieldError, Path};
use steersman_schema::patch::{self, PatchError, Patched};
use steersman_schema::status::Status;

use super::update::{Change, check_identity};
use super::{decode, managed, transform};
use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Call, Target};
use crate::options::{FieldValidation, WriteOptions};
use crate::resources::Resource;
use crate::{negotiate, respond};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";
const ACCEPTED: &[&str] = &[JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH];

/// The patch types that change what is there. (An apply says what should be there: [`apply`].)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    Merge,
    Strategic,
}

/// A patch as it was sent.
#[derive(Clone)]
pub struct Patch {
    pub kind: Kind,
    pub body: Bytes,
}

impl Patch {
    /// Reads the patch of a request.
    ///
    /// # Errors
    /// 415 for other media types, 413 for too large bodies.
    pub async fn read(call: &Call) -> Result<Self, Status> {
        let Format::Patch(kind) = format(call)? else {
            return Err(unsupported());
        };
        Ok(Self {
            kind,
            body: call.read_body().await?,
        })
    }

    /// Applies the patch to the JSON form of an object of this type; the result is decoded and defaulted.
    ///
    /// # Errors
    /// 400 when the patch is malformed, 422 when it does not fit, 413 when it grows too much.
    pub fn apply(&self, call: &Call, current: &Value, validation: FieldValidation) -> Result<Value, Status> {
        let text = |key: &str| current.get(key).and_then(Value::as_str).unwrap_or_default();
        let gvk = Gvk::from_api_version(text("apiVersion"), text("kind"));
        let checked = validation != FieldValidation::Ignore;
        let patched = match self.kind {
            Kind::Json => patch::json(current, &self.body, checked),
            Kind::Merge => patch::merge(current, &self.body, checked),
            Kind::Strategic => match facts().kind(&gvk.group, &gvk.version, &gvk.kind) {
                Some(kind) => patch::strategic(kind, current, &self.body),
                None => return Err(Status::unsupported_media_type(&ACCEPTED[..2])),
            },
        };
        settle(call, &patched.map_err(refuse)?, &gvk, validation)
    }
}

/// The outcome of a patch as an object of its kind, decoded and defaulted.
fn settle(call: &Call, patched: &Patched, gvk: &Gvk, validation: FieldValidation) -> Result<Value, Status> {
    let bytes = serde_json::to_vec(&patched.value).map_err(Status::internal)?;
    let refused = |why: String| match &patched.shown {
        Some(shown) => misfit(shown, why),
        None => misfit(&String::from_utf8_lossy(&bytes), why),
    };
    let mut decoded = codec::decode(MediaType::Json, &bytes, Some(gvk)).map_err(|error| refused(error.to_string()))?;
    if patched.shown.is_some() {
        // Upstream sorts what it finds where it does without JSON.
        decoded.strict.sort();
    }
    let strict: Vec<String> = patched.strict.iter().cloned().chain(decoded.strict).collect();
    decode::strictness(call, &strict, validation).map_err(refused)?;
    let mut value = decoded.value;
    defaults::apply(&mut value);
    Ok(value)
}

/// What comes out of a patch is not of the object's type.
fn misfit(shown: &str, why: String) -> Status {
    let path = Path::new("patch");
    Status::invalid("", "", "", &vec![FieldError::invalid(&path, shown, why)])
}

enum Format {
    Patch(Kind),
    Apply,
}

fn format(call: &Call) -> Result<Format, Status> {
    let given = call
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match given.split(';').next().unwrap_or_default().trim() {
        JSON_PATCH => Ok(Format::Patch(Kind::Json)),
        MERGE_PATCH => Ok(Format::Patch(Kind::Merge)),
        STRATEGIC_PATCH => Ok(Format::Patch(Kind::Strategic)),
        APPLY_PATCH => Ok(Format::Apply),
        _ => Err(unsupported()),
    }
}

/// Upstream's router refuses before the resource is asked.
fn unsupported() -> Status {
    let mut status = Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
    status.details = Some(Box::default());
    status
}

fn refuse(error: PatchError) -> Status {
    match error {
        PatchError::Malformed(why) => Status::bad_request(why),
        PatchError::TooLarge(why) => Status::request_entity_too_large(&why),
        PatchError::Unexpected(why) => Status::new(500, "", why),
        PatchError::Misfit { shown, why } => misfit(&shown, why),
        PatchError::DoesNotApply(_) => {
            let mut status = Status::new(
                422,
                "Invalid",
                "the server rejected our request due to an error in our request",
            );
            status.details = Some(Box::default());
            status
        }
    }
}

/// Answers a PATCH of an object or of a subresource that writes the whole object.
///
/// # Errors
/// 400, 404, 409, 413, 415, 422 and what admission and the store refuse.
pub async fn patch(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let resource = &target.resource;
    if matches!(format(call)?, Format::Apply) {
        return apply(api, ticket, target).await;
    }
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let options = WriteOptions::read(&call.query, "PatchOptions")?;
    call.stage("decode");
    let patch = Patch::read(call).await?;
    let change = Change {
        api,
        ticket,
        target,
        options: &options,
        gvk: &resource.gvk,
        options_kind: "PatchOptions",
        may_create: false,
        applies: false,
    };
    let changed = change
        .run(|old: Option<Arc<Value>>| {
            let outcome = match old {
                Some(old) => one(call, resource, target, &patch, &old, options.field_validation),
                None => Err(target.not_found()),
            };
            async move { outcome }
        })
        .await?;
    let value = transform::object(resource, changed.object, &output, &call.query, call.now)?;
    respond::object(&output, 200, &value)
}

fn one(
    call: &Call,
    resource: &Resource,
    target: &Target,
    patch: &Patch,
    old: &Value,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let mut new = patch.apply(call, old, validation)?;
    (resource.kind.default)(&mut new);
    check_identity(&new, target)?;
    Ok(new)
}

/// Answers a PATCH of type apply: what the applier wants is merged with what others own; a missing object is created.
async fn apply(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let resource = &target.resource;
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let options = WriteOptions::read_apply(&call.query)?;
    call.stage("decode");
    let body = call.read_body().await?;
    let config = configuration(call, resource, &body, options.field_validation)?;
    let change = Change {
        api,
        ticket,
        target,
        options: &options,
        gvk: &resource.gvk,
        options_kind: "PatchOptions",
        may_create: target.subresource.is_empty(),
        applies: true,
    };
    let changed = change
        .run(|old: Option<Arc<Value>>| {
            let outcome = applied(api, ticket, target, &options, old.as_deref(), &config);
            async move { outcome }
        })
        .await?;
    let code = if changed.created { 201 } else { 200 };
    let value = transform::object(resource, changed.object, &output, &call.query, call.now)?;
    respond::object(&output, code, &value)
}

/// The configuration, of the kind that the path names.
fn configuration(call: &Call, resource: &Resource, body: &[u8], validation: FieldValidation) -> Result<Value, Status> {
    let wrong =
        |how: &str, why: String| Status::bad_request(format!("error {how} YAML: error converting YAML to JSON: {why}"));
    let decoded = codec::decode_untyped_yaml(body).map_err(|why| wrong("decoding", why))?;
    match validation {
        FieldValidation::Strict if !decoded.strict.is_empty() => {
            let faults = decoded.strict.join("\n  ");
            return Err(wrong("strict decoding", format!("yaml: unmarshal errors:\n  {faults}")));
        }
        FieldValidation::Warn => decoded.strict.iter().for_each(|fault| call.warn(fault)),
        _ => {}
    }
    let text = |key: &str| decoded.value.get(key).and_then(Value::as_str).unwrap_or_default();
    let found = Gvk::from_api_version(text("apiVersion"), text("kind"));
    if found != resource.gvk {
        let Gvk { group, version, kind } = found;
        return Err(Status::bad_request(format!(
            "invalid object type: {group}/{version}, Kind={kind}"
        )));
    }
    Ok(decoded.value)
}

fn applied(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    options: &WriteOptions,
    old: Option<&Value>,
    config: &Value,
) -> Result<Value, Status> {
    let resource = &target.resource;
    let uid = config
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if old.is_none() && !uid.is_empty() {
        let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        return Err(Status::conflict(
            resource.group(),
            resource.plural(),
            &target.name,
            &why,
        ));
    }
    let merged = managed::apply(api, ticket, target, options, old, config)?;
    // What the configuration may not say has been refused; what others wrote is not the applier's fault.
    let merged = Patched {
        value: merged,
        strict: Vec::new(),
        shown: None,
    };
    let mut new = settle(ticket.call(), &merged, &resource.gvk, FieldValidation::Ignore)?;
    (resource.kind.default)(&mut new);
    check_identity(&new, target)?;
    Ok(new)
}
