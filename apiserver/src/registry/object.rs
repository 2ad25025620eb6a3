//! From stored bytes to what a client gets: a value in the version asked for, or bytes in the encoding asked for.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use steersman_schema::codec::{self, MediaType};
use steersman_schema::defaults;
use steersman_schema::facts::facts;
use steersman_schema::status::Status;
use steersman_storage::cache::{Cache, Object};

use super::{convert, definition};
use crate::resources::Resource;

/// First bytes of the protobuf envelope.
const MAGIC: &[u8] = b"k8s\0";

/// Numbers of encodings kept with an object or an event. See [`slot`].
const SLOT_TRANSFORMS: u8 = 3;
const SLOT_VERSIONS: u8 = 2;

/// What an encoding is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Whole,
    /// `PartialObjectMetadata` of meta.k8s.io/v1.
    Metadata,
    /// A Table's row without its object and with marked times: [`super::rows`].
    Row,
}

/// The number under which an encoding is kept: media type, form, and whether it is the stored version.
pub fn slot(resource: &Resource, media: MediaType, form: Form) -> u8 {
    let media = match media {
        MediaType::Json => 0,
        MediaType::Protobuf => 1,
        MediaType::Yaml => 2,
    };
    let form = match form {
        Form::Whole => 0,
        Form::Metadata => 1,
        Form::Row => 2,
    };
    let version = u8::from(resource.converts());
    (media * SLOT_TRANSFORMS + form) * SLOT_VERSIONS + version
}

/// An object as a value in the version of `resource`, defaulted.
///
/// # Errors
/// 500 when the stored bytes cannot be read.
pub fn value(resource: &Resource, object: &Object) -> Result<Value, Status> {
    let mut value = stored_value(object.stored(), object.key())?;
    prepare(resource, &mut value);
    Ok(value)
}

/// Stored bytes as a value in the version of `resource`, defaulted.
///
/// # Errors
/// 500 when the bytes cannot be read.
pub fn value_of(resource: &Resource, stored: &[u8], key: &str) -> Result<Value, Status> {
    let mut value = stored_value(stored, key)?;
    prepare(resource, &mut value);
    Ok(value)
}

fn stored_value(stored: &[u8], key: &str) -> Result<Value, Status> {
    codec::decode_stored(stored).map_err(|error| unreadable(key, &error))
}

fn unreadable(key: &str, error: &dyn std::fmt::Display) -> Status {
    tracing::error!(key, %error, "stored object cannot be decoded");
    Status::new(
        500,
        "StorageReadError",
        format!("unable to decode the object stored under {key:?}"),
    )
}

fn prepare(resource: &Resource, value: &mut Value) {
    if value["apiVersion"] == definition::OLD {
        definition::to_v1(value);
    }
    if resource.converts() {
        convert::to_served(resource, value);
    }
    defaults::apply(value);
    (resource.kind.default)(value);
}

/// The bytes that go into the store.
///
/// # Errors
/// 500 when it cannot be encoded.
pub fn to_stored(resource: &Resource, value: &Value) -> Result<Bytes, Status> {
    let mut value = value.clone();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
        metadata.remove("selfLink");
    }
    if resource.converts() {
        convert::to_stored(resource, &mut value);
    }
    Ok(Bytes::from(codec::encode_stored(&value).map_err(|error| {
        Status::internal(format!("encoding the object: {error}"))
    })?))
}

/// What a client is told of an object that was just written: what reading it back would say.
pub fn as_stored(resource: &Resource, value: &mut Value) {
    // These two are stored as JSON, which forgets nothing.
    if matches!(resource.group(), "apiextensions.k8s.io" | "apiregistration.k8s.io") {
        return;
    }
    if let Some(ty) = facts().kind_of(&resource.api_version, &resource.gvk.kind)
        && codec::forget::empties(value, ty)
    {
        // What is read back is defaulted, and what was there and empty is not there now.
        defaults::apply(value);
        (resource.kind.default)(value);
    }
}

/// Whether the store would hold the same.
pub fn unchanged(resource: &Resource, new: &Value, old: &Value) -> bool {
    match facts().kind_of(&resource.api_version, &resource.gvk.kind) {
        Some(ty) => codec::forget::equal(new, old, ty),
        None => new == old,
    }
}

/// The object's bytes in an encoding, made once per version and shared.
///
/// # Errors
/// 500 when the stored bytes cannot be read.
pub fn bytes(
    cache: &Cache,
    resource: &Resource,
    object: &Arc<Object>,
    media: MediaType,
    form: Form,
) -> Result<Bytes, Status> {
    let as_it_is = !resource.converts() && object.stored().starts_with(MAGIC);
    if media == MediaType::Protobuf && form == Form::Whole && as_it_is {
        return Ok(object.stored().clone());
    }
    // The metadata's bytes are only copied: not worth keeping.
    if media == MediaType::Yaml || (media == MediaType::Protobuf && form == Form::Metadata && as_it_is) {
        return encode(resource, object, media, form);
    }
    cache.encoding(object, slot(resource, media, form), || {
        encode(resource, object, media, form)
    })
}

/// The object's bytes in an encoding, made now.
///
/// # Errors
/// 500 when the stored bytes cannot be read.
pub fn encode(resource: &Resource, object: &Object, media: MediaType, form: Form) -> Result<Bytes, Status> {
    encode_stored(resource, object.stored(), object.key(), media, form)
}

/// Stored bytes (with resourceVersion) in an encoding.
///
/// # Errors
/// 500 when they cannot be read.
pub fn encode_stored(
    resource: &Resource,
    stored: &[u8],
    key: &str,
    media: MediaType,
    form: Form,
) -> Result<Bytes, Status> {
    let damaged = |error: codec::EncodeError| unreadable(key, &error);
    if form == Form::Metadata && !resource.converts() && stored.starts_with(MAGIC) {
        let metadata = codec::part::metadata(stored).map_err(damaged)?;
        match media {
            MediaType::Json => {
                let mut out = Vec::with_capacity(metadata.len() * 3 / 2);
                codec::protobuf_to_json(&metadata, &mut out).map_err(damaged)?;
                return Ok(out.into());
            }
            MediaType::Protobuf => return Ok(metadata.into()),
            MediaType::Yaml => {}
        }
    }
    if form == Form::Whole && !resource.converts() && !definition::maybe_old(resource, stored) {
        match media {
            MediaType::Json if stored.starts_with(MAGIC) => {
                let mut out = Vec::with_capacity(stored.len() * 3 / 2);
                codec::protobuf_to_json(stored, &mut out).map_err(damaged)?;
                return Ok(out.into());
            }
            MediaType::Json => return Ok(Bytes::copy_from_slice(stored)),
            MediaType::Protobuf if stored.starts_with(MAGIC) => return Ok(Bytes::copy_from_slice(stored)),
            _ => {}
        }
    }
    let mut value = value_of(resource, stored, key)?;
    if form == Form::Metadata {
        value = partial(value, "meta.k8s.io/v1");
    }
    codec::encode(media, &value)
        .map(Bytes::from)
        .map_err(|error| Status::internal(format!("encoding the answer: {error}")))
}

/// `PartialObjectMetadata` of an object.
pub fn partial(mut value: Value, api_version: &str) -> Value {
    let metadata = value.get_mut("metadata").map(Value::take).unwrap_or_else(|| json!({}));
    json!({"apiVersion": api_version, "kind": "PartialObjectMetadata", "metadata": metadata})
}

/// Sets `metadata.resourceVersion`.
pub fn set_version(value: &mut Value, revision: i64) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
}
