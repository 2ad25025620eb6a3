//! The rows of a Table, as bytes: what `kubectl get` shows of many objects.
//!
//! A row is made once per version of an object and kept with it, with its times marked; reading fills in how long ago
//! they are. The object's metadata beside it are the bytes that other clients get as well. Small answers, and those for
//! people, go through `transform.rs`, which gives the same.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use serde_json::Value;
use steersman_kinds::table;
use steersman_schema::codec::{self, MediaType};
use steersman_schema::status::Status;
use steersman_storage::cache::{Cache, Object};

use super::object::{self, Form};
use super::transform::Include;
use crate::resources::Resource;

/// Kinds of which there are many, and whose rows show nothing of annotations.
const WITHOUT_ANNOTATIONS: &[(&str, &str)] = &[
    ("", "configmaps"),
    ("", "endpoints"),
    ("", "nodes"),
    ("", "pods"),
    ("", "secrets"),
    ("", "services"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "jobs"),
    ("discovery.k8s.io", "endpointslices"),
];

/// What one request wants of its rows.
#[derive(Clone, Copy)]
pub struct Rows {
    pub include: Include,
    /// Whether the columns are named.
    pub headers: bool,
    pub now: Timestamp,
}

impl Rows {
    /// What stands before and after the rows.
    ///
    /// # Errors
    /// 500 when the columns cannot be encoded.
    pub fn frame(self, resource: &Resource, metadata: Value) -> Result<(BytesMut, Bytes), Status> {
        let empty = table::render(resource.kind, metadata, &[], self.headers, &self.now);
        let bytes = codec::encode(MediaType::Json, &empty).map_err(Status::internal)?;
        let head = line(&bytes).strip_suffix(b"]}");
        let head = head.ok_or_else(|| Status::internal("a Table does not end with its rows"))?;
        Ok((BytesMut::from(head), Bytes::from_static(b"]}\n")))
    }

    /// Appends an object's row.
    ///
    /// # Errors
    /// 500 when the stored bytes cannot be read.
    pub fn put(
        self,
        cache: &Cache,
        resource: &Resource,
        object: &Arc<Object>,
        out: &mut BytesMut,
    ) -> Result<(), Status> {
        if table::marked(object.stored()) {
            out.extend_from_slice(open(&cells(resource, object, &self.now)?));
        } else {
            let slot = object::slot(resource, MediaType::Json, Form::Row);
            let row = cache.encoding(object, slot, || cells(resource, object, &table::LATER))?;
            table::fill(open(&row), &self.now, out);
        }
        out.put_slice(b",\"object\":");
        let form = match self.include {
            Include::None => {
                out.put_slice(b"null}");
                return Ok(());
            }
            Include::Metadata => Form::Metadata,
            Include::Object => Form::Whole,
        };
        out.put_slice(line(&object::bytes(cache, resource, object, MediaType::Json, form)?));
        out.put_u8(b'}');
        Ok(())
    }
}

/// `{"cells":[…]}`, with conditions if there are any.
fn cells(resource: &Resource, object: &Object, now: &Timestamp) -> Result<Bytes, Status> {
    let stored = object.stored();
    let place = (resource.group(), resource.plural());
    let value = if WITHOUT_ANNOTATIONS.contains(&place) && codec::is_protobuf(stored) {
        let lean = codec::part::without_bulk(stored).map_err(Status::internal)?;
        object::value_of(resource, &lean, object.key())?
    } else {
        object::value(resource, object)?
    };
    // Without a kind, so it is written as it is, keys sorted: cells, conditions.
    let row = table::row(resource.kind, &value, now);
    codec::encode(MediaType::Json, &row)
        .map(Bytes::from)
        .map_err(Status::internal)
}

/// A row up to its closing brace.
fn open(row: &[u8]) -> &[u8] {
    let row = line(row);
    row.strip_suffix(b"}").unwrap_or(row)
}

/// Without the newline that encodings end with.
fn line(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(b"\n").unwrap_or(bytes)
}
