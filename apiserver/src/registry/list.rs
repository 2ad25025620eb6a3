//! GET of a collection: from an immutable snapshot of the cache, page by page, streamed object by object.

use std::sync::Arc;

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Map, Value, json};
use steersman_schema::codec::{Envelope, MediaType};
use steersman_schema::status::Status;
use steersman_storage::cache::{self, Cache, Object, Snapshot};

use super::matching::{Matcher, stored_field};
use super::object::{self, Form};
use super::rows::Rows;
use super::{cache_refusal, transform};
use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::negotiate::{self, MetaVersion, Output, Transform};
use crate::options::{ListOptions, VersionMatch, parse_version};
use crate::resources::Resource;
use crate::respond;

/// Bytes of a list that are put together before they are sent.
const CHUNK: usize = 64 * 1024;

/// The objects of one page, and what the list's metadata says.
pub struct Selected {
    pub objects: Vec<Arc<Object>>,
    pub revision: i64,
    pub continue_token: String,
    pub remaining: Option<usize>,
}

/// Answers a list.
///
/// # Errors
/// 400 and 422 for bad options, 410 when the page is gone, what the cache cannot do.
pub async fn list(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let options = ListOptions::read(&call.query, false, &target.resource)?;
    let mut rows = None;
    if matches!(output.transform, Transform::Table(_)) {
        let include = transform::include(&call.query)?;
        let headers = !call.query.flag("noHeaders").unwrap_or(false);
        let now = call.now;
        rows = Some(Rows { include, headers, now });
    }
    let selected = select(api, target, &options).await?;
    let resource = target.resource.clone();
    let plain = output.media != MediaType::Yaml && !output.pretty;
    match output.transform {
        Transform::PartialObjectMetadata(_) => return Err(transform::wrong_shape(&resource, true)),
        Transform::Table(MetaVersion::V1) if plain => {
            return streamed(
                api.cache.clone(),
                resource,
                selected,
                &output,
                rows.map_or(Piece::OBJECT, Piece::Row),
            );
        }
        Transform::PartialObjectMetadataList(MetaVersion::V1) if plain => {
            return streamed(
                api.cache.clone(),
                resource,
                selected,
                &output,
                Piece::Object(Form::Metadata),
            );
        }
        Transform::Table(version) => {
            let values = values(&resource, &selected.objects)?;
            let table = transform::table(
                &resource,
                metadata(&selected),
                values,
                version,
                &call.query,
                call.now,
                true,
            )?;
            return respond::object(&output, 200, &table);
        }
        _ => {}
    }
    if !plain || matches!(output.transform, Transform::PartialObjectMetadataList(_)) {
        return whole(&resource, &selected, &output);
    }
    streamed(api.cache.clone(), resource, selected, &output, Piece::OBJECT)
}

