//! GET of a collection: from an immutable snapshot of the cache, page by page, streamed object by object.

mod resume;
mod stream;
mod wire;

use std::sync::Arc;

use http::Response;
use serde_json::{Map, Value, json};
use steersman_schema::codec::MediaType;
use steersman_schema::status::Status;
use steersman_storage::cache::{self, Cache, Object, Snapshot};

use self::resume::{Continue, inconsistent};
use self::stream::{Piece, streamed};
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
