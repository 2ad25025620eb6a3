//! Whether an object is what selectors ask for, from the cache's index alone.

use steersman_schema::selector::{FieldSelector, LabelSelector};
use steersman_storage::cache::Object;

use crate::resources::Resource;

/// Both selectors of a request.
pub struct Matcher<'a> {
    pub resource: &'a Resource,
    pub labels: &'a LabelSelector,
    pub fields: &'a FieldSelector,
}

impl Matcher<'_> {
    pub fn matches(&self, object: &Object) -> bool {
        (self.labels.is_empty() || self.labels.matches_with(|key| object.labels().get(key)))
            && (self.fields.is_empty() || self.fields.matches_with(|field| field_of(self.resource, object, field)))
    }
}

fn field_of<'a>(resource: &Resource, object: &'a Object, field: &str) -> &'a str {
    match field {
        "metadata.name" => object.name(),
        "metadata.namespace" => object.namespace(&resource.prefix),
        other => object.fields().get(stored_field(resource, other)).unwrap_or_default(),
    }
}

/// The name that a field has in the stored version: events.k8s.io calls some fields of core events otherwise.
pub fn stored_field<'f>(resource: &Resource, field: &'f str) -> &'f str {
    if resource.is("", "pods") && field == "spec.host" {
        return "spec.nodeName";
    }
    if !resource.is("events.k8s.io", "events") {
        return field;
    }
    match field {
        "regarding.kind" => "involvedObject.kind",
        "regarding.namespace" => "involvedObject.namespace",
        "regarding.name" => "involvedObject.name",
        "regarding.uid" => "involvedObject.uid",
        "regarding.apiVersion" => "involvedObject.apiVersion",
        "regarding.resourceVersion" => "involvedObject.resourceVersion",
        "regarding.fieldPath" => "involvedObject.fieldPath",
        "reportingController" => "reportingComponent",
        other => other,
    }
}
