//! Pure operations on values of a known shape: which fields there are, how two values differ, merging, removing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use steersman_schema::facts::Shape as Wire;

use crate::element::Element;
use crate::set::Set;
use crate::shape::Shape;

/// The fields in which two values differ. No path is in two of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Difference {
    /// Without these fields and everything below them.
    #[must_use]
    pub fn ignoring(self, fields: &Set) -> Self {
        if fields.is_empty() {
            return self;
        }
        Self {
            added: self.added.without(fields),
            modified: self.modified.without(fields),
            removed: self.removed.without(fields),
        }
    }

    /// What was set: added or modified.
    #[must_use]
    pub fn written(&self) -> Set {
        self.modified.union(&self.added)
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

/// Free values are judged by what they are.
fn actual(shape: Shape, a: Option<&Value>, b: Option<&Value>) -> Shape {
    let fits = |value: Option<&Value>| match (shape, value) {
        (_, None | Some(Value::Null)) => true,
        (Shape::Free | Shape::Struct(_) | Shape::Map(_), Some(value)) => value.is_object(),
        (Shape::ByKeys(..) | Shape::ByValue, Some(value)) => value.is_array(),
        (Shape::Leaf, Some(_)) => false,
    };
    if fits(a) && fits(b) { shape } else { Shape::Leaf }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The keys of two maps, each once.
fn keys<'a>(a: Option<&'a Value>, b: Option<&'a Value>) -> impl Iterator<Item = &'a String> {
    let (a, b) = (a.and_then(Value::as_object), b.and_then(Value::as_object));
    let first = a.into_iter().flat_map(Map::keys);
    let more = b.into_iter().flat_map(Map::keys);
    first.chain(more.filter(move |key| a.is_none_or(|a| !a.contains_key(*key))))
}

/// How `new` differs from `old`.
#[must_use]
pub fn compare(old: &Value, new: &Value, shape: Shape) -> Difference {
    let mut walk = Compare::default();
    walk.value(Some(old), Some(new), shape);
    walk.out
}

#[derive(Default)]
struct Compare {
    path: Vec<Element>,
    out: Difference,
}

impl Compare {
    fn value(&mut self, old: Option<&Value>, new: Option<&Value>, shape: Shape) {
        let shape = actual(shape, old, new);
        // Both empty is judged as a whole: null, absent and empty are not the same.
        let leaf = matches!(shape, Shape::Leaf) || (is_empty(old) && is_empty(new));
        if leaf {
            match (old, new) {
                (None, _) => self.out.added.insert(&self.path),
                (_, None) => self.out.removed.insert(&self.path),
                (Some(old), Some(new)) if old != new => self.out.modified.insert(&self.path),
                _ => {}
            }
            return;
        }
        match shape {
            Shape::ByKeys(..) | Shape::ByValue => self.items(list(old), list(new), shape),
            _ => {
                for key in keys(old, new) {
                    let inner = shape.field(key).unwrap_or(Shape::Leaf);
                    let pair = (old.and_then(|v| v.get(key)), new.and_then(|v| v.get(key)));
                    self.below(Element::field(key), pair, inner);
                }
            }
        }
        match (old, new) {
            (None, _) => self.out.added.insert(&self.path),
            (_, None) => self.out.removed.insert(&self.path),
            _ => {}
        }
    }

    fn below(&mut self, element: Element, (old, new): (Option<&Value>, Option<&Value>), shape: Shape) {
        self.path.push(element);
        self.value(old, new, shape);
        self.path.pop();
    }

    fn items(&mut self, old: &[Value], new: &[Value], shape: Shape) {
        let mut pairs: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for item in old {
            if let Ok(element) = shape.element(item) {
                pairs.entry(element).or_default().0.push(item);
            }
        }
        for item in new {
            if let Ok(element) = shape.element(item) {
                pairs.entry(element).or_default().1.push(item);
            }
        }
        for (element, (old, new)) in pairs {
            if old.len() < 2 && new.len() < 2 {
                self.below(element, (old.first().copied(), new.first().copied()), shape.item());
                continue;
            }
            // Elements that stand there twice are owned as a whole.
            let difference = &mut self.out;
            let set = match (old.is_empty(), new.is_empty()) {
                (true, _) => &mut difference.added,
                (_, true) => &mut difference.removed,
                _ if old != new => &mut difference.modified,
                _ => continue,
            };
            self.path.push(element);
            set.insert(&self.path);
            self.path.pop();
        }
    }
}

/// The fields that a configuration sets.
#[must_use]
pub fn fields(value: &Value, shape: Shape) -> Set {
    let mut set = Set::default();
    collect(value, shape, &mut Vec::new(), &mut set);
    set
}

fn collect(value: &Value, shape: Shape, path: &mut Vec<Element>, set: &mut Set) {
    match (actual(shape, Some(value), None), value) {
        (Shape::Leaf, _) => set.insert(path),
        (shape @ (Shape::Struct(_) | Shape::Map(_) | Shape::Free), Value::Object(map)) => {
            for (key, value) in map {
                path.push(Element::field(key));
                collect(value, shape.field(key).unwrap_or(Shape::Leaf), path, set);
                let bare = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if bare || !shape.names(key) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        (shape, Value::Array(items)) => {
            // An element that stands there twice is owned as a whole.
            let mut elements: BTreeMap<Element, (&Value, bool)> = BTreeMap::new();
            for item in items {
                if let Ok(element) = shape.element(item) {
                    elements
                        .entry(element)
                        .and_modify(|(_, once)| *once = false)
                        .or_insert((item, true));
                }
            }
            for (element, (item, once)) in elements {
                path.push(element);
                if once {
                    collect(item, shape.item(), path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        _ => {}
    }
}

/// What a configuration makes of the live value: its leaves replace, its elements and keys are added, the rest stays.
/// `None`: nothing is left.
#[must_use]
pub fn merge(live: Option<&Value>, config: Option<&Value>, shape: Shape) -> Option<Value> {
    let shape = actual(shape, live, config);
    if matches!(shape, Shape::Leaf) || (is_empty(live) && is_empty(config)) {
        return config.or(live).cloned();
    }
    match shape {
        Shape::ByKeys(..) | Shape::ByValue => {
            let merged = merge_items(list(live), list(config), shape);
            (!merged.is_empty()).then_some(Value::Array(merged))
        }
        _ => {
            let mut merged = Map::new();
            for key in keys(live, config) {
                let inner = shape.field(key).unwrap_or(Shape::Leaf);
                let pair = (live.and_then(|v| v.get(key)), config.and_then(|v| v.get(key)));
                if let Some(value) = merge(pair.0, pair.1, inner) {
                    merged.insert(key.clone(), value);
                }
            }
            (!merged.is_empty()).then_some(Value::Object(merged))
        }
    }
}

/// Elements of both keep the configuration's order; those of the live list alone stay beside their neighbours.
fn merge_items(live: &[Value], config: &[Value], shape: Shape) -> Vec<Value> {
    let known = |items: &'_ [Value]| -> Vec<(Element, usize)> {
        let known = items.iter().enumerate();
        known
            .filter_map(|(at, item)| Some((shape.element(item).ok()?, at)))
            .collect()
    };
    let (left, right) = (known(live), known(config));
    // `None`: it stands there twice, and is not merged with the one that replaces it.
    let mut in_live: BTreeMap<&Element, Option<&Value>> = BTreeMap::new();
    for (element, at) in &left {
        in_live
            .entry(element)
            .and_modify(|item| *item = None)
            .or_insert_with(|| live.get(*at));
    }
    let in_config: BTreeSet<&Element> = right.iter().map(|(element, _)| element).collect();
    let mut shared = right
        .iter()
        .map(|(element, _)| element)
        .filter(|e| in_live.contains_key(e))
        .peekable();
    let mut done: BTreeSet<&Element> = BTreeSet::new();
    let mut out = Vec::new();
    let (mut l, mut c) = (0, 0);
    while l < left.len() || c < right.len() {
        if let Some((element, at)) = left.get(l) {
            match right.get(c) {
                Some((wanted, value)) if wanted == element => {
                    done.insert(element);
                    let single = in_live.get(element).copied().flatten();
                    out.extend(merge(single, config.get(*value), shape.item()));
                    l += 1;
                    c += 1;
                    shared.next();
                    continue;
                }
                Some(_) if in_config.contains(element) && shared.peek().is_some_and(|next| *next != element) => {
                    // In both, but not the one whose turn it is.
                    l += 1;
                    continue;
                }
                _ => {}
            }
            if !in_config.contains(element) {
                out.extend(live.get(*at).cloned());
                l += 1;
                continue;
            }
            if done.contains(element) {
                l += 1;
            }
        }
        if let Some((element, value)) = right.get(c) {
            done.insert(element);
            let single = in_live.get(element).copied().flatten();
            out.extend(merge(single, config.get(*value), shape.item()));
            c += 1;
            if shared.peek() == Some(&element) {
                shared.next();
            }
        }
    }
    out
}

/// The value without the members of a set. `None`: nothing is left.
#[must_use]
pub fn remove(value: &Value, set: &Set, shape: Shape) -> Option<Value> {
    match (actual(shape, Some(value), None), value) {
        (Shape::Leaf, _) if value.is_array() || value.is_object() => None,
        (shape @ (Shape::Struct(_) | Shape::Map(_) | Shape::Free), Value::Object(map)) => {
            let (mut left, mut touched) = (Map::new(), false);
            for (key, value) in map {
                let element = Element::field(key);
                if set.has_member(&element) {
                    continue;
                }
                let inner = shape.field(key).unwrap_or(Shape::Leaf);
                let kept = match set.child(&element) {
                    Some(below) => {
                        touched = true;
                        remove_below(value, below, inner)
                    }
                    None => value.clone(),
                };
                left.insert(key.clone(), kept);
            }
            (!left.is_empty() || touched).then_some(Value::Object(left))
        }
        (shape @ (Shape::ByKeys(..) | Shape::ByValue), Value::Array(items)) => {
            let (mut left, mut touched) = (Vec::new(), false);
            for item in items {
                let Ok(element) = shape.element(item) else {
                    left.push(item.clone());
                    continue;
                };
                if set.has_member(&element) {
                    continue;
                }
                left.push(match set.child(&element) {
                    Some(below) => {
                        touched = true;
                        remove_below(item, below, shape.item())
                    }
                    None => item.clone(),
                });
            }
            (!left.is_empty() || touched).then_some(Value::Array(left))
        }
        (_, Value::Object(_) | Value::Array(_)) => None,
        _ => Some(value.clone()),
    }
}

/// What loses all its parts stays as an empty one: only the parts were to go.
fn remove_below(value: &Value, set: &Set, shape: Shape) -> Value {
    remove(value, set, shape).unwrap_or_else(|| match value {
        Value::Object(_) => Value::Object(Map::new()),
        Value::Array(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    })
}

/// What is wrong with a configuration: unknown fields, values of the wrong kind, elements that stand twice; each with its
/// path, in upstream's words.
#[must_use]
pub fn faults(value: &Value, shape: Shape) -> Vec<String> {
    let mut out = Vec::new();
    check(value, shape, &mut Vec::new(), &mut out);
    out
}

fn check(value: &Value, shape: Shape, path: &mut Vec<Element>, out: &mut Vec<String>) {
    let at = |path: &[Element], why: String| format!("{}: {why}", crate::element::path_text(path));
    match (shape, value) {
        (_, Value::Null) | (Shape::Leaf | Shape::Free, _) => {}
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            for (key, value) in map {
                path.push(Element::field(key));
                let Some(inner) = shape.field(key) else {
                    out.push(at(path, "field not declared in schema".into()));
                    path.pop();
                    // Upstream looks no further in this struct.
                    break;
                };
                check(value, inner, path, out);
                out.extend(misfit(shape, key, value).map(|why| at(path, why)));
                path.pop();
            }
        }
        (Shape::ByKeys(..) | Shape::ByValue, Value::Array(items)) => {
            let mut seen = BTreeSet::new();
            for (i, item) in items.iter().enumerate() {
                let element = match shape.element(item) {
                    Ok(element) => element,
                    Err(why) => {
                        out.push(at(path, format!("element {i}: {why}")));
                        continue;
                    }
                };
                if seen.contains(&element) {
                    out.push(at(path, format!("duplicate entries for key {element}")));
                }
                path.push(element.clone());
                check(item, shape.item(), path, out);
                path.pop();
                seen.insert(element);
            }
        }
        (Shape::Struct(_) | Shape::Map(_), other) => {
            out.push(at(path, format!("expected map, got &{{{}}}", go(other))))
        }
        (Shape::ByKeys(..) | Shape::ByValue, other) => {
            out.push(at(path, format!("expected list, got &{{{}}}", go(other))));
        }
    }
}

/// What is wrong with a scalar of a struct's field.
fn misfit(shape: Shape, key: &str, value: &Value) -> Option<String> {
    let Shape::Struct(ty) = shape else { return None };
    match (&ty.field(key)?.ty.shape, value) {
        (_, Value::Null) => None,
        (Wire::Int32 | Wire::Int64 | Wire::Float64, value) if !value.is_number() => {
            let kind = match value {
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Array(_) => "[]interface {}",
                _ => "map[string]interface {}",
            };
            Some(format!("expected numeric (int or float), got {kind}"))
        }
        (Wire::String | Wire::Bytes | Wire::Time | Wire::MicroTime, value) if !value.is_string() => Some(format!(
            "expected string, got &value.valueUnstructured{{Value:{}}}",
            go(value)
        )),
        (Wire::Bool, value) if !value.is_boolean() => Some(format!("expected boolean, got &{{{}}}", go(value))),
        _ => None,
    }
}

/// Go's `%v` of a value.
fn go(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        scalar => scalar.to_string(),
    }
}
