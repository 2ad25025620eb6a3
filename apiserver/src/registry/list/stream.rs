//! The body of a list, object by object: JSON, protobuf or table rows, framed around what the cache has encoded already.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use steersman_schema::codec::{Envelope, MediaType};
use steersman_schema::status::Status;
use steersman_storage::cache::{Cache, Object};

use super::wire::{put_bytes, put_varint, varint_len};
use super::{Selected, metadata};
use crate::body::Body;
use crate::negotiate::{self, Output};
use crate::registry::object::{self, Form};
use crate::registry::rows::Rows;
use crate::resources::Resource;
use crate::respond;

/// Bytes of a list that are put together before they are sent.
const CHUNK: usize = 64 * 1024;

/// What stands for an object in the list.
#[derive(Clone, Copy)]
pub(super) enum Piece {
    Object(Form),
    Row(Rows),
}

impl Piece {
    pub(super) const OBJECT: Self = Self::Object(Form::Whole);

    /// `apiVersion` and `kind` of the list.
    fn list_type<'a>(self, resource: &'a Resource) -> (&'a str, &'a str) {
        match self {
            Self::Object(Form::Metadata) => ("meta.k8s.io/v1", "PartialObjectMetadataList"),
            _ => (resource.api_version.as_str(), resource.list_kind.as_str()),
        }
    }
}

/// The list piece by piece: what is held is the snapshot's objects and one chunk.
pub(super) fn streamed(
    cache: Arc<Cache>,
    resource: Arc<Resource>,
    selected: Selected,
    output: &Output,
    piece: Piece,
) -> Result<Response<Body>, Status> {
    let media = output.media;
    let (head, tail) = match (piece, media) {
        (Piece::Row(rows), _) => rows.frame(&resource, metadata(&selected))?,
        (Piece::Object(form), MediaType::Protobuf) => {
            protobuf_frame(&cache, &resource, &selected, form, piece.list_type(&resource))?
        }
        _ => json_frame(piece.list_type(&resource), &selected),
    };
    let objects = selected.objects.into_iter();
    let mut chunks = Chunks {
        cache,
        resource,
        objects,
        media,
        piece,
        first: true,
        pending: head,
        tail: Some(tail),
    };
    // Small lists are one piece, so that they have a length.
    let first = chunks.next();
    let content_type = negotiate::content_type(media);
    if chunks.tail.is_none() {
        return match first.unwrap_or_else(|| Ok(Bytes::new())) {
            Ok(bytes) => Ok(respond::compressed(output.gzip, 200, content_type, bytes)),
            Err(error) => Err(Status::internal(error)),
        };
    }
    if output.gzip {
        return Ok(gzipped(first, chunks, content_type));
    }
    let rest = futures::stream::iter(first.into_iter().chain(chunks)).map(|chunk| chunk.map(Frame::data));
    Ok(respond::stream(content_type, StreamBody::new(rest).boxed_unsync()))
}

