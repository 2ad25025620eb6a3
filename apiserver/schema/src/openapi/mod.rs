//! OpenAPI v3 documents, one per group-version, made from the table of facts when somebody asks.
//!
//! `kubectl explain`, client-side apply (patch strategies and merge keys) and `--validate` read them. A document is made
//! once and kept as bytes; its address in the index carries a hash, so that clients may keep it as long as they like.
//! What is not described here: custom resources and aggregated APIs, whose documents come from elsewhere.

mod descriptions;
mod paths;
mod schema;
pub mod v2;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::facts::{facts, join_api_version};
use descriptions::Descriptions;

struct Document {
    group: &'static str,
    version: &'static str,
    bytes: OnceLock<Bytes>,
}

/// Every group-version of the table, by its path below `/openapi/v3`: `api/v1`, `apis/apps/v1`.
fn documents() -> &'static BTreeMap<String, Document> {
    static DOCUMENTS: OnceLock<BTreeMap<String, Document>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let resources = facts().resources().iter();
        resources
            .map(|r| {
                (
                    path(r.group, r.version),
                    Document {
                        group: r.group,
                        version: r.version,
                        bytes: OnceLock::new(),
                    },
                )
            })
            .collect()
    })
}

fn path(group: &str, version: &str) -> String {
    format!(
        "{}/{}",
        if group.is_empty() { "api" } else { "apis" },
        join_api_version(group, version)
    )
}

/// The document of a group-version, by its path below `/openapi/v3` (`apis/apps/v1`); `None` if there is none.
#[must_use]
pub fn v3(path: &str) -> Option<&'static Bytes> {
    let document = documents().get(path)?;
    Some(
        document
            .bytes
            .get_or_init(|| Bytes::from(make(document.group, document.version).to_string())),
    )
}

/// What changes whenever a document does: the facts that it is made from, and the code that makes it.
#[must_use]
pub fn hash(path: &str) -> String {
    // The documents are a function of this build; making them all just to name them would cost every client that starts.
    let text = format!("{}/{}/{path}", env!("CARGO_PKG_VERSION"), env!("STEERSMAN_FACTS_HASH"));
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in text.bytes() {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    format!("{hash:032X}")
}

/// The index at `/openapi/v3`, of the group-versions that `served` names.
#[must_use]
pub fn v3_index(served: impl Fn(&str, &str) -> bool) -> Value {
    let entries = documents().iter().filter(|(_, d)| served(d.group, d.version));
    let paths = entries.map(|(path, _)| {
        (
            path.clone(),
            json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", hash(path))}),
        )
    });
    json!({"paths": Value::Object(paths.collect())})
}

fn make(group: &str, version: &str) -> Value {
    let texts = Descriptions::unpack();
    let mut paths = paths::of(facts(), group, version);
    paths
        .types
        .push("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent".into());
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths.paths,
        "components": {
            "schemas": schema::closure(facts(), &paths.types, &texts),
            "securitySchemes": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(path: &str) -> Value {
        serde_json::from_slice(v3(path).expect("a document")).expect("JSON")
    }

    #[test]
    fn every_reference_of_every_document_resolves() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|v| references(v, found));
                }
                Value::Array(items) => items.iter().for_each(|v| references(v, found)),
                _ => {}
            }
        }
        for path in documents().keys() {
            let document = document(path);
            let mut found = Vec::new();
            references(&document, &mut found);
            for reference in found {
                let name = reference.trim_start_matches("#/components/schemas/");
                let schema = &document["components"]["schemas"][name];
                assert!(schema.as_object().is_some_and(|s| !s.is_empty()), "{path}: {reference}");
            }
        }
    }

    #[test]
    fn a_field_carries_its_words_its_topology_and_how_it_is_patched() {
        let core = document("api/v1");
        let ports = &core["components"]["schemas"]["io.k8s.api.core.v1.Container"]["properties"]["ports"];
        assert!(
            ports["description"]
                .as_str()
                .is_some_and(|d| d.starts_with("List of ports to expose from the container."))
        );
        assert_eq!(
            ports["x-kubernetes-list-map-keys"],
            json!(["containerPort", "protocol"])
        );
        assert_eq!(ports["x-kubernetes-patch-merge-key"], json!("containerPort"));
        assert_eq!(ports["x-kubernetes-patch-strategy"], json!("merge"));
    }

    #[test]
    fn kubectl_finds_out_that_the_server_validates_fields() {
        let apps = document("apis/apps/v1");
        let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        let names: Vec<&Value> = patch["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| &p["name"])
            .collect();
        assert!(names.contains(&&json!("fieldValidation")) && names.contains(&&json!("dryRun")));
    }

    #[test]
    fn the_index_names_what_is_served_with_a_hash() {
        let index = v3_index(|group, version| (group, version) == ("apps", "v1"));
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
            .as_str()
            .unwrap_or_default();
        assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={}", hash("apis/apps/v1")));
        assert_eq!(index["paths"].as_object().map(serde_json::Map::len), Some(1));
    }
}
