//! An immutable state of one resource, and the shared structure behind it.

use std::sync::Arc;

use super::{
    object::Object,
    tree::{Keyed, Tree},
};
use crate::store::Revision;

/// The objects of one resource with their field indexes. Clones are cheap and independent.
#[derive(Clone)]
pub(crate) struct Objects {
    pub tree: Tree<Arc<Object>>,
    indexes: Vec<FieldIndex>,
}

#[derive(Clone)]
struct FieldIndex {
    field: Arc<str>,
    /// Sorted by `value NUL key`.
    tree: Tree<Entry>,
}

#[derive(Clone)]
struct Entry {
    key: Arc<str>,
    object: Arc<Object>,
}

impl Keyed for Entry {
    fn key(&self) -> &Arc<str> {
        &self.key
    }
}

impl Entry {
    fn of(field: &str, object: &Arc<Object>) -> Option<Self> {
        let value = object.fields().get(field).filter(|v| !v.is_empty())?;
        Some(Entry {
            key: format!("{value}\0{}", object.key()).into(),
            object: object.clone(),
        })
    }
}

impl Objects {
    /// From objects in ascending order of keys.
    pub fn from_sorted(objects: Vec<Arc<Object>>, fields: &[Arc<str>]) -> Self {
        let index = |field: &Arc<str>| {
            let mut entries: Vec<Entry> = objects.iter().filter_map(|o| Entry::of(field, o)).collect();
            entries.sort_by(|a, b| a.key.cmp(&b.key));
            FieldIndex {
                field: field.clone(),
                tree: Tree::from_sorted(entries),
            }
        };
        Objects {
            indexes: fields.iter().map(index).collect(),
            tree: Tree::from_sorted(objects),
        }
    }

    /// Replaces `old` by `new`, versions of the same key.
    pub fn replace(&mut self, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>) {
        match (old, new) {
            (_, Some(new)) => drop(self.tree.insert(new.clone())),
            (Some(old), None) => drop(self.tree.remove(old.key())),
            (None, None) => {}
        }
        for index in &mut self.indexes {
            let before = old.and_then(|o| Entry::of(&index.field, o));
            let after = new.and_then(|o| Entry::of(&index.field, o));
            if let Some(before) = &before
                && after.as_ref().is_none_or(|a| a.key != before.key)
            {
                index.tree.remove(&before.key);
            }
            if let Some(after) = after {
                index.tree.insert(after);
            }
        }
    }
}

/// An immutable state of one resource at one revision. Clones are cheap.
#[derive(Clone)]
pub struct Snapshot {
    revision: Revision,
    objects: Objects,
}

impl Snapshot {
    pub(crate) fn new(revision: Revision, objects: Objects) -> Self {
        Snapshot { revision, objects }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn get(&self, key: &str) -> Option<&Arc<Object>> {
        self.objects.tree.get(key)
    }

    /// Objects with keys below `within` (`/registry/pods/` or `/registry/pods/default/`), in key order, strictly after the
    /// key `after`. To stream a long list without holding the iterator, take some and come back with the last key.
    pub fn range<'a>(
        &'a self,
        within: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + Send + use<'a> {
        let within: Box<str> = within.into();
        self.objects
            .tree
            .iter_from(&start(&within, after))
            .take_while(move |o| o.key().starts_with(&*within))
    }

    /// How many objects [`Snapshot::range`] would yield, without walking over them.
    pub fn count(&self, within: &str, after: Option<&str>) -> usize {
        let tree = &self.objects.tree;
        let end = end(within).map_or(tree.len(), |end| tree.rank(&end));
        end.saturating_sub(tree.rank(&start(within, after)))
    }

    /// Objects whose indexed field has the value, in key order; nothing if the field is not indexed
    /// (see [`super::CacheOptions::indexes`]).
    pub fn by_field<'a>(&'a self, field: &str, value: &str) -> impl Iterator<Item = &'a Arc<Object>> + Send + use<'a> {
        let prefix: Box<str> = format!("{value}\0").into();
        let index = self.objects.indexes.iter().find(|i| *i.field == *field);
        index
            .into_iter()
            .flat_map(move |i| {
                let prefix = prefix.clone();
                i.tree
                    .iter_from(prefix.as_bytes())
                    .take_while(move |e| e.key.starts_with(&*prefix))
            })
            .map(|e| &e.object)
    }

    /// Whether the field is indexed for this resource.
    pub fn indexes(&self, field: &str) -> bool {
        self.objects.indexes.iter().any(|i| *i.field == *field)
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Snapshot of {} objects at {}",
            self.objects.tree.len(),
            self.revision
        )
    }
}

/// Smallest key below `within` and strictly after `after`.
fn start(within: &str, after: Option<&str>) -> Vec<u8> {
    match after {
        Some(after) if after >= within => [after.as_bytes(), b"\0"].concat(),
        _ => within.as_bytes().to_vec(),
    }
}

/// Smallest byte string greater than everything that starts with `within`; `None` if there is none.
fn end(within: &str) -> Option<Vec<u8>> {
    let mut end = within.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}
