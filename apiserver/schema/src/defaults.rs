//! Static defaults: those that Kubernetes' sources mark `+default`, for instance `TCP` for a container port's protocol.
//!
//! They are few. What else upstream defaults depends on other fields or on the kind (`SetDefaults_*`) and is the kinds'
//! business, after this has run. Callers: the API server, on every decoded object and on every object it reads back.

use serde_json::{Map, Value};

use crate::codec::object_type;
use crate::facts::{Field, Shape, Ty, Type};

/// Sets what is absent in an object of a known kind. Applying it again changes nothing. Objects that the table does not
/// know are left alone: custom resources have their schema's defaults.
pub fn apply(value: &mut Value) {
    if let Some(ty) = object_type(value)
        && let Some(object) = value.as_object_mut()
    {
        apply_to(ty, object);
    }
}

/// [`apply`] for a struct that need not be an object.
pub fn apply_to(ty: &Type, object: &mut Map<String, Value>) {
    for field in ty.defaulted_fields() {
        match (&field.default, object.get_mut(field.json)) {
            (_, Some(value)) if !value.is_null() => below(field.ty, value),
            (Some(default), _) if printed(field, default) => {
                object.insert(field.json.to_owned(), default.clone());
            }
            _ => {}
        }
    }
}

/// A default that is a zero value shows only behind a pointer.
fn printed(field: &Field, default: &Value) -> bool {
    field.pointer || !matches!(default, Value::Bool(false)) && default != &Value::from(0) && default != &Value::from("")
}

fn below(ty: &Ty, value: &mut Value) {
    match (&ty.shape, value) {
        (Shape::Struct(inner), Value::Object(object)) => apply_to(inner, object),
        (Shape::List(element), Value::Array(items)) => items.iter_mut().for_each(|item| below(element, item)),
        (Shape::Map(element), Value::Object(entries)) => entries.values_mut().for_each(|item| below(element, item)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::codec::{MediaType, decode};

    #[test]
    fn marked_defaults_are_set_through_lists_inline_structs_and_templates() {
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {
            "volumes": [{"name": "v", "rbd": {"monitors": ["m"], "image": "i"}}],
            "containers": [{
                "name": "c",
                "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
                "livenessProbe": {"grpc": {"port": 1}},
            }],
        }}}});
        let mut value = decode(MediaType::Json, &serde_json::to_vec(&deployment).unwrap(), None)
            .unwrap()
            .value;
        apply(&mut value);
        let spec = &value["spec"]["template"]["spec"];
        assert_eq!(spec["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(spec["containers"][0]["ports"][1]["protocol"], "UDP");
        assert_eq!(spec["containers"][0]["livenessProbe"]["grpc"]["service"], "");
        assert_eq!(spec["volumes"][0]["rbd"]["keyring"], "/etc/ceph/keyring");
        assert!(
            value["spec"].get("minReadySeconds").is_none(),
            "a zero default shows nowhere"
        );
        let again = value.clone();
        apply(&mut value);
        assert_eq!(value, again);
    }
}