/// The objects that a list or deletecollection is about.
///
/// # Errors
/// 410 when the page is gone, what the cache cannot do.
pub async fn select(api: &Api, target: &Target, options: &ListOptions) -> Result<Selected, Status> {
    let resource = &target.resource;
    let refuse = |error| cache_refusal(error, resource, "list");
    let cache = &api.cache;
    // Upstream's tokens are relative to the collection that is listed.
    let base = resource.within(&target.namespace);
    let mut after = None;
    let mut limit = options.limit;
    let snapshot = if options.continue_token.is_empty() {
        match options.resource_version.as_str() {
            "" => {
                api.fresh().await.map_err(refuse)?;
                cache.snapshot(&resource.prefix)
            }
            "0" => {
                if !cache.is_ready() {
                    return Err(refuse(cache::Error::NotReady));
                }
                // Any state will do, and all of it: upstream ignores the limit here.
                limit = 0;
                cache.snapshot(&resource.prefix)
            }
            version => {
                let revision = parse_version(version)?;
                cache.wait_for(revision).await.map_err(refuse)?;
                let exact = options.version_match == VersionMatch::Exact
                    || (options.version_match == VersionMatch::Unset && limit > 0);
                if exact {
                    at(cache, resource, revision)?
                } else {
                    cache.snapshot(&resource.prefix)
                }
            }
        }
    } else {
        let token = Continue::read(&options.continue_token)?;
        match options.resource_version.as_str() {
            "" => {}
            "0" => limit = 0,
            _ => {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
        }
        after = Some(format!("{base}{}", token.after));
        if token.revision < 0 {
            api.fresh().await.map_err(refuse)?;
            cache.snapshot(&resource.prefix)
        } else {
            cache.wait_for(token.revision).await.map_err(refuse)?;
            match cache.snapshot_at(&resource.prefix, token.revision) {
                Ok(snapshot) => snapshot,
                Err(cache::Error::Expired { .. }) => return Err(inconsistent(&token.after)),
                Err(error) => return Err(refuse(error)),
            }
        }
    };
    pick(target, options, &snapshot, after.as_deref(), limit)
}

fn at(cache: &Cache, resource: &Resource, revision: i64) -> Result<Snapshot, Status> {
    cache
        .snapshot_at(&resource.prefix, revision)
        .map_err(|error| match error {
            cache::Error::Expired { .. } => Status::expired("The resourceVersion for the provided list is too old."),
            other => cache_refusal(other, resource, "list"),
        })
}

fn pick(
    target: &Target,
    options: &ListOptions,
    snapshot: &Snapshot,
    after: Option<&str>,
    limit: usize,
) -> Result<Selected, Status> {
    let resource = &target.resource;
    let within = resource.within(&target.namespace);
    let matcher = Matcher {
        resource,
        labels: &options.labels,
        fields: &options.fields,
    };
    let mut objects = Vec::new();
    let mut more = false;
    let mut take = |object: &Arc<Object>| {
        if !matcher.matches(object) {
            return true;
        }
        if limit > 0 && objects.len() == limit {
            more = true;
            return false;
        }
        objects.push(object.clone());
        true
    };
    let exact_name = options
        .fields
        .exact("metadata.name")
        .filter(|_| !target.namespace.is_empty() || !resource.facts.namespaced);
    let by_node = options.fields.terms().iter().find(|term| {
        !term.negated && resource.is("", "pods") && stored_field(resource, &term.field) == "spec.nodeName"
    });
    if let Some(name) = exact_name {
        let key = resource.key(&target.namespace, name);
        let behind = after.is_some_and(|after| key.as_str() <= after);
        if let Some(object) = snapshot.get(&key).filter(|_| !behind) {
            take(object);
        }
    } else if let Some(term) = by_node.filter(|term| after.is_none() && !term.value.is_empty()) {
        let inside = |object: &&Arc<Object>| object.key().starts_with(&within);
        let _ = snapshot.by_field("spec.nodeName", &term.value).filter(inside).all(take);
    } else {
        let _ = snapshot.range(&within, after).all(take);
    }
    let mut selected = Selected {
        objects,
        revision: snapshot.revision(),
        continue_token: String::new(),
        remaining: None,
    };
    if more && let Some(last) = selected.objects.last() {
        let last = last.key().strip_prefix(&within).unwrap_or_default().to_owned();
        if options.selects_all() {
            selected.remaining = Some(snapshot.count(&within, Some(&format!("{within}{last}"))));
        }
        selected.continue_token = Continue {
            revision: snapshot.revision(),
            after: last,
        }
        .write();
    }
    Ok(selected)
}

/// The list's metadata.
pub fn metadata(selected: &Selected) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), selected.revision.to_string().into());
    if !selected.continue_token.is_empty() {
        metadata.insert("continue".into(), selected.continue_token.as_str().into());
    }
    if let Some(remaining) = selected.remaining {
        metadata.insert("remainingItemCount".into(), remaining.into());
    }
    Value::Object(metadata)
}

/// Every object as a value.
///
/// # Errors
/// 500 when one cannot be read.
pub fn values(resource: &Resource, objects: &[Arc<Object>]) -> Result<Vec<Value>, Status> {
    objects.iter().map(|object| object::value(resource, object)).collect()
}

