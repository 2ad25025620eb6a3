//! Strategic merge patch: merge patch that knows which lists are sets or maps, and by which key.
//!
//! The knowledge comes from the table of facts (`patchStrategy`, `patchMergeKey`). Directives: `$patch: replace|delete`,
//! `$retainKeys`, `$setElementOrder/list`, `$deleteFromPrimitiveList/list`. Behaviour is that of upstream's server side:
//! parallel lists are merged, and nulls for fields that do not exist are dropped.

use serde_json::{Map, Value};

use super::{PatchError, Patched, convert, gotext, kind, parse};
use crate::facts::{Field, Shape, Ty, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
/// Go's type of a list in an untyped map.
const LIST: &str = "[]interface {}";

/// Applies `patch` to `current`, an object of type `ty`.
///
/// # Errors
/// When the patch is no JSON object, uses a directive wrongly, or has values of other types than their fields.
pub fn strategic(ty: &'static Type, current: &Value, patch: &[u8]) -> Result<Patched, PatchError> {
    let parsed = parse(patch).map_err(PatchError::Malformed)?;
    let patch = match parsed.value {
        Value::Object(patch) => patch,
        Value::Null => Map::new(),
        other => {
            return malformed(format!(
                "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                kind(&other)
            ));
        }
    };
    let original = current.as_object().cloned().unwrap_or_default();
    let shown = gotext::shown(&Value::Object(left_over(patch.clone(), &original)));
    let mut value = merge_map(original, patch, Some(ty)).map(Value::Object)?;
    if let Err(why) = convert::fit(&mut value, ty) {
        return Err(PatchError::Misfit { shown, why });
    }
    // The outcome is of the object's type, whatever the patch says.
    for key in ["apiVersion", "kind"] {
        if let (Some(map), Some(own)) = (value.as_object_mut(), current.get(key)) {
            map.insert(key.to_owned(), own.clone());
        }
    }
    Ok(Patched {
        value,
        strict: parsed.strict,
        shown: Some(shown),
    })
}

/// What upstream shows of a patch that it has carried out: without the directives that took effect.
fn left_over(mut patch: Map<String, Value>, original: &Map<String, Value>) -> Map<String, Value> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            patch.remove(DIRECTIVE);
            return patch;
        }
        Some("delete") => return patch,
        _ => drop(patch.remove(RETAIN_KEYS)),
    }
    let orders: Vec<String> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).cloned().collect();
    for order in orders {
        patch.remove(&order);
        patch.remove(&order[ELEMENT_ORDER.len()..]);
    }
    let merged = patch.into_iter().map(|(key, value)| {
        let value = match (original.get(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => Value::Object(left_over(new, old)),
            (None, Value::Object(new)) if !new.contains_key(DIRECTIVE) => {
                without_directives(Value::Object(new)).unwrap_or_default()
            }
            (_, value) => value,
        };
        (key, value)
    });
    merged.collect()
}

/// The struct that a field holds, itself or as its elements or values.
fn element_type(field: &'static Field) -> Option<&'static Type> {
    fn of(ty: &'static Ty) -> Option<&'static Type> {
        match &ty.shape {
            Shape::Struct(ty) => Some(ty.get()),
            Shape::List(ty) | Shape::Map(ty) | Shape::Wrapped(ty) => of(ty),
            _ => None,
        }
    }
    of(field.ty)
}

fn malformed<T>(text: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError::Malformed(text.into()))
}

fn unexpected<T>(text: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError::Unexpected(text.into()))
}

fn no_merge_key(item: &Value, key: &str) -> PatchError {
    let item = gotext::shown(item);
    PatchError::Unexpected(format!("map: {item} does not contain declared merge key: {key}"))
}

fn bad_directive(directive: &Value, within: &Value) -> PatchError {
    let (directive, within) = (gotext::as_text(directive), gotext::shown(within));
    PatchError::Unexpected(format!("unknown patch type: {directive} in map: {within}"))
}

