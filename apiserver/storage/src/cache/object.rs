//! What the cache keeps of one object version, and the [`Indexer`] with which the API server tells it.

use std::{any::Any, fmt, sync::Arc};

use super::{encodings::Encodings, tree::Keyed};
use crate::store::Revision;
use bytes::Bytes;

/// Looks inside stored bytes, once per object version. Given by the API server, which knows kinds and codecs.
pub trait Indexer: Send + Sync + 'static {
    /// Indexes the value of `key`. Runs on the cache's feed (bulk loads: on several threads at once): keep it fast, never block.
    ///
    /// An error text keeps the object as [`Object::broken`]: listable by key, with its bytes, without index.
    fn index(&self, key: &str, value: &[u8], mod_revision: Revision) -> Result<Indexed, String>;
}

/// What an [`Indexer`] found.
#[derive(Clone, Default)]
pub struct Indexed {
    /// The stored bytes with `metadata.resourceVersion` set to `mod_revision`; same encoding as stored.
    pub stored: Bytes,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// Labels.
    pub labels: Pairs,
    /// Selectable fields apart from metadata.name and metadata.namespace (which the key tells), e.g. `spec.nodeName`.
    pub fields: Pairs,
    /// Anything else that the caller wants at hand (owners, finalizers, deletion time, apiVersion of a custom resource).
    pub extra: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Indexed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Indexed")
            .field("stored", &self.stored.len())
            .field("uid", &self.uid)
            .field("labels", &self.labels)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

/// A small map of strings in one piece of memory: labels or field values. Made for a handful of entries: looking one up
/// walks over them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs(
    /// For each name and value in turn, sorted by name: its length (LEB128), its bytes.
    Box<[u8]>,
);

impl Pairs {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// In the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || Some((take_text(&mut rest)?, take_text(&mut rest)?)))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut len = text.len();
    while len >= 0x80 {
        out.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(text.as_bytes());
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let mut len = 0;
    let mut shift = 0;
    loop {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let (text, after) = rest.split_at_checked(len)?;
    *rest = after;
    std::str::from_utf8(text).ok()
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Pairs {
    /// Of a name given twice, the first value stays.
    fn from_iter<T: IntoIterator<Item = (K, V)>>(iter: T) -> Self {
        let mut pairs: Vec<(K, V)> = iter.into_iter().collect();
        pairs.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
        pairs.dedup_by(|later, first| later.0.as_ref() == first.0.as_ref());
        let mut out = Vec::new();
        for (name, value) in &pairs {
            put_text(&mut out, name.as_ref());
            put_text(&mut out, value.as_ref());
        }
        Pairs(out.into_boxed_slice())
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// One version of one stored object. Immutable and shared.
pub struct Object {
    key: Arc<str>,
    create_revision: Revision,
    mod_revision: Revision,
    lease: i64,
    index: Indexed,
    broken: Option<Box<str>>,
    encodings: Encodings,
}

impl Object {
    pub(crate) fn new(
        indexer: &dyn Indexer,
        key: Arc<str>,
        value: &[u8],
        create_revision: Revision,
        mod_revision: Revision,
        lease: i64,
    ) -> Self {
        let (index, broken) = match indexer.index(&key, value, mod_revision) {
            Ok(index) => {
                // Exactly as large as it must be, whatever buffer the indexer used.
                let stored = Bytes::copy_from_slice(&index.stored);
                (Indexed { stored, ..index }, None)
            }
            Err(why) => {
                tracing::warn!(key = &*key, revision = mod_revision, error = %why, "stored object cannot be decoded");
                (
                    Indexed {
                        stored: Bytes::copy_from_slice(value),
                        ..Indexed::default()
                    },
                    Some(why.into_boxed_str()),
                )
            }
        };
        Object {
            key,
            create_revision,
            mod_revision,
            lease,
            index,
            broken,
            encodings: Encodings::default(),
        }
    }

    /// Full key in the store, e.g. `/registry/pods/default/web-0`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Last part of the key.
    pub fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }

    /// Part of the key between the resource's prefix (`/registry/pods/`) and the name; empty for a cluster-scoped object.
    pub fn namespace<'a>(&'a self, resource_prefix: &str) -> &'a str {
        let rest = self.key.strip_prefix(resource_prefix).unwrap_or_default();
        rest.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn create_revision(&self) -> Revision {
        self.create_revision
    }

    /// The object's `resourceVersion`, and what [`crate::Store::update`] and `delete` expect.
    pub fn mod_revision(&self) -> Revision {
        self.mod_revision
    }

    /// Lease that the key is bound to (events), or 0.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Stored bytes with `metadata.resourceVersion` set; for a broken object exactly what the store holds.
    pub fn stored(&self) -> &Bytes {
        &self.index.stored
    }

    pub fn uid(&self) -> &str {
        &self.index.uid
    }

    pub fn labels(&self) -> &Pairs {
        &self.index.labels
    }

    /// Selectable fields that the indexer gave.
    pub fn fields(&self) -> &Pairs {
        &self.index.fields
    }

    pub fn extra(&self) -> Option<&Arc<dyn Any + Send + Sync>> {
        self.index.extra.as_ref()
    }

    /// Why the object could not be decoded, if so.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    pub(crate) fn encodings(&self) -> &Encodings {
        &self.encodings
    }

    /// Bytes of memory that this version holds, about.
    pub(crate) fn cost(&self) -> usize {
        self.key.len() + self.index.stored.len() + 256
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("key", &self.key)
            .field("mod_revision", &self.mod_revision)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Keyed for Arc<Object> {
    fn key(&self) -> &Arc<str> {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_keep_any_text_sorted_and_the_first_of_a_name() {
        let long = "x".repeat(70_000);
        let pairs = Pairs::from_iter([("b", &*long), ("a\0", "\0"), ("", ""), ("b", "second")]);
        assert_eq!(
            pairs.iter().collect::<Vec<_>>(),
            [("", ""), ("a\0", "\0"), ("b", &*long)]
        );
        assert_eq!((pairs.get("b"), pairs.get("c"), pairs.len()), (Some(&*long), None, 3));
        assert!(Pairs::default().is_empty() && Pairs::default().get("").is_none());
    }
}
