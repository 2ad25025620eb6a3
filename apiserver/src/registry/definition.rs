//! CustomResourceDefinitions as upstream's server stores them: in apiextensions.k8s.io/v1beta1, which nobody serves any
//! more. We store v1, which upstream reads as well.

use serde_json::{Map, Value, json};

use crate::resources::Resource;

/// The version in which upstream stores them.
pub const OLD: &str = "apiextensions.k8s.io/v1beta1";

/// Whether stored bytes may be a definition in the old version: where they may, one has to look inside.
pub fn maybe_old(resource: &Resource, stored: &[u8]) -> bool {
    const NAME: &[u8] = b"\"apiextensions.k8s.io/v1beta1\"";
    resource.group() == "apiextensions.k8s.io" && stored.windows(NAME.len()).any(|part| part == NAME)
}

/// From v1beta1 to v1: what v1beta1 may say once for all versions is said in each of them.
pub fn to_v1(definition: &mut Value) {
    definition["apiVersion"] = "apiextensions.k8s.io/v1".into();
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let single = spec.remove("version").unwrap_or_default();
    let versions = spec.entry("versions").or_insert_with(|| json!([]));
    if versions.as_array().is_none_or(Vec::is_empty) {
        *versions = json!([{"name": single, "served": true, "storage": true}]);
    }
    let shared = [
        ("schema", spec.remove("validation")),
        ("subresources", spec.remove("subresources")),
        ("additionalPrinterColumns", spec.remove("additionalPrinterColumns")),
        ("selectableFields", spec.remove("selectableFields")),
    ];
    let versions = spec.get_mut("versions").and_then(Value::as_array_mut);
    for version in versions.into_iter().flatten().filter_map(Value::as_object_mut) {
        for (name, value) in &shared {
            if let Some(value) = value {
                version.entry(*name).or_insert_with(|| value.clone());
            }
        }
        let columns = version
            .get_mut("additionalPrinterColumns")
            .and_then(Value::as_array_mut);
        for column in columns.into_iter().flatten().filter_map(Value::as_object_mut) {
            rename(column, "JSONPath", "jsonPath");
        }
    }
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) {
        let mut webhook = Map::new();
        for (from, to) in [
            ("webhookClientConfig", "clientConfig"),
            ("conversionReviewVersions", "conversionReviewVersions"),
        ] {
            if let Some(value) = conversion.remove(from) {
                webhook.insert(to.to_owned(), value);
            }
        }
        if !webhook.is_empty() && conversion.get("strategy").is_some_and(|s| s == "Webhook") {
            conversion.insert("webhook".to_owned(), webhook.into());
        }
    }
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        spec.remove("preserveUnknownFields");
    }
}

fn rename(object: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = object.remove(from) {
        object.insert(to.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_once_is_said_in_every_version() {
        let mut definition = json!({"spec": {
            "group": "g.example.com", "version": "v1", "scope": "Namespaced", "preserveUnknownFields": false,
            "versions": [{"name": "v1", "served": true, "storage": true}, {"name": "v2", "served": true, "storage": false}],
            "validation": {"openAPIV3Schema": {"type": "object"}},
            "subresources": {"status": {}},
            "additionalPrinterColumns": [{"name": "Age", "type": "date", "JSONPath": ".metadata.creationTimestamp"}],
            "conversion": {"strategy": "None"},
        }});
        to_v1(&mut definition);
        let more = json!({"schema": {"openAPIV3Schema": {"type": "object"}}, "subresources": {"status": {}},
            "additionalPrinterColumns": [{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]});
        let version = |name: &str, storage: bool| {
            let mut version = json!({"name": name, "served": true, "storage": storage});
            more.as_object()
                .into_iter()
                .flatten()
                .for_each(|(k, v)| version[k] = v.clone());
            version
        };
        let expected = json!({"apiVersion": "apiextensions.k8s.io/v1", "spec": {"group": "g.example.com", "scope": "Namespaced", "conversion": {"strategy": "None"},
            "versions": [version("v1", true), version("v2", false)]}});
        assert_eq!(definition, expected);
    }

    #[test]
    fn a_version_alone_becomes_the_list_of_versions_and_a_webhook_moves_in() {
        let mut definition = json!({"spec": {"version": "v1", "conversion": {"strategy": "Webhook",
            "webhookClientConfig": {"url": "https://localhost/"}, "conversionReviewVersions": ["v1"]}}});
        to_v1(&mut definition);
        let expected = json!({"apiVersion": "apiextensions.k8s.io/v1", "spec": {"versions": [{"name": "v1", "served": true, "storage": true}],
            "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://localhost/"}, "conversionReviewVersions": ["v1"]}}}});
        assert_eq!(definition, expected);
    }
}
