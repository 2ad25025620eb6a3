//! The `scale` subresource: an `autoscaling/v1 Scale` made from an object, and written back into it.

use crate::view::{View, child, set};
use crate::{Kind, meta};
use serde_json::{Value, json};
use steersman_schema::field::{FieldError, FieldErrors, Path};

/// The Scale of `object`. `None` when the kind has no `scale` subresource.
pub fn from_object(kind: &Kind, object: &Value) -> Option<Value> {
    let scale = kind.scale.as_ref()?;
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at("/metadata").get(key) {
            set(&mut metadata, key, value.clone());
        }
    }
    // A nil `replicas` pointer reads as 0 here; defaulting has made it 1 before.
    let mut spec = json!({});
    let wanted = object.int(scale.spec_replicas);
    if wanted != 0 {
        set(&mut spec, "replicas", wanted);
    }
    let mut status = json!({ "replicas": object.int(scale.status_replicas) });
    let selector = (scale.selector)(object);
    if !selector.is_empty() {
        set(&mut status, "selector", selector);
    }
    Some(json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": spec, "status": status,
    }))
}

/// Faults of a Scale that somebody sends.
pub fn validate(scale: &Value) -> FieldErrors {
    let mut errors = meta::validate_create(scale, true, meta::name_subdomain);
    // Name and namespace are the path's where the client leaves them out.
    errors.retain(|e| match e.field.as_str() {
        "metadata.name" => !scale.text("/metadata/name").is_empty(),
        "metadata.namespace" => !scale.text("/metadata/namespace").is_empty(),
        _ => true,
    });
    let replicas = scale.int("/spec/replicas");
    if replicas < 0 {
        let path = Path::new("spec").child("replicas");
        errors.push(FieldError::invalid(
            &path,
            replicas,
            "must be greater than or equal to 0",
        ));
    }
    errors
}

/// Writes the wanted count of `scale` into `object`, and its resourceVersion, which guards the write.
pub fn into_object(kind: &Kind, scale: &Value, object: &mut Value) {
    let Some(place) = &kind.scale else { return };
    let replicas = scale.int("/spec/replicas");
    let mut path: Vec<&str> = place.spec_replicas.split('/').skip(1).collect();
    let Some(last) = path.pop() else { return };
    let mut target = &mut *object;
    for part in path {
        match child(target, part) {
            Some(next) => target = next,
            None => return,
        }
    }
    set(target, last, replicas);
    if let Some(metadata) = child(object, "metadata") {
        match scale.text("/metadata/resourceVersion") {
            "" => {}
            version => set(metadata, "resourceVersion", version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_a_scale_is_judged_too() {
        let scale = |metadata: Value| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": {"replicas": 1}});
        assert!(validate(&scale(json!({}))).is_empty());
        assert!(validate(&scale(json!({"name": "a", "namespace": "n"}))).is_empty());
        let errors = validate(&scale(json!({"name": "a", "namespace": "n", "labels": {"a": "b c"}})));
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].field, "metadata.labels");
    }
}