/// The list as one value: for people, for YAML, and for metadata alone.
fn whole(resource: &Resource, selected: &Selected, output: &Output) -> Result<Response<Body>, Status> {
    let mut items = values(resource, &selected.objects)?;
    let (api_version, kind) = match output.transform {
        Transform::PartialObjectMetadataList(version) => {
            items = items
                .into_iter()
                .map(|item| object::partial(item, version.api_version()))
                .collect();
            (version.api_version(), "PartialObjectMetadataList")
        }
        _ => {
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                item.remove("apiVersion");
                item.remove("kind");
            }
            (resource.api_version.as_str(), resource.list_kind.as_str())
        }
    };
    let list = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata(selected), "items": items});
    respond::object(output, 200, &list)
}

/// What stands for an object in the list.
#[derive(Clone, Copy)]
enum Piece {
    Object(Form),
    Row(Rows),
}

impl Piece {
    const OBJECT: Self = Self::Object(Form::Whole);

    /// `apiVersion` and `kind` of the list.
    fn list_type<'a>(self, resource: &'a Resource) -> (&'a str, &'a str) {
        match self {
            Self::Object(Form::Metadata) => ("meta.k8s.io/v1", "PartialObjectMetadataList"),
            _ => (resource.api_version.as_str(), resource.list_kind.as_str()),
        }
    }
}

/// The list piece by piece: what is held is the snapshot's objects and one chunk.
fn streamed(
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

fn put_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
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

/// Reads what upstream reads: bits that are left over at the end do not matter.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// A continue token: the revision to read at and the last key given, without the resource's prefix.
#[derive(Debug, PartialEq, Eq)]
struct Continue {
    revision: i64,
    after: String,
}

impl Continue {
    fn write(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": format!("/{}\0", self.after)});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn read(text: &str) -> Result<Self, Status> {
        #[derive(serde::Deserialize)]
        struct Token {
            #[serde(default)]
            v: String,
            #[serde(default)]
            rv: i64,
            #[serde(default)]
            start: String,
        }
        let refuse = |why: String| Status::bad_request(format!("invalid continue token: {why}"));
        let generic = |why: &dyn std::fmt::Display| refuse(format!("continue key is not valid: {why}"));
        let bytes = LENIENT.decode(text).map_err(|error| generic(&error))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|error| generic(&error))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(refuse(format!(
                "continue key is not valid: server does not recognize this encoded version {}",
                token.v
            )));
        }
        if token.rv == 0 {
            return Err(refuse(
                "continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into(),
            ));
        }
        if token.start.is_empty() {
            return Err(refuse(
                "continue key is not valid: encoded start key empty (version meta.k8s.io/v1)".into(),
            ));
        }
        let after = token.start.trim_end_matches('\0').trim_start_matches('/');
        if after
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..")
        {
            return Err(generic(&token.start));
        }
        Ok(Self {
            revision: token.rv,
            after: after.to_owned(),
        })
    }
}

/// The page's revision is gone: 410 with a token for the rest of the newest state.
fn inconsistent(after: &str) -> Status {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.continue_token = Continue {
        revision: -1,
        after: after.to_owned(),
    }
    .write();
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_comes_back_as_it_went() {
        let token = Continue {
            revision: 42,
            after: "default/web".into(),
        };
        assert_eq!(Continue::read(&token.write()).ok(), Some(token));
    }

    #[test]
    fn varint_lengths_are_those_written() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value), "{value}");
        }
    }

    #[test]
    fn tampered_tokens_are_refused() {
        let write = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        for token in [
            "%%%".to_owned(),
            URL_SAFE_NO_PAD.encode("junk"),
            write(json!({"v": "v0", "rv": 1, "start": "a"})),
            write(json!({"v": "meta.k8s.io/v1", "rv": 0, "start": "a"})),
            write(json!({"v": "meta.k8s.io/v1", "rv": 1, "start": ""})),
            write(json!({"v": "meta.k8s.io/v1", "rv": 1, "start": "../secrets/a"})),
        ] {
            assert_eq!(Continue::read(&token).map_err(|s| s.code), Err(400), "{token}");
        }
    }
}
