//! List, then watch, for ever.
//!
//! Started by [`super::Informer`]. The loop:
//! 1. list (the first time whatever the server has at hand, later not older than what was seen before);
//! 2. watch from the list's revision, remembering each event's revision; bookmarks move it on;
//! 3. a watch that ends is resumed at the last revision; one that is refused as expired, or as from the future, starts
//!    over at 1.
//!
//! Failures back off from 0.2 s to 30 s with jitter and never end the loop; a server that answers somebody else again cuts
//! the wait short. A watch without a byte for three minutes is taken for dead and resumed: servers send bookmarks more
//! often than that.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use http::Method;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::store::Store;
use super::{Key, Object};
use crate::backoff::Backoff;
use crate::client::{ApiError, Client, ListOptions, Resource, decode_list, query};

/// One event's longest line: a 3 MiB object in JSON, escaped, with room to spare.
const MAX_LINE: usize = 32 << 20;
const IDLE: Duration = Duration::from_secs(180);
/// A watch that lasts shorter than this counts as a failure for the back-off.
const SHORT: Duration = Duration::from_secs(1);
/// Between two tries at least, however often the server seems to be back.
const LEAST: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BookmarkMeta {
    resource_version: String,
}

pub(super) struct Reflector<T> {
    client: Client,
    resource: Resource,
    options: ListOptions,
    store: Arc<Store<T>>,
}

impl<T: Object> Reflector<T> {
    pub(super) fn new(client: Client, resource: Resource, options: ListOptions, store: Arc<Store<T>>) -> Self {
        Self {
            client,
            resource,
            options,
            store,
        }
    }

    pub(super) async fn run(self) {
        let mut backoff = Backoff::reflector();
        let mut from = "0".to_owned();
        loop {
            match self.list(&from).await {
                Ok(revision) => {
                    backoff.reset();
                    from = self.watch(revision, &mut backoff).await;
                }
                Err(error) => {
                    if error.is_expired() || error.is_too_large_resource_version() {
                        from.clear();
                    }
                    warn!(resource = %self.resource.plural, %error, "Failed to list");
                    self.pause(&mut backoff).await;
                }
            }
        }
    }

    async fn pause(&self, backoff: &mut Backoff) {
        let wait = backoff.next(rand::random());
        let begun = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.client.reached() => {
                backoff.reset();
                tokio::time::sleep(LEAST.min(wait).saturating_sub(begun.elapsed())).await;
            }
        }
    }

    /// Fills the store; returns the revision to watch from.
    async fn list(&self, from: &str) -> Result<String, ApiError> {
        let options = ListOptions {
            resource_version: Some(from.to_owned()).filter(|v| !v.is_empty()),
            ..self.options.clone()
        };
        let path = query(
            &self.resource.path(options.namespace.as_deref(), None, None),
            &options.pairs(),
        );
        let body = self.client.call(Method::GET, &path, None, T::accept_list()).await?;
        let list = decode_list(&body, |bytes| T::decode(bytes).map(|object| self.store.kept(object)))?;
        self.store
            .replace(list.items, list.resource_version.parse().unwrap_or(0));
        Ok(list.resource_version)
    }

    /// Watches until a new list is needed; returns the revision that the list must not be older than (empty: latest).
    async fn watch(&self, mut revision: String, backoff: &mut Backoff) -> String {
        loop {
            let started = Instant::now();
            let outcome = self.watch_once(&mut revision).await;
            let short = started.elapsed() < SHORT;
            match outcome {
                Ok(()) if !short => {
                    backoff.reset();
                    continue;
                }
                Ok(()) => debug!(resource = %self.resource.plural, "watch closed at once"),
                Err(error) if error.is_expired() => {
                    debug!(resource = %self.resource.plural, %error, "watch expired, listing again");
                    return String::new();
                }
                Err(ApiError::Decode(error)) => {
                    // An event that cannot be read has been missed: only a list can tell what it said.
                    warn!(resource = %self.resource.plural, error, "watch event unreadable, listing again");
                    self.pause(backoff).await;
                    return String::new();
                }
                // The server is behind what was seen: its data was restored from a backup. What is there counts.
                Err(error) if error.is_too_large_resource_version() => {
                    warn!(resource = %self.resource.plural, %error, "the server's revision is behind, listing again");
                    self.pause(backoff).await;
                    return String::new();
                }
                Err(error) => {
                    if !short {
                        backoff.reset();
                    }
                    debug!(resource = %self.resource.plural, %error, "watch failed");
                }
            }
            self.pause(backoff).await;
        }
    }

    async fn watch_once(&self, revision: &mut String) -> Result<(), ApiError> {
        let seconds = 300 + rand::random::<u64>() % 300;
        let mut pairs = self.options.pairs();
        pairs.retain(|(name, _)| matches!(*name, "labelSelector" | "fieldSelector"));
        pairs.push(("watch", "true".to_owned()));
        pairs.push(("allowWatchBookmarks", "true".to_owned()));
        pairs.push(("resourceVersion", revision.clone()));
        pairs.push(("timeoutSeconds", seconds.to_string()));
        let path = query(
            &self.resource.path(self.options.namespace.as_deref(), None, None),
            &pairs,
        );
        let mut body = self.client.stream(&path, T::accept()).await?;
        let mut buffer = BytesMut::new();
        let mut scanned = 0;
        loop {
            if let Some(end) = buffer
                .get(scanned..)
                .and_then(|rest| rest.iter().position(|b| *b == b'\n'))
            {
                let line = buffer.split_to(scanned + end + 1);
                scanned = 0;
                self.event(&line, revision)?;
                continue;
            }
            scanned = buffer.len();
            if scanned > MAX_LINE {
                return Err(ApiError::Decode(format!("a watch event longer than {MAX_LINE} bytes")));
            }
            match tokio::time::timeout(IDLE, body.next()).await {
                Err(_) | Ok(None) => return Ok(()),
                Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.map_err(ApiError::Transport)?),
            }
        }
    }

    fn event(&self, line: &[u8], revision: &mut String) -> Result<(), ApiError> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let line: Line<'_> = serde_json::from_slice(line).map_err(|e| ApiError::Decode(e.to_string()))?;
        let bytes = line.object.get().as_bytes();
        let seen = match line.r#type.as_ref() {
            "BOOKMARK" => {
                let bookmark: Bookmark = serde_json::from_slice(bytes).map_err(|e| ApiError::Decode(e.to_string()))?;
                bookmark.metadata.resource_version
            }
            "ERROR" => {
                let status: Value = serde_json::from_slice(bytes).map_err(|e| ApiError::Decode(e.to_string()))?;
                return Err(ApiError::from_status(500, &status));
            }
            kind => {
                let object = self.store.kept(T::decode(bytes).map_err(ApiError::Decode)?);
                let seen = object.meta().resource_version.clone().unwrap_or_default();
                match kind {
                    "ADDED" | "MODIFIED" => self.store.put(object),
                    "DELETED" => self.store.remove(&Key::of(object.as_ref()), Some(object)),
                    other => return Err(ApiError::Decode(format!("an event of unknown type {other:?}"))),
                }
                seen
            }
        };
        if !seen.is_empty() {
            self.store.set_revision(seen.parse().unwrap_or(0));
            *revision = seen;
        }
        Ok(())
    }
}
