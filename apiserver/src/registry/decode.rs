//! Bodies into objects: media type, strictness, and whether the object is of the kind that the path wants.

use serde_json::Value;
use steersman_schema::codec::{self, MediaType};
use steersman_schema::defaults;
use steersman_schema::facts::Gvk;
use steersman_schema::status::Status;

use crate::call::Call;
use crate::options::FieldValidation;
use crate::resources::Resource;

/// Decodes a body of the wanted kind and applies the table's defaults.
///
/// # Errors
/// 400 with upstream's texts when the body is not such an object, or not strictly so when that is asked for.
pub fn object(
    call: &Call,
    media: MediaType,
    body: &[u8],
    wanted: &Gvk,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let decoded = codec::decode(media, body, Some(wanted))
        .map_err(|error| Status::bad_request(error.bad_request(&wanted.kind, body)))?;
    let mut value = decoded.value;
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let found = Gvk::from_api_version(&text("apiVersion"), &text("kind"));
    if found.kind != wanted.kind || found.group != wanted.group {
        let package = wanted
            .group
            .split('.')
            .next()
            .filter(|name| !name.is_empty())
            .unwrap_or("core");
        let why = format!(
            "converting ({}.{}) to ({package}.{}): unknown conversion",
            found.version, found.kind, wanted.kind
        );
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            found.kind, found.version, wanted.kind
        )));
    }
    if found.version != wanted.version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            found.api_version(),
            wanted.api_version()
        )));
    }
    strictness(call, &decoded.strict, validation).map_err(|text| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {text}",
            found.kind, found.version, wanted.kind
        ))
    })?;
    defaults::apply(&mut value);
    Ok(value)
}

/// Decodes an object of a stored resource: also applies the kind's own defaulting.
///
/// # Errors
/// As [`object`].
pub fn resource_object(
    call: &Call,
    media: MediaType,
    body: &[u8],
    resource: &Resource,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let mut value = object(call, media, body, &resource.gvk, validation)?;
    template_generation(resource, &value)?;
    (resource.kind.default)(&mut value);
    Ok(value)
}

/// Upstream's internal DaemonSet has a number where v1 has an annotation.
fn template_generation(resource: &Resource, value: &Value) -> Result<(), Status> {
    if !resource.is("apps", "daemonsets") {
        return Ok(());
    }
    let annotation = value.pointer("/metadata/annotations/deprecated.daemonset.template.generation");
    let Some(text) = annotation.and_then(Value::as_str) else {
        return Ok(());
    };
    text.parse::<i64>().map(drop).map_err(|error| {
        let why = match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Status::bad_request(format!(
            "DaemonSet in version \"v1\" cannot be handled as a DaemonSet: strconv.ParseInt: parsing {}: {why}",
            steersman_schema::field::quote(text)
        ))
    })
}

/// Warns of unknown and duplicate fields, or refuses them; the error is upstream's text.
pub fn strictness(call: &Call, faults: &[String], validation: FieldValidation) -> Result<(), String> {
    match validation {
        FieldValidation::Strict if !faults.is_empty() => Err(format!("strict decoding error: {}", faults.join(", "))),
        FieldValidation::Warn => {
            faults.iter().for_each(|fault| call.warn(fault));
            Ok(())
        }
        _ => Ok(()),
    }
}