fn not_a(expected: &str, value: &Value) -> PatchError {
    let found = gotext::type_of(value);
    PatchError::Unexpected(format!("expected a {expected}, but received a {found}"))
}

fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    ty: Option<&'static Type>,
) -> Result<Map<String, Value>, PatchError> {
    match patch.get(DIRECTIVE).map(|d| (d.as_str(), d)) {
        None => {}
        Some((Some("replace"), _)) => {
            patch.remove(DIRECTIVE);
            return Ok(patch);
        }
        Some((Some("delete"), _)) => return Ok(Map::new()),
        Some((_, directive)) => return Err(bad_directive(directive, &Value::Object(patch.clone()))),
    }
    retain_keys(&mut original, &mut patch)?;
    apply_element_orders(&mut original, &mut patch, ty)?;
    for (key, value) in patch {
        let (key, deletes) = match key.strip_prefix(DELETE_FROM_LIST) {
            Some(list) => (list.to_owned(), true),
            None => (key, false),
        };
        merge_field(&mut original, key, value, deletes, ty)?;
    }
    Ok(original)
}

fn merge_field(
    original: &mut Map<String, Value>,
    key: String,
    value: Value,
    deletes: bool,
    ty: Option<&'static Type>,
) -> Result<(), PatchError> {
    if value.is_null() {
        original.remove(&key);
        return Ok(());
    }
    let field = ty.and_then(|t| t.field(&key));
    let merged = match (original.remove(&key), value) {
        (None, _) if deletes => return Ok(()),
        (Some(Value::Object(old)), Value::Object(new)) => {
            merge_map(old, new, field.and_then(element_type)).map(|m| Some(Value::Object(m)))?
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            if deletes || field.is_some_and(|f| f.patch_strategy.merge) {
                Some(Value::Array(merge_list(old, new, field, deletes)?))
            } else {
                Some(Value::Array(new))
            }
        }
        (Some(old), _) if deletes => Some(old),
        (_, value) => without_directives(value),
    };
    if let Some(merged) = merged {
        original.insert(key, merged);
    }
    Ok(())
}

/// A value that is new in the object: nulls and `$patch` in it have nothing to act on. Other directives stay and become
/// unknown fields, as upstream has it.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return None;
            }
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Some(Value::Object(
                kept.filter_map(|(key, value)| Some((key, without_directives(value)?)))
                    .collect(),
            ))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}

fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return malformed("invalid patch format of retainKeys");
    };
    let retained = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let stray = patch.iter().any(|(key, value)| {
        !value.is_null() && !key.starts_with(ELEMENT_ORDER) && !key.starts_with(DELETE_FROM_LIST) && !retained(key)
    });
    if stray {
        return malformed("invalid patch format of retainKeys");
    }
    original.retain(|key, _| retained(key));
    Ok(())
}

/// Merges each list that the patch orders, puts it in that order, and takes it out of the patch.
fn apply_element_orders(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    ty: Option<&'static Type>,
) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let order = match patch.remove(&directive).unwrap_or_default() {
            Value::Array(order) => order,
            other => return Err(not_a(LIST, &other)),
        };
        let key = &directive[ELEMENT_ORDER.len()..];
        let field = ty.and_then(|t| t.field(key));
        let merge_key = field.and_then(|f| f.patch_merge_key);
        let old = match original.get(key) {
            Some(Value::Array(items)) => Some(items.clone()),
            Some(other) => return Err(not_a(LIST, other)),
            None => None,
        };
        let new = match patch.remove(key) {
            Some(Value::Array(items)) => Some(items),
            Some(other) => return Err(not_a(LIST, &other)),
            None => None,
        };
        if let (Some(ty), None) = (ty, field) {
            let name = ty.short;
            return unexpected(format!(
                "unable to find api field in struct {name} for the json field {key:?}"
            ));
        }
        check_order(new.as_deref().unwrap_or_default(), &order, merge_key)?;
        let server_order = old.clone().unwrap_or_default();
        let added = new.as_ref().map_or(0, Vec::len);
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(new)) if field.is_some_and(|f| f.patch_strategy.merge) => {
                merge_list(old, new, field, false)?
            }
            (Some(_), Some(new)) => new,
        };
        if server_order.is_empty() && added == 0 {
            return unexpected("no elements in any of the given slices");
        }
        original.insert(
            key.to_owned(),
            Value::Array(reorder(merged, &order, &server_order, merge_key)?),
        );
    }
    Ok(())
}

