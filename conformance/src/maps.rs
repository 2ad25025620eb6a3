//! Config maps of one namespace over plain HTTP: the cheapest objects to write, list and watch.

use serde_json::{Value, json};

use crate::http::Answer;
use crate::{Http, Namespace, Watch};

/// The config maps of a namespace, apart from the root CA's by a label.
pub struct Maps {
    pub http: Http,
    /// The collection's path.
    pub path: String,
}

impl Maps {
    #[must_use]
    pub fn of(ns: &Namespace) -> Self {
        Self {
            http: Http::admin(&ns.cluster),
            path: format!("/api/v1/namespaces/{}/configmaps", ns.name),
        }
    }

    /// Creates one with the label `test=yes` and more labels; the object as stored.
    #[must_use]
    pub fn create(&self, name: &str, labels: &Value) -> Value {
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"test": "yes"}}, "data": {"a": "1"}});
        for (key, value) in labels.as_object().into_iter().flatten() {
            object["metadata"]["labels"][key] = value.clone();
        }
        self.http.json("POST", &self.path, "application/json", &object).ok()
    }

    /// A JSON merge patch, which must succeed; the object as stored.
    #[must_use]
    pub fn merge(&self, name: &str, patch: &Value) -> Value {
        self.patch(name, "application/merge-patch+json", patch).ok()
    }

    /// A patch of a media type.
    #[must_use]
    pub fn patch(&self, name: &str, media: &str, patch: &Value) -> Answer {
        self.http.json("PATCH", &format!("{}/{name}", self.path), media, patch)
    }

    /// Deletes one, which must succeed.
    pub fn delete(&self, name: &str) {
        let _ = self
            .http
            .send("DELETE", &format!("{}/{name}", self.path), &[], &[])
            .ok();
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Value {
        self.http.get(&format!("{}/{name}", self.path)).ok()
    }

    /// A list with a query; only those that this helper made.
    #[must_use]
    pub fn list(&self, query: &str) -> Answer {
        self.http
            .get(&format!("{}?labelSelector=test%3Dyes&{query}", self.path))
    }

    /// A watch with a query; only of those that this helper made.
    #[must_use]
    pub fn watch(&self, query: &str) -> Watch {
        self.http
            .watch(&format!("{}?watch=1&labelSelector=test%3Dyes&{query}", self.path), &[])
    }
}

/// `metadata.resourceVersion` of an object, a list or an event's object.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn version(of: &Value) -> String {
    let found = of
        .pointer("/metadata/resourceVersion")
        .or_else(|| of.pointer("/object/metadata/resourceVersion"));
    found
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no resourceVersion in {of}"))
        .to_owned()
}
