//! Discovery: which groups, versions and resources there are, in the old form and in the aggregated one.

use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use steersman_schema::codec::MediaType;
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::negotiate::{self, Discovery, Output};
use crate::resources::{Resource, Resources};
use crate::respond;

/// The content type of the aggregated form.
const AGGREGATED_JSON: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_PROTOBUF: &str =
    "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers `/api`, `/apis`, `/api/v1`, `/apis/GROUP`, `/apis/GROUP/VERSION`.
///
/// # Errors
/// 404 for other paths, 406 for encodings that cannot be made.
pub fn answer(api: &Api, call: &Call, path: &str) -> Result<Response<Body>, Status> {
    let resources = &api.resources;
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let wanted = negotiate::discovery(&call.headers).ok_or_else(|| Status::not_acceptable(negotiate::MEDIA_TYPES));
    let root = match parts.as_slice() {
        ["api"] => Some(true),
        ["apis"] => Some(false),
        _ => None,
    };
    if let Some(core) = root {
        let response = match wanted? {
            Discovery::Aggregated(media) => aggregated(resources, core, media, call)?,
            Discovery::Legacy(media) => {
                let value = if core {
                    bare(api_versions(&api.external_address), &call.headers)
                } else {
                    group_list(resources)
                };
                respond::object(&output(call, media), 200, &value)?
            }
        };
        return Ok(varying(response));
    }
    let value = match parts.as_slice() {
        ["api", version] if resources.serves("", version) => bare(resource_list(resources, "", version), &call.headers),
        ["apis", group]
            if resources
                .groups()
                .iter()
                .any(|(name, _)| name == group && !group.is_empty()) =>
        {
            let mut value = group_of(resources, group);
            value["apiVersion"] = "v1".into();
            value["kind"] = "APIGroup".into();
            value
        }
        ["apis", group, version] if !group.is_empty() && resources.serves(group, version) => {
            resource_list(resources, group, version)
        }
        _ => return Ok(respond::page_not_found()),
    };
    let media = match wanted? {
        Discovery::Legacy(media) | Discovery::Aggregated(media) => media,
    };
    respond::object(&output(call, media), 200, &value)
}

/// The two documents of core say no `apiVersion`, in JSON: they are older than it.
fn bare(mut value: Value, headers: &http::HeaderMap) -> Value {
    let json = matches!(negotiate::discovery(headers), Some(Discovery::Legacy(MediaType::Json)));
    if let Some(object) = value.as_object_mut().filter(|_| json) {
        object.remove("apiVersion");
    }
    value
}

fn output(call: &Call, media: MediaType) -> Output {
    let pretty = negotiate::output_of_refusal(&call.headers, &call.query).pretty;
    Output {
        media,
        pretty,
        gzip: negotiate::accepts_gzip(&call.headers),
        ..Output::default()
    }
}

fn varying(mut response: Response<Body>) -> Response<Body> {
    response
        .headers_mut()
        .append(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated(resources: &Resources, core: bool, media: MediaType, call: &Call) -> Result<Response<Body>, Status> {
    let value = group_discovery_list(resources, core);
    let output = Output {
        media,
        gzip: negotiate::accepts_gzip(&call.headers),
        ..Output::default()
    };
    let bytes = respond::encode(&output, &value)?;
    let etag = format!("\"{}\"", hex(&Sha256::digest(&bytes)).to_uppercase());
    let known = call
        .headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    let content_type = if media == MediaType::Protobuf {
        AGGREGATED_PROTOBUF
    } else {
        AGGREGATED_JSON
    };
    let mut response = if known == Some(etag.as_str()) {
        respond::plain(304, content_type, bytes::Bytes::new())
    } else {
        respond::compressed(output.gzip, 200, content_type, bytes)
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    Ok(response)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn api_versions(address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

fn group_list(resources: &Resources) -> Value {
    let groups: Vec<Value> = resources
        .groups()
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, _)| group_of(resources, name))
        .collect();
    json!({"apiVersion": "v1", "kind": "APIGroupList", "groups": groups})
}

fn group_of(resources: &Resources, group: &str) -> Value {
    let versions: &[&str] = resources
        .groups()
        .iter()
        .find(|(name, _)| *name == group)
        .map_or(&[], |(_, versions)| versions);
    let entry = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({
        "name": group,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(entry),
    })
}

fn of_version<'a>(resources: &'a Resources, group: &'a str, version: &'a str) -> Vec<&'a Resource> {
    let mut found: Vec<&Resource> = resources
        .all()
        .iter()
        .map(AsRef::as_ref)
        .filter(|r| r.facts.group == group && r.facts.version == version)
        .collect();
    found.sort_by_key(|resource| resource.facts.plural);
    found
}

/// `storageVersionHash`: eight bytes of a hash of the storage's group, version and kind.
fn storage_hash(resource: &Resource) -> String {
    use base64::Engine;
    let gvk = &resource.stored_gvk;
    let text = format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind);
    base64::engine::general_purpose::STANDARD.encode(&Sha256::digest(text.as_bytes())[..8])
}