/// What the patch adds must appear in the ordering list, in that order.
fn check_order(items: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), PatchError> {
    if items.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in items.iter().filter(|i| i.get(DIRECTIVE).is_none()) {
        let wanted = identity(item, merge_key)?;
        loop {
            match rest.next() {
                Some(candidate) if identity(candidate, merge_key)? == wanted => break,
                Some(_) => {}
                None => {
                    return unexpected(format!(
                        "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                        gotext::list(items),
                        gotext::list(order)
                    ));
                }
            }
        }
    }
    Ok(())
}

/// What tells one element of a list from another: the merge key's value, or a scalar itself.
fn identity<'a>(item: &'a Value, merge_key: Option<&str>) -> Result<&'a Value, PatchError> {
    match (item, merge_key) {
        (Value::Object(map), Some(key)) => map.get(key).ok_or_else(|| no_merge_key(item, key)),
        _ => Ok(item),
    }
}

fn position(list: &[Value], wanted: &Value, merge_key: Option<&str>) -> Option<usize> {
    list.iter()
        .position(|item| identity(item, merge_key).is_ok_and(|id| id == wanted))
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    field: Option<&'static Field>,
    deletes: bool,
) -> Result<Vec<Value>, PatchError> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    check_elements(&original, &patch)?;
    let of_maps = original.first().or(patch.first()).is_some_and(Value::is_object);
    if !of_maps {
        if deletes {
            return Ok(original.into_iter().filter(|item| !patch.contains(item)).collect());
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return reorder(merged, &patch, &original, None);
    }
    let Some(merge_key) = field.and_then(|f| f.patch_merge_key) else {
        return unexpected("cannot merge lists without merge key for struct");
    };
    let (kept, additions) = apply_list_directives(original, patch, merge_key)?;
    let mut merged = kept.clone();
    for addition in &additions {
        let id = identity(addition, Some(merge_key))?;
        match position(&merged, id, Some(merge_key)) {
            Some(at) => {
                let old = merged[at].as_object().cloned().unwrap_or_default();
                let new = addition.as_object().cloned().unwrap_or_default();
                merged[at] = Value::Object(merge_map(old, new, field.and_then(element_type))?);
            }
            None => merged.push(addition.clone()),
        }
    }
    reorder(merged, &additions, &kept, Some(merge_key))
}

fn check_elements(original: &[Value], patch: &[Value]) -> Result<(), PatchError> {
    let mut items = original.iter().chain(patch);
    let Some(first) = items.next() else { return Ok(()) };
    if first.is_array() {
        return Err(PatchError::DoesNotApply("lists of lists are not supported".into()));
    }
    let same = std::mem::discriminant(first);
    if first.is_null() || items.any(|item| std::mem::discriminant(item) != same) {
        let (original, patch) = (gotext::list(original), gotext::list(patch));
        return unexpected(format!("list element types are not identical: [{original} {patch}]"));
    }
    Ok(())
}

/// Carries out `$patch` elements of a list: what stays of the original, and what is left of the patch.
fn apply_list_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut additions = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        match item.get(DIRECTIVE).map(|d| (d.as_str(), d)) {
            None => additions.push(item),
            Some((Some("delete"), _)) => {
                let id = identity(&item, Some(merge_key))?;
                original.retain(|old| old.get(merge_key) != Some(id));
            }
            Some((Some("replace"), _)) => replace = true,
            Some((Some("merge"), _)) => return unexpected("merging lists cannot yet be specified in the patch"),
            Some((_, directive)) => return Err(bad_directive(directive, &item)),
        }
    }
    Ok(if replace {
        (additions, Vec::new())
    } else {
        (original, additions)
    })
}

