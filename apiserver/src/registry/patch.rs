//! PATCH: JSON patch, merge patch and strategic merge patch. Server-side apply is refused by media type.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, header};
use serde_json::Value;
use steersman_schema::codec::{self, MediaType};
use steersman_schema::defaults;
use steersman_schema::facts::facts;
use steersman_schema::field::{FieldError, Path};
use steersman_schema::patch::{self, PatchError};
use steersman_schema::status::Status;

use super::update::{Change, check_identity};
use super::{decode, transform};
use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Call, Target};
use crate::options::{FieldValidation, WriteOptions};
use crate::resources::Resource;
use crate::{negotiate, respond};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const ACCEPTED: &[&str] = &[JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH];

/// The three patch types.
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
        let kind = media_type(call)?;
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
        let gvk = steersman_schema::facts::Gvk::from_api_version(text("apiVersion"), text("kind"));
        let patched = match self.kind {
            Kind::Json => patch::json(current, &self.body),
            Kind::Merge => patch::merge(current, &self.body),
            Kind::Strategic => match facts().kind(&gvk.group, &gvk.version, &gvk.kind) {
                Some(kind) => patch::strategic(kind, current, &self.body),
                None => return Err(Status::unsupported_media_type(&ACCEPTED[..2])),
            },
        };
        let patched = patched.map_err(refuse)?;
        let bytes = serde_json::to_vec(&patched).map_err(Status::internal)?;
        let misfit = |why: String| {
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            Status::invalid(
                "",
                "",
                "",
                &vec![FieldError::invalid(&Path::new("patch"), shown.as_str(), why)],
            )
        };
        let decoded = codec::decode(MediaType::Json, &bytes, Some(&gvk)).map_err(|error| misfit(error.to_string()))?;
        decode::strictness(call, &decoded.strict, validation).map_err(misfit)?;
        let mut value = decoded.value;
        defaults::apply(&mut value);
        Ok(value)
    }
}

fn media_type(call: &Call) -> Result<Kind, Status> {
    let given = call
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match given.split(';').next().unwrap_or_default().trim() {
        JSON_PATCH => Ok(Kind::Json),
        MERGE_PATCH => Ok(Kind::Merge),
        STRATEGIC_PATCH => Ok(Kind::Strategic),
        // Upstream's router refuses before the resource is asked.
        _ => {
            let mut status = Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
            status.details = Some(Box::default());
            Err(status)
        }
    }
}

fn refuse(error: PatchError) -> Status {
    match error {
        PatchError::Malformed(why) => Status::bad_request(why),
        PatchError::TooLarge(why) => Status::request_entity_too_large(&why),
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
    media_type(call)?;
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
