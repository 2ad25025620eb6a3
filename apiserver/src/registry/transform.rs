//! What some clients want instead of the object: a `Table`, or its metadata alone.

use jiff::Timestamp;
use serde_json::{Value, json};
use steersman_schema::field::{FieldError, Path};
use steersman_schema::status::Status;

use super::object::partial;
use crate::negotiate::{MetaVersion, Output, Transform};
use crate::query::Query;
use crate::resources::Resource;

/// What stands in a row's `object`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

/// Reads `includeObject`.
///
/// # Errors
/// 400 for any other value.
pub fn include(query: &Query) -> Result<Include, Status> {
    match query.get("includeObject").unwrap_or_default() {
        "" | "Metadata" => Ok(Include::Metadata),
        "None" => Ok(Include::None),
        "Object" => Ok(Include::Object),
        other => {
            let detail = "must be 'Metadata', 'Object', 'None', or empty";
            let error = FieldError::invalid(&Path::new("includeObject"), other, detail);
            Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: {error}"
            )))
        }
    }
}

/// One object in the form that was negotiated.
///
/// # Errors
/// 406 when a list's form is asked of one object.
pub fn object(
    resource: &Resource,
    value: Value,
    output: &Output,
    query: &Query,
    now: Timestamp,
) -> Result<Value, Status> {
    match output.transform {
        Transform::None => Ok(value),
        Transform::PartialObjectMetadata(version) => Ok(partial(value, version.api_version())),
        Transform::PartialObjectMetadataList(_) => Err(wrong_shape(resource, false)),
        Transform::Table(version) => {
            let version_of_object = value.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
            let metadata = json!({"resourceVersion": version_of_object});
            table(resource, metadata, vec![value], version, query, now, true)
        }
    }
}

/// 406: a list's form for one object, or the other way round.
pub fn wrong_shape(resource: &Resource, is_list: bool) -> Status {
    let package = resource
        .group()
        .split('.')
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or("core");
    let message = if is_list {
        format!(
            "you requested PartialObjectMetadata, but the requested object is a list (*{package}.{})",
            resource.list_kind
        )
    } else {
        format!(
            "you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{})",
            resource.gvk.kind
        )
    };
    Status::new(406, "NotAcceptable", message)
}

/// A Table of objects. `metadata` is the list's.
///
/// # Errors
/// 400 for bad table options.
pub fn table(
    resource: &Resource,
    metadata: Value,
    objects: Vec<Value>,
    version: MetaVersion,
    query: &Query,
    now: Timestamp,
    headers: bool,
) -> Result<Value, Status> {
    let include = include(query)?;
    let headers = headers && !query.flag("noHeaders").unwrap_or(false);
    let shown: Vec<&Value> = objects.iter().collect();
    let mut table = steersman_kinds::table::render(resource.kind, metadata, &shown, headers, &now);
    table["apiVersion"] = version.api_version().into();
    let rows = table.get_mut("rows").and_then(Value::as_array_mut);
    for (row, object) in rows.into_iter().flatten().zip(objects) {
        match include {
            Include::None => {}
            Include::Metadata => row["object"] = partial(object, version.api_version()),
            Include::Object => row["object"] = object,
        }
    }
    Ok(table)
}
