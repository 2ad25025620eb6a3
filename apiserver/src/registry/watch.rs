//! WATCH: a cursor into the cache's event log, as frames on the wire.
//!
//! An event is encoded once per media type and version, whoever listens; a slow client holds a cursor, not a queue.
//! Selectors turn changes into what the client sees: an object that begins to match is ADDED, one that ceases to is
//! DELETED.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use steersman_schema::codec::{self, MediaType};
use steersman_schema::status::Status;
use steersman_storage::cache::{self, Event, Next, Object, Scope, Watch};
use tokio::time::Instant;

use super::matching::{Matcher, stored_field};
use super::object::{self, Form};
use super::{cache_refusal, transform};
use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Call, Target};
use crate::negotiate::{self, MetaVersion, Output, Transform};
use crate::options::{ListOptions, parse_version};
use crate::resources::Resource;
use crate::respond;

/// How often a bookmark is sent (upstream: about every minute).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A last bookmark this long before the end.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Frames are put together up to this many bytes.
const CHUNK: usize = 64 * 1024;
/// The annotation on the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
            Self::Error => "ERROR",
        }
    }
}

/// Answers a watch.
///
/// # Errors
/// 400 and 422 for bad options, what the cache cannot do. A revision that is too old is an ERROR event.
pub async fn watch(api: &Arc<Api>, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.shared_call().clone();
    let output = negotiate::output(&call.headers, &call.query, true)?;
    let resource = target.resource.clone();
    let options = ListOptions::read(&call.query, true, &resource)?;
    if matches!(output.transform, Transform::Table(_)) {
        transform::include(&call.query)?;
    }
    if !options.fields.is_empty()
        && !target.name.is_empty()
        && options.fields.exact("metadata.name") != Some(target.name.as_str())
    {
        return Err(Status::bad_request(
            "fieldSelector metadata.name doesn't match requested name",
        ));
    }
    let begun = begin(api, target, &options).await;
    let lifetime = match options.timeout_seconds {
        Some(seconds) => Duration::from_secs(seconds),
        None => {
            let least = api.options.limits.min_request_timeout.max(1);
            Duration::from_secs(least + rand::random::<u64>() % least)
        }
    };
    let content_type = match output.media {
        MediaType::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    let (events, initial, failed) = match begun {
        Ok((events, initial)) => (Some(events), initial, None),
        // Known only when the stream should have begun already, so it is said inside it.
        Err(status)
            if status.reason == "Expired" || options.send_initial_events == Some(true) && status.code == 504 =>
        {
            (None, Vec::new(), Some(status))
        }
        Err(status) => return Err(status),
    };
    let now = Instant::now();
    let deadline = now + lifetime;
    let watching = Watching {
        api: api.clone(),
        call,
        resource,
        output,
        bookmark_after_initial: wants_state(&options) && options.bookmarks,
        bookmarks: options.bookmarks,
        next_bookmark: (now + BOOKMARK_EVERY).min(deadline.checked_sub(BOOKMARK_BEFORE_END).unwrap_or(deadline)),
        deadline,
        options,
        events,
        initial: initial.into(),
        failed,
        said_columns: false,
        over: false,
    };
    let frames = stream::unfold(watching, |mut watching| async move {
        let chunk = watching.next().await?;
        Some((Ok(Frame::data(chunk)), watching))
    });
    Ok(respond::stream(content_type, StreamBody::new(frames).boxed_unsync()))
}

/// Whether the watch begins with what is there: asked for, or by upstream's default for watches without a revision.
fn wants_state(options: &ListOptions) -> bool {
    let anew = matches!(options.resource_version.as_str(), "" | "0");
    options.send_initial_events.unwrap_or(anew)
}

/// The cursor, and the objects that are told first.
async fn begin(api: &Api, target: &Target, options: &ListOptions) -> Result<(Watch, Vec<Arc<Object>>), Status> {
    let resource = &target.resource;
    let refuse = |error| cache_refusal(error, resource, "watch");
    let within = resource.within(&target.namespace);
    let exact_name = options
        .fields
        .exact("metadata.name")
        .or((!target.name.is_empty()).then_some(target.name.as_str()));
    let scope = match exact_name {
        Some(name) if !target.namespace.is_empty() || !resource.facts.namespaced => {
            Scope::key(&resource.prefix, &resource.key(&target.namespace, name))
        }
        _ => Scope::prefix(&resource.prefix, &within),
    };
    let node = options.fields.terms().iter().find(|term| {
        !term.negated
            && !term.value.is_empty()
            && resource.is("", "pods")
            && stored_field(resource, &term.field) == "spec.nodeName"
    });
    let scope = match node {
        Some(term) => scope.with_field("spec.nodeName", &term.value),
        None => scope,
    };
    let cache = &api.cache;
    let revision = parse_version(&options.resource_version)?;
    let wants_state = wants_state(options);
    if revision > 0 && !wants_state {
        // Events up to a future revision will simply come later; a revision from another life never comes.
        return cache
            .watch(scope, revision)
            .map(|watch| (watch, Vec::new()))
            .map_err(refuse);
    }
    if options.resource_version.is_empty() {
        api.fresh().await.map_err(refuse)?;
    } else if revision > 0 {
        cache.wait_for(revision).await.map_err(refuse)?;
    } else if !cache.is_ready() {
        return Err(refuse(cache::Error::NotReady));
    }
    let snapshot = cache.snapshot(&resource.prefix);
    let watch = cache.watch(scope, snapshot.revision()).map_err(refuse)?;
    let matcher = Matcher {
        resource,
        labels: &options.labels,
        fields: &options.fields,
    };
    let initial = if wants_state {
        snapshot
            .range(&within, None)
            .filter(|object| matcher.matches(object))
            .cloned()
            .collect()
    } else {
        Vec::new()
    };
    Ok((watch, initial))
}

/// A watch that is being served.
struct Watching {
    api: Arc<Api>,
    call: Arc<Call>,
    resource: Arc<Resource>,
    output: Output,
    options: ListOptions,
    events: Option<Watch>,
    initial: VecDeque<Arc<Object>>,
    bookmark_after_initial: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    /// What to say instead of everything else.
    failed: Option<Status>,
    /// Whether a Table's column definitions have been sent.
    said_columns: bool,
    over: bool,
}

impl Watching {
    /// The next bytes to send; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if let Some(status) = self.failed.take() {
            return Some(self.fail(&status));
        }
        if !self.initial.is_empty() {
            return Some(self.next_initial());
        }
        if std::mem::take(&mut self.bookmark_after_initial) {
            let revision = self.events.as_mut()?.revision();
            return Some(self.bookmark(revision, true));
        }
        loop {
            let draining = self.api.draining.clone();
            let events = self.events.as_mut()?;
            // Every reason to wake: events, a bookmark that is due, the end of the watch, the end of the server.
            tokio::select! {
                biased;
                () = draining.cancelled() => return None,
                next = events.next() => match next {
                    Next::Events(events) => {
                        let chunk = self.frames(&events);
                        if !chunk.is_empty() {
                            return Some(chunk);
                        }
                    }
                    Next::Expired => {
                        return Some(self.fail(&Status::expired("The resourceVersion for the provided watch is too old.")));
                    }
                },
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    let revision = events.revision();
                    let now = Instant::now();
                    let last = self.deadline.checked_sub(BOOKMARK_BEFORE_END).unwrap_or(self.deadline);
                    self.next_bookmark = if now >= last { self.deadline + BOOKMARK_EVERY } else { (now + BOOKMARK_EVERY).min(last) };
                    return Some(self.bookmark(revision, false));
                }
            }
        }
    }

    fn fail(&mut self, status: &Status) -> Bytes {
        self.over = true;
        let bytes = codec::encode(self.output.media, &status.to_value()).unwrap_or_default();
        let mut out = BytesMut::new();
        put_frame(&mut out, self.output.media, Kind::Error, &bytes);
        out.freeze()
    }

    fn next_initial(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        while out.len() < CHUNK
            && let Some(object) = self.initial.pop_front()
        {
            match self.encode_now(&object, None) {
                Ok(bytes) => put_frame(&mut out, self.output.media, Kind::Added, &bytes),
                Err(status) => {
                    let end = self.fail(&status);
                    out.put_slice(&end);
                    break;
                }
            }
        }
        out.freeze()
    }

    fn frames(&mut self, events: &[Arc<Event>]) -> Bytes {
        let mut out = BytesMut::new();
        for event in events {
            let Some(kind) = self.seen_as(event) else { continue };
            match self.frame(event, kind) {
                // One event alone is sent as it is kept, without a copy.
                Ok(frame) if events.len() == 1 => return frame,
                Ok(frame) => out.put_slice(&frame),
                Err(status) => {
                    let end = self.fail(&status);
                    out.put_slice(&end);
                    break;
                }
            }
        }
        out.freeze()
    }

    /// What the client sees of an event: by whether the object matched before and matches now.
    fn seen_as(&self, event: &Event) -> Option<Kind> {
        let matcher = Matcher {
            resource: &self.resource,
            labels: &self.options.labels,
            fields: &self.options.fields,
        };
        let before = event.old().is_some_and(|object| matcher.matches(object));
        let after = event.new().is_some_and(|object| matcher.matches(object));
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(Kind::Added),
            (true, true) => Some(Kind::Modified),
            (true, false) => Some(Kind::Deleted),
        }
    }

    fn frame(&mut self, event: &Event, kind: Kind) -> Result<Bytes, Status> {
        let form = match self.output.transform {
            Transform::None => Form::Whole,
            Transform::PartialObjectMetadata(MetaVersion::V1)
            | Transform::PartialObjectMetadataList(MetaVersion::V1) => Form::Metadata,
            _ => {
                let mut out = BytesMut::new();
                let object = shown(event, kind).ok_or_else(|| Status::internal("event without object"))?;
                let bytes = self.encode_now(object, (kind == Kind::Deleted).then(|| event.revision()))?;
                put_frame(&mut out, self.output.media, kind, &bytes);
                return Ok(out.freeze());
            }
        };
        // As many as an object has, times three.
        let slot = object::slot(&self.resource, self.output.media, form) * 3 + kind as u8;
        let (resource, media) = (&self.resource, self.output.media);
        event.encoding(slot, || {
            let object = shown(event, kind).ok_or_else(|| Status::internal("event without object"))?;
            let bytes = if kind == Kind::Deleted {
                // The last state there was, at the revision of the event.
                let last = codec::with_resource_version(object.stored(), event.revision()).map_err(Status::internal)?;
                object::encode_stored(resource, &last, object.key(), media, form)?
            } else {
                object::encode(resource, object, media, form)?
            };
            let mut out = BytesMut::with_capacity(bytes.len() + 64);
            put_frame(&mut out, media, kind, &bytes);
            Ok(out.freeze())
        })
    }

    /// An object in the negotiated form, not kept. `revision` replaces its resourceVersion.
    fn encode_now(&mut self, object: &Arc<Object>, revision: Option<i64>) -> Result<Bytes, Status> {
        let form = match self.output.transform {
            Transform::None if revision.is_none() => {
                return object::bytes(&self.api.cache, &self.resource, object, self.output.media, Form::Whole);
            }
            Transform::PartialObjectMetadata(MetaVersion::V1) if revision.is_none() => {
                return object::bytes(
                    &self.api.cache,
                    &self.resource,
                    object,
                    self.output.media,
                    Form::Metadata,
                );
            }
            other => other,
        };
        let mut value = object::value(&self.resource, object)?;
        if let Some(revision) = revision {
            object::set_version(&mut value, revision);
        }
        let value = match form {
            Transform::Table(version) => {
                let headers = !std::mem::replace(&mut self.said_columns, true);
                let metadata =
                    json!({"resourceVersion": value.pointer("/metadata/resourceVersion").cloned().unwrap_or_default()});
                transform::table(
                    &self.resource,
                    metadata,
                    vec![value],
                    version,
                    &self.call.query,
                    self.call.now,
                    headers,
                )?
            }
            Transform::PartialObjectMetadata(version) | Transform::PartialObjectMetadataList(version) => {
                object::partial(value, version.api_version())
            }
            Transform::None => value,
        };
        codec::encode(self.output.media, &value)
            .map(Bytes::from)
            .map_err(Status::internal)
    }

    fn bookmark(&mut self, revision: i64, ends_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if ends_initial {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let value: Value = match self.output.transform {
            Transform::Table(version) => {
                let object =
                    json!({"apiVersion": version.api_version(), "kind": "PartialObjectMetadata", "metadata": metadata});
                json!({"apiVersion": version.api_version(), "kind": "Table", "metadata": {"resourceVersion": revision.to_string()},
                    "columnDefinitions": [], "rows": [{"cells": [], "object": object}]})
            }
            Transform::PartialObjectMetadata(version) | Transform::PartialObjectMetadataList(version) => {
                json!({"apiVersion": version.api_version(), "kind": "PartialObjectMetadata", "metadata": metadata})
            }
            Transform::None => {
                json!({"apiVersion": self.resource.api_version, "kind": self.resource.gvk.kind, "metadata": metadata})
            }
        };
        let bytes = codec::encode(self.output.media, &value).unwrap_or_default();
        let mut out = BytesMut::new();
        put_frame(&mut out, self.output.media, Kind::Bookmark, &bytes);
        out.freeze()
    }
}

fn shown(event: &Event, kind: Kind) -> Option<&Arc<Object>> {
    // An object that ceases to match is shown as it was when it matched, as upstream does.
    if kind == Kind::Deleted {
        event.old()
    } else {
        event.new()
    }
}

/// One event on the wire: a line of JSON, or a length and upstream's `WatchEvent` message around the object's envelope.
fn put_frame(out: &mut BytesMut, media: MediaType, kind: Kind, object: &[u8]) {
    if media != MediaType::Protobuf {
        out.put_slice(br#"{"type":""#);
        out.put_slice(kind.text().as_bytes());
        out.put_slice(br#"","object":"#);
        out.put_slice(object.strip_suffix(b"\n").unwrap_or(object));
        out.put_slice(b"}\n");
        return;
    }
    let mut raw = Vec::with_capacity(object.len() + 8);
    put_bytes(&mut raw, object);
    let mut message = Vec::with_capacity(raw.len() + 24);
    put_bytes(&mut message, kind.text().as_bytes());
    message.push(2 << 3 | 2);
    put_length(&mut message, raw.len());
    message.extend_from_slice(&raw);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(&message);
}

/// Field 1, length-delimited.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(1 << 3 | 2);
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}