fn gzipped(first: Option<std::io::Result<Bytes>>, chunks: Chunks, content_type: &'static str) -> Response<Body> {
    use std::io::Write;
    let mut encoder = Some(flate2::write::GzEncoder::new(
        Vec::with_capacity(CHUNK),
        flate2::Compression::new(1),
    ));
    let mut source = first.into_iter().chain(chunks);
    let pieces = std::iter::from_fn(move || {
        let writer = encoder.as_mut()?;
        loop {
            match source.next() {
                Some(Ok(bytes)) => {
                    if let Err(error) = writer.write_all(&bytes) {
                        return Some(Err(error));
                    }
                    if writer.get_ref().len() >= CHUNK / 2 {
                        return Some(Ok(Bytes::from(std::mem::take(writer.get_mut()))));
                    }
                }
                Some(Err(error)) => return Some(Err(error)),
                None => return encoder.take().map(|encoder| encoder.finish().map(Bytes::from)),
            }
        }
    });
    let stream = futures::stream::iter(pieces).map(|chunk| chunk.map(Frame::data));
    let mut response = respond::stream(content_type, StreamBody::new(stream).boxed_unsync());
    response
        .headers_mut()
        .insert(http::header::CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
    response
        .headers_mut()
        .insert(http::header::VARY, http::HeaderValue::from_static("Accept-Encoding"));
    response
}

/// What stands before and after the items.
fn json_frame((version, kind): (&str, &str), selected: &Selected) -> (BytesMut, Bytes) {
    let mut head = BytesMut::with_capacity(CHUNK + 4096);
    let start = format!(
        r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{},"items":["#,
        metadata(selected)
    );
    head.put_slice(start.as_bytes());
    (head, Bytes::from_static(b"]}\n"))
}

/// As [`json_frame`]: `k8s\0`, then runtime.Unknown with the list message, whose length is computed from the items'.
fn protobuf_frame(
    cache: &Cache,
    resource: &Resource,
    selected: &Selected,
    form: Form,
    (version, kind): (&str, &str),
) -> Result<(BytesMut, Bytes), Status> {
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, b"");
    put_bytes(&mut meta, 2, selected.revision.to_string().as_bytes());
    put_bytes(&mut meta, 3, selected.continue_token.as_bytes());
    if let Some(remaining) = selected.remaining {
        meta.push(4 << 3);
        put_varint(&mut meta, remaining as u64);
    }
    let mut message = Vec::new();
    put_bytes(&mut message, 1, &meta);
    let mut length = message.len();
    for object in &selected.objects {
        let bytes = object::bytes(cache, resource, object, MediaType::Protobuf, form)?;
        let raw = raw_message(&bytes)?.len();
        length += 1 + varint_len(raw as u64) + raw;
    }
    let mut type_meta = Vec::new();
    put_bytes(&mut type_meta, 1, version.as_bytes());
    put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut head = b"k8s\0".to_vec();
    put_bytes(&mut head, 1, &type_meta);
    head.push(2 << 3 | 2);
    put_varint(&mut head, length as u64);
    head.extend_from_slice(&message);
    // contentEncoding and contentType, both empty: Go writes them all the same.
    Ok((
        BytesMut::from(head.as_slice()),
        Bytes::from_static(&[0x1a, 0x00, 0x22, 0x00]),
    ))
}

/// The object's own message inside its envelope.
fn raw_message(bytes: &[u8]) -> Result<&[u8], Status> {
    Envelope::open(bytes)
        .map(|envelope| envelope.raw)
        .map_err(Status::internal)
}

struct Chunks {
    cache: Arc<Cache>,
    resource: Arc<Resource>,
    objects: std::vec::IntoIter<Arc<Object>>,
    media: MediaType,
    piece: Piece,
    first: bool,
    pending: BytesMut,
    /// Taken with the last chunk.
    tail: Option<Bytes>,
}

impl Chunks {
    fn put(&mut self, object: &Arc<Object>) -> Result<(), Status> {
        let form = match self.piece {
            Piece::Object(form) => form,
            Piece::Row(rows) => {
                if !std::mem::take(&mut self.first) {
                    self.pending.put_u8(b',');
                }
                return rows.put(&self.cache, &self.resource, object, &mut self.pending);
            }
        };
        let bytes = object::bytes(&self.cache, &self.resource, object, self.media, form)?;
        if self.media == MediaType::Protobuf {
            let raw = raw_message(&bytes)?;
            self.pending.put_u8(2 << 3 | 2);
            put_varint(&mut self.pending, raw.len() as u64);
            self.pending.put_slice(raw);
            return Ok(());
        }
        if !std::mem::take(&mut self.first) {
            self.pending.put_u8(b',');
        }
        put_json_item(&mut self.pending, &bytes, &self.resource);
        Ok(())
    }
}

impl Iterator for Chunks {
    type Item = std::io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        self.tail.as_ref()?;
        while let Some(object) = self.objects.next() {
            if let Err(status) = self.put(&object) {
                self.tail = None;
                return Some(Err(std::io::Error::other(status)));
            }
            if self.pending.len() >= CHUNK {
                return Some(Ok(self.pending.split().freeze()));
            }
        }
        let tail = self.tail.take()?;
        self.pending.put_slice(&tail);
        Some(Ok(self.pending.split().freeze()))
    }
}

/// An item without `kind` and `apiVersion`, which the list's own say.
fn put_json_item(out: &mut BytesMut, bytes: &[u8], resource: &Resource) {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let (kind, version) = (resource.gvk.kind.as_bytes(), resource.api_version.as_bytes());
    let rest = || {
        let rest = bytes.strip_prefix(br#"{"kind":""#)?.strip_prefix(kind)?;
        rest.strip_prefix(br#"","apiVersion":""#)?
            .strip_prefix(version)?
            .strip_prefix(br#"","#)
    };
    match rest() {
        Some(rest) => {
            out.put_u8(b'{');
            out.put_slice(rest);
        }
        None => out.put_slice(bytes),
    }
}
