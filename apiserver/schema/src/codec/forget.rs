//! What a way through protobuf forgets: a list that is there and empty comes back as one that is not there. Upstream
//! answers a write with what it stored, so that such a list is `null` in the answer.

use serde_json::Value;

use crate::facts::{Shape, Ty, Type};

/// Removes empty lists from an object of type `ty`, where protobuf could not tell them from absent ones.
pub fn empty_lists(value: &mut Value, ty: &Type) {
    let Value::Object(map) = value else { return };
    map.retain(|key, value| match ty.field(key) {
        Some(field) => !forgotten(value, field.ty),
        None => true,
    });
}

/// Whether `value` is an empty list; also looks below.
fn forgotten(value: &mut Value, ty: &Ty) -> bool {
    match (&ty.shape, value) {
        (Shape::List(_), Value::Array(list)) if list.is_empty() => return true,
        (Shape::List(inner), Value::Array(list)) => {
            for item in list {
                forgotten(item, inner);
            }
        }
        (Shape::Map(inner), Value::Object(map)) => {
            for item in map.values_mut() {
                forgotten(item, inner);
            }
        }
        (Shape::SchemaOrArray(inner), Value::Array(list)) => {
            for item in list {
                empty_lists(item, inner);
            }
        }
        (
            Shape::Struct(inner)
            | Shape::SchemaOrArray(inner)
            | Shape::SchemaOrBool(inner)
            | Shape::SchemaOrStrings(inner),
            value,
        ) => empty_lists(value, inner),
        _ => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::facts;
    use serde_json::json;

    #[test]
    fn empty_lists_are_forgotten_at_any_depth() {
        let mut role = json!({"rules": [{"verbs": [], "apiGroups": [""]}], "metadata": {"finalizers": []}});
        empty_lists(
            &mut role,
            facts().kind_of("rbac.authorization.k8s.io/v1", "Role").unwrap(),
        );
        assert_eq!(role, json!({"rules": [{"apiGroups": [""]}], "metadata": {}}));
    }
}