fn resource_list(resources: &Resources, group: &str, version: &str) -> Value {
    let mut list = Vec::new();
    for resource in of_version(resources, group, version) {
        let facts = resource.facts;
        let mut entry = json!({
            "name": facts.plural, "singularName": facts.singular, "namespaced": facts.namespaced,
            "kind": facts.kind, "verbs": facts.verbs,
        });
        if !facts.short_names.is_empty() {
            entry["shortNames"] = json!(facts.short_names);
        }
        if !facts.categories.is_empty() {
            entry["categories"] = json!(facts.categories);
        }
        if facts.stored() {
            entry["storageVersionHash"] = storage_hash(resource).into();
        }
        list.push(entry);
        for sub in &facts.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", facts.plural, sub.name), "singularName": "", "namespaced": facts.namespaced,
                "kind": sub.kind, "verbs": sub.verbs,
            });
            if (sub.group, sub.version) != (facts.group, facts.version) {
                entry["group"] = sub.group.into();
                entry["version"] = sub.version.into();
            }
            list.push(entry);
        }
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    json!({"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": group_version, "resources": list})
}

fn group_discovery_list(resources: &Resources, core: bool) -> Value {
    let mut items = Vec::new();
    for (group, versions) in resources.groups().iter().filter(|(name, _)| name.is_empty() == core) {
        let versions: Vec<Value> = versions
            .iter()
            .map(|version| {
                let found: Vec<Value> = of_version(resources, group, version)
                    .into_iter()
                    .map(resource_discovery)
                    .collect();
                json!({"version": version, "freshness": "Current", "resources": found})
            })
            .collect();
        let mut metadata = json!({"creationTimestamp": null});
        if !group.is_empty() {
            metadata["name"] = (*group).into();
        }
        items.push(json!({"metadata": metadata, "versions": versions}));
    }
    json!({"apiVersion": "apidiscovery.k8s.io/v2", "kind": "APIGroupDiscoveryList", "metadata": {}, "items": items})
}

fn resource_discovery(resource: &Resource) -> Value {
    let facts = resource.facts;
    let mut entry = json!({
        "resource": facts.plural,
        "responseKind": {"group": facts.group, "version": facts.version, "kind": facts.kind},
        "scope": if facts.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": facts.singular,
        "verbs": facts.verbs,
    });
    if !facts.short_names.is_empty() {
        entry["shortNames"] = json!(facts.short_names);
    }
    if !facts.categories.is_empty() {
        entry["categories"] = json!(facts.categories);
    }
    if !facts.subresources.is_empty() {
        let subresources: Vec<Value> = facts
            .subresources
            .iter()
            .map(|sub| {
                json!({
                    "subresource": sub.name,
                    "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                    "verbs": sub.verbs,
                })
            })
            .collect();
        entry["subresources"] = subresources.into();
    }
    entry
}
