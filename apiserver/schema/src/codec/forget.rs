//! What a way through protobuf forgets: a list or a map that is there and empty comes back as one that is not there.
//! Upstream answers a write with what it stored, so that such a list is `null` in the answer; and it takes two objects
//! for equal that differ in nothing else.

use serde_json::Value;

use crate::facts::{Shape, Ty, Type};

/// Removes empty lists and maps from an object of type `ty`, where protobuf could not tell them from absent ones. Says
/// whether there were any.
pub fn empties(value: &mut Value, ty: &Type) -> bool {
    let Value::Object(map) = value else { return false };
    let mut any = false;
    map.retain(|key, value| match ty.field(key) {
        Some(field) => {
            any |= below(value, field.ty);
            let gone = empty(value, field.ty);
            any |= gone;
            !gone
        }
        None => true,
    });
    any
}

/// Whether protobuf takes a field of type `ty` that holds `value` for one that is not there.
fn empty(value: &Value, ty: &Ty) -> bool {
    match (&ty.shape, value) {
        (_, Value::Null) => true,
        (Shape::List(_), Value::Array(list)) => list.is_empty(),
        (Shape::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

fn below(value: &mut Value, ty: &Ty) -> bool {
    // Every element is looked at, whatever the ones before it had.
    let all = |found: &mut dyn Iterator<Item = bool>| found.fold(false, |any, one| any | one);
    match (&ty.shape, value) {
        (Shape::List(inner), Value::Array(list)) => all(&mut list.iter_mut().map(|item| below(item, inner))),
        (Shape::Map(inner), Value::Object(map)) => all(&mut map.values_mut().map(|item| below(item, inner))),
        (Shape::SchemaOrArray(inner), Value::Array(list)) => all(&mut list.iter_mut().map(|item| empties(item, inner))),
        (
            Shape::Struct(inner)
            | Shape::SchemaOrArray(inner)
            | Shape::SchemaOrBool(inner)
            | Shape::SchemaOrStrings(inner),
            value,
        ) => empties(value, inner),
        _ => false,
    }
}

/// Whether two objects of type `ty` are the same once they went through protobuf.
#[must_use]
pub fn equal(a: &Value, b: &Value, ty: &Type) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else {
        return a == b;
    };
    let field = |key: &String| equal_field(a.get(key), b.get(key), ty, key);
    a.keys().all(field) && b.keys().filter(|key| !a.contains_key(*key)).all(field)
}

/// The same for what two objects of type `ty` have in one field, if anything.
#[must_use]
pub fn equal_field(a: Option<&Value>, b: Option<&Value>, ty: &Type, key: &str) -> bool {
    let (a, b) = (a.unwrap_or(&Value::Null), b.unwrap_or(&Value::Null));
    match ty.field(key) {
        Some(field) => alike(a, b, field.ty) || (empty(a, field.ty) && empty(b, field.ty)),
        None => a == b,
    }
}

fn alike(a: &Value, b: &Value, ty: &Ty) -> bool {
    match (&ty.shape, a, b) {
        (Shape::List(inner), Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b, inner))
        }
        (Shape::Map(inner), Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| alike(v, w, inner)))
        }
        (Shape::SchemaOrArray(inner), Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b, inner))
        }
        (
            Shape::Struct(inner)
            | Shape::SchemaOrArray(inner)
            | Shape::SchemaOrBool(inner)
            | Shape::SchemaOrStrings(inner),
            a,
            b,
        ) => equal(a, b, inner),
        (_, a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::facts;
    use serde_json::json;

    fn role() -> &'static Type {
        facts().kind_of("rbac.authorization.k8s.io/v1", "Role").unwrap()
    }

    #[test]
    fn empty_lists_and_maps_are_forgotten_at_any_depth() {
        let mut value =
            json!({"rules": [{"verbs": [], "apiGroups": [""]}], "metadata": {"finalizers": [], "labels": {}}});
        assert!(empties(&mut value, role()));
        assert!(!empties(&mut value, role()));
        assert_eq!(value, json!({"rules": [{"apiGroups": [""]}], "metadata": {}}));
    }

    #[test]
    fn an_empty_struct_is_not_forgotten() {
        let pod = facts().kind_of("v1", "Pod").unwrap();
        let mut value = json!({"spec": {"nodeSelector": {}, "volumes": [{"name": "v", "emptyDir": {}}]}});
        empties(&mut value, pod);
        assert_eq!(value, json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}));
    }

    #[test]
    fn objects_that_differ_only_in_what_is_forgotten_are_equal() {
        let service = facts().kind_of("v1", "Service").unwrap();
        let bare = json!({"metadata": {"name": "a"}, "spec": {}});
        let full = json!({"metadata": {"name": "a", "labels": {}}, "spec": {"selector": {}, "ports": []}});
        assert!(equal(&bare, &full, service) && equal(&full, &bare, service));
        // A selector of labels is a struct: there and empty it selects everything.
        let budget = facts().kind_of("policy/v1", "PodDisruptionBudget").unwrap();
        let (none, all) = (json!({"spec": {}}), json!({"spec": {"selector": {}}}));
        assert!(!equal(&none, &all, budget) && !equal(&all, &none, budget));
        let (one, two) = (
            json!({"metadata": {"labels": {"a": "b"}}}),
            json!({"metadata": {"labels": {"a": "c"}}}),
        );
        assert!(!equal(&one, &two, service));
    }
}
