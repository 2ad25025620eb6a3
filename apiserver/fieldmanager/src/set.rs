//! Sets of field paths, and their form in `managedFields` (`FieldsV1`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::element::Element;

/// A set of paths, as a tree. A path may be a member although longer ones with the same beginning are, too.
///
/// What stays true: no child is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    members: BTreeSet<Element>,
    children: BTreeMap<Element, Set>,
}

impl Set {
    /// The set of these paths of fields, `.`-separated.
    #[must_use]
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<Element> = path.split('.').map(Element::field).collect();
            set.insert(&path);
        }
        set
    }

    /// Adds a path. The empty path, which is the object, is never a member.
    pub fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// Whether this very path is a member.
    #[must_use]
    pub fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.members.contains(last),
            [first, rest @ ..] => self.children.get(first).is_some_and(|child| child.has(rest)),
        }
    }

    /// Whether this step alone is a member.
    #[must_use]
    pub fn has_member(&self, element: &Element) -> bool {
        self.members.contains(element)
    }

    /// What follows this step.
    #[must_use]
    pub fn child(&self, element: &Element) -> Option<&Set> {
        self.children.get(element)
    }

    /// Adds steps as members and changes the children, for [`crate::shape::with_named_fields`].
    pub(crate) fn rebuild(&self, more: impl Fn(&Element) -> bool, below: impl Fn(&Element, &Set) -> Set) -> Set {
        let mut members = self.members.clone();
        members.extend(self.children.keys().filter(|element| more(element)).cloned());
        let children = self
            .children
            .iter()
            .map(|(element, set)| (element.clone(), below(element, set)));
        Set {
            members,
            children: children.collect(),
        }
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.absorb(other);
        out
    }

    fn absorb(&mut self, other: &Self) {
        self.members.extend(other.members.iter().cloned());
        for (element, set) in &other.children {
            match self.children.get_mut(element) {
                Some(child) => child.absorb(set),
                None => {
                    self.children.insert(element.clone(), set.clone());
                }
            }
        }
    }

    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self {
            members: self.members.intersection(&other.members).cloned().collect(),
            children: self.pairwise(other, |child, twin| twin.map(|twin| child.intersection(twin)), |_| true),
        }
    }

    /// Without the members of `other`; longer paths stay.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let keep =
            |child: &Self, twin: Option<&Self>| Some(twin.map_or_else(|| child.clone(), |twin| child.difference(twin)));
        Self {
            members: self.members.difference(&other.members).cloned().collect(),
            children: self.pairwise(other, keep, |_| true),
        }
    }

    /// Without the members of `other` and everything below them.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let keep =
            |child: &Self, twin: Option<&Self>| Some(twin.map_or_else(|| child.clone(), |twin| child.without(twin)));
        Self {
            members: self.members.difference(&other.members).cloned().collect(),
            children: self.pairwise(other, keep, |element| !other.members.contains(element)),
        }
    }

    fn pairwise(
        &self,
        other: &Self,
        keep: impl Fn(&Self, Option<&Self>) -> Option<Self>,
        goes_on: impl Fn(&Element) -> bool,
    ) -> BTreeMap<Element, Self> {
        let children = self.children.iter().filter(|(element, _)| goes_on(element));
        children
            .filter_map(|(element, child)| Some((element.clone(), keep(child, other.children.get(element))?)))
            .filter(|(_, set)| !set.is_empty())
            .collect()
    }

    /// All members, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        for element in &self.members {
            path.push(element.clone());
            out.push(path.clone());
            path.pop();
        }
        for (element, set) in &self.children {
            path.push(element.clone());
            set.collect(path, out);
            path.pop();
        }
    }

    /// `fieldsV1`: a tree of objects, in which `.` says that the path up to there is a member although it goes on.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        for element in &self.members {
            out.insert(element.to_text(), json!({}));
        }
        for (element, set) in &self.children {
            let mut child = set.to_json();
            if let (true, Some(child)) = (self.members.contains(element), child.as_object_mut()) {
                child.insert(".".into(), json!({}));
            }
            out.insert(element.to_text(), child);
        }
        Value::Object(out)
    }

    /// The inverse of [`Self::to_json`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        Self::read(value).map(|(set, _)| set)
    }

    /// The set, and whether its root is a member.
    fn read(value: &Value) -> Result<(Self, bool), String> {
        let Some(object) = value.as_object() else {
            return Err(format!("expected an object, got {value}"));
        };
        let (mut set, mut root) = (Self::default(), false);
        for (key, value) in object {
            if key == "." {
                root = true;
                continue;
            }
            let element = Element::parse(key)?;
            let (child, member) = Self::read(value)?;
            if member || child.is_empty() {
                set.members.insert(element.clone());
            }
            if !child.is_empty() {
                set.children.insert(element, child);
            }
        }
        Ok((set, root))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn set(paths: &[&str]) -> Set {
        Set::of_fields(paths)
    }

    #[test]
    fn a_set_has_upstreams_form() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}, "f:replicas": {}},
        });
        let read = Set::from_json(&fields).unwrap();
        assert_eq!(read.to_json(), fields);
        assert!(read.has(&[Element::field("metadata"), Element::field("labels")]));
        assert!(!read.has(&[Element::field("metadata")]));
    }

    #[test]
    fn a_difference_keeps_what_is_below_and_without_does_not() {
        let all = set(&["a", "a.b", "c"]);
        assert_eq!(all.difference(&set(&["a"])), set(&["a.b", "c"]));
        assert_eq!(all.without(&set(&["a"])), set(&["c"]));
        assert_eq!(all.difference(&set(&["a", "a.b", "c"])), Set::default());
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for fields in [
            json!([]),
            json!({"f:a": 1}),
            json!({"a": {}}),
            json!({"f:a": {"q:x": {}}}),
        ] {
            assert!(Set::from_json(&fields).is_err(), "{fields}");
        }
    }

    fn arbitrary() -> impl Strategy<Value = Set> {
        let path = proptest::collection::vec("[abc]", 1..4);
        proptest::collection::vec(path, 0..12).prop_map(|paths| {
            let paths: Vec<String> = paths.iter().map(|p| p.join(".")).collect();
            set(&paths.iter().map(String::as_str).collect::<Vec<_>>())
        })
    }

    proptest! {
        #[test]
        fn sets_obey_the_laws_of_sets(a in arbitrary(), b in arbitrary()) {
            let members = |s: &Set| s.paths().into_iter().collect::<BTreeSet<_>>();
            let (in_a, in_b) = (members(&a), members(&b));
            prop_assert_eq!(members(&a.union(&b)), &in_a | &in_b);
            prop_assert_eq!(members(&a.intersection(&b)), &in_a & &in_b);
            prop_assert_eq!(members(&a.difference(&b)), &in_a - &in_b);
            let outside = |path: &Vec<Element>| !(1..=path.len()).any(|n| in_b.contains(&path[..n]));
            prop_assert_eq!(members(&a.without(&b)), in_a.iter().filter(|p| outside(p)).cloned().collect::<BTreeSet<_>>());
            prop_assert_eq!(Set::from_json(&a.to_json()).unwrap(), a);
        }
    }
}