/// Puts what the patch names into the patch's order, and weaves in what only the server has where it stood before.
fn reorder(
    items: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    merge_key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    let mut named = Vec::new();
    let mut server_only = Vec::new();
    for item in items {
        let id = identity(&item, merge_key)?;
        let before = position(server_order, id, merge_key);
        match position(patch_order, id, merge_key) {
            Some(at) => named.push((at, before, item)),
            None => server_only.push((before.unwrap_or(usize::MAX), before, item)),
        }
    }
    named.sort_by_key(|(at, ..)| *at);
    server_only.sort_by_key(|(at, ..)| *at);
    let mut result = Vec::with_capacity(named.len() + server_only.len());
    let (mut named, mut server_only) = (named.into_iter().peekable(), server_only.into_iter().peekable());
    loop {
        let server_first = match (server_only.peek(), named.peek()) {
            (None, None) => return Ok(result),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((_, Some(left), _)), Some((_, Some(right), _))) => left < right,
            _ => false,
        };
        let next = if server_first { server_only.next() } else { named.next() };
        result.extend(next.map(|(.., item)| item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(patch: &Value, current: &Value) -> Result<Value, String> {
        let ty = crate::facts::facts().kind("", "v1", "Pod").unwrap();
        let patched = strategic(ty, current, patch.to_string().as_bytes());
        patched.map(|p| p.value).map_err(|e| e.to_string())
    }

    fn containers(items: Value) -> Value {
        json!({"spec": {"containers": items}})
    }

    #[test]
    fn lists_of_maps_merge_by_their_key() {
        let current = containers(json!([{"name":"a","image":"1"},{"name":"b","image":"1"}]));
        let patch = containers(json!([{"name":"b","image":"2"},{"name":"c","image":"3"}]));
        let expected = containers(json!([{"name":"a","image":"1"},{"name":"b","image":"2"},{"name":"c","image":"3"}]));
        assert_eq!(pod(&patch, &current), Ok(expected));
    }

    #[test]
    fn elements_are_deleted_and_lists_replaced_by_directive() {
        let current = containers(json!([{"name":"a"},{"name":"b"}]));
        assert_eq!(
            pod(&containers(json!([{"$patch":"delete","name":"a"}])), &current),
            Ok(containers(json!([{"name":"b"}])))
        );
        assert_eq!(
            pod(&containers(json!([{"$patch":"replace"},{"name":"z"}])), &current),
            Ok(containers(json!([{"name":"z"}])))
        );
        assert_eq!(
            pod(
                &json!({"metadata":{"labels":{"$patch":"replace","x":"y"}}}),
                &json!({"metadata":{"labels":{"a":"b"}}})
            ),
            Ok(json!({"metadata":{"labels":{"x":"y"}}}))
        );
    }

    #[test]
    fn an_order_is_kept_and_what_only_the_server_has_stays_where_it_was() {
        let current = containers(json!([{"name":"a"},{"name":"s"},{"name":"b"}]));
        let patch = json!({"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"},{"name":"n"}],"containers":[{"name":"n"}]}});
        assert_eq!(
            pod(&patch, &current),
            Ok(containers(json!([{"name":"s"},{"name":"b"},{"name":"a"},{"name":"n"}])))
        );
        let wrong = json!({"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"n"}]}});
        assert!(pod(&wrong, &current).is_err_and(|e| e.starts_with("The order in patch list:")));
    }

    #[test]
    fn primitive_lists_merge_as_sets_and_lose_what_is_named() {
        let current = json!({"metadata":{"finalizers":["a","b"]}});
        assert_eq!(
            pod(&json!({"metadata":{"finalizers":["b","c"]}}), &current),
            Ok(json!({"metadata":{"finalizers":["a","b","c"]}}))
        );
        let removal =
            json!({"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"$setElementOrder/finalizers":["b"]}});
        assert_eq!(pod(&removal, &current), Ok(json!({"metadata":{"finalizers":["b"]}})));
    }

    #[test]
    fn retained_keys_push_out_their_siblings() {
        let current = json!({"spec":{"volumes":[{"name":"v","emptyDir":{}}]}});
        let patch =
            json!({"spec":{"volumes":[{"$retainKeys":["name","hostPath"],"name":"v","hostPath":{"path":"/x"}}]}});
        assert_eq!(
            pod(&patch, &current),
            Ok(json!({"spec":{"volumes":[{"name":"v","hostPath":{"path":"/x"}}]}}))
        );
    }

    #[test]
    fn atomic_lists_are_replaced_and_nulls_remove() {
        let current = containers(json!([{"name":"a","args":["x","y"],"tty":true}]));
        let patch = containers(json!([{"name":"a","args":["z"],"tty":null,"stdin":null}]));
        assert_eq!(
            pod(&patch, &current),
            Ok(containers(json!([{"name":"a","args":["z"]}])))
        );
    }

    #[test]
    fn misuse_is_refused() {
        let current = containers(json!([{"name":"a"}]));
        for (patch, expected) in [
            (
                containers(json!([{"image":"x"}])),
                "map: map[image:x] does not contain declared merge key: name",
            ),
            (
                json!({"spec":{"$patch":"jump"}}),
                "unknown patch type: jump in map: map[$patch:jump]",
            ),
            (
                containers(json!([["a"]])),
                "list element types are not identical: [[map[name:a]] [[a]]]",
            ),
            (
                json!({"spec":{"$setElementOrder/containers":{}}}),
                "expected a []interface {}, but received a map[string]interface {}",
            ),
            (
                json!({"spec":{"$setElementOrder/boxes":[]}}),
                "unable to find api field in struct PodSpec for the json field \"boxes\"",
            ),
            (json!({"spec":{"hostNetwork":"yes"}}), "unrecognized type: bool"),
            (
                json!([]),
                "json: cannot unmarshal array into Go value of type map[string]interface {}",
            ),
        ] {
            assert_eq!(pod(&patch, &current), Err(expected.to_owned()));
        }
    }

    #[test]
    fn the_kind_stays_and_what_does_not_fit_is_shown_with_the_patch() {
        let current = json!({"apiVersion":"v1","kind":"Pod","spec":{}});
        assert_eq!(pod(&json!({"kind":"Other"}), &current), Ok(current.clone()));
        let ty = crate::facts::facts().kind("", "v1", "Pod").unwrap();
        let patch =
            br#"{"spec":{"priority":"high","$retainKeys":["priority"],"os":{"name":"x","a":{"$patch":"delete"}}}}"#;
        let refused = strategic(ty, &current, patch);
        assert!(matches!(refused, Err(PatchError::Malformed(_))), "{refused:?}");
        let patch = br#"{"spec":{"priority":"high","os":{"name":"x","a":{"$patch":"delete"}}}}"#;
        let refused = strategic(ty, &current, patch);
        let shown = "map[spec:map[os:map[name:x] priority:high]]".to_owned();
        let why = "unrecognized type: int32".to_owned();
        assert_eq!(refused, Err(PatchError::Misfit { shown, why }));
    }

    proptest! {
        #[test]
        fn a_patch_without_directives_applied_twice_changes_nothing_more(old in prop::collection::vec("[a-d]", 0..4), new in prop::collection::vec("[a-f]", 0..4)) {
            let unique = |names: Vec<String>| { let mut seen = Vec::new(); for n in names { if !seen.contains(&n) { seen.push(n); } } seen };
            let list = |names: Vec<String>, image: &str| containers(Value::Array(unique(names).into_iter().map(|n| json!({"name":n,"image":image})).collect()));
            let patch = list(new, "2");
            let once = pod(&patch, &list(old, "1")).unwrap();
            prop_assert_eq!(pod(&patch, &once).unwrap(), once);
        }
    }
}
