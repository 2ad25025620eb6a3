//! What a watch covers, to which shard a key belongs, and the topics that wake only the watches which an event concerns.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio::sync::Notify;

use super::event::Event;
use crate::store::Revision;

/// What a watch covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub(crate) resource: String,
    /// Key prefix, or a whole key.
    within: String,
    exact: bool,
    field: Option<(String, String)>,
}

impl Scope {
    /// Keys below `within`, which starts with the `resource` prefix: `("/registry/pods/", "/registry/pods/")` for all
    /// namespaces, `("/registry/pods/", "/registry/pods/default/")` for one.
    pub fn prefix(resource: &str, within: &str) -> Self {
        Scope {
            resource: resource.into(),
            within: within.into(),
            exact: false,
            field: None,
        }
    }

    /// Exactly one key (fieldSelector metadata.name=…).
    pub fn key(resource: &str, key: &str) -> Self {
        Scope {
            resource: resource.into(),
            within: key.into(),
            exact: true,
            field: None,
        }
    }

    /// Further narrowed to events whose old or new object has `value` in `field` (as the indexer gave it). Cheap to idle on
    /// if the field is indexed, see [`super::CacheOptions::indexes`].
    pub fn with_field(mut self, field: &str, value: &str) -> Self {
        self.field = Some((field.into(), value.into()));
        self
    }

    pub(crate) fn covers(&self, event: &Event) -> bool {
        let key = event.key();
        let inside = if self.exact {
            key == self.within
        } else {
            key.starts_with(&self.within)
        };
        inside
            && self.field.as_ref().is_none_or(|(field, value)| {
                [event.old(), event.new()]
                    .into_iter()
                    .flatten()
                    .any(|o| o.fields().get(field) == Some(value))
            })
    }
}

/// The shard of a key or of a resource prefix: `root`, then one path segment (`/registry/pods/`), or two where the first is
/// an API group or `services` (`/registry/services/specs/`, `/registry/example.com/widgets/`). `None` outside `root`.
pub(crate) fn shard_of<'a>(root: &str, key: &'a str) -> Option<&'a str> {
    let rest = key.strip_prefix(root)?;
    let first = rest.find('/')? + 1;
    let segment = rest.get(..first - 1)?;
    let mut len = first;
    if segment == "services" || segment.contains('.') {
        len += rest.get(first..)?.find('/')? + 1;
    }
    key.get(..root.len() + len)
}

/// Wakes the watches of one scope.
#[derive(Debug)]
pub(crate) struct Topic {
    name: TopicName,
    pub notify: Notify,
    /// No event after this revision concerned the topic.
    last: AtomicI64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TopicName {
    /// A folder or a whole key.
    Path(Box<str>),
    Field(Box<str>, Box<str>),
}

impl Topic {
    pub fn last(&self) -> Revision {
        self.last.load(Ordering::Acquire)
    }
}

/// The topics of one shard that somebody listens to.
#[derive(Default)]
pub(crate) struct Topics {
    by_name: HashMap<TopicName, Arc<Topic>>,
    /// How many of them are fields.
    fields: usize,
}

impl Topics {
    /// Most specific topic that hears every event of the scope. A new one starts as if the shard's `last` event was its own.
    pub fn join(&mut self, scope: &Scope, indexed: &[Arc<str>], last: Revision) -> Arc<Topic> {
        let name = match &scope.field {
            Some((field, value)) if indexed.iter().any(|i| **i == **field) => {
                TopicName::Field(field.as_str().into(), value.as_str().into())
            }
            // A prefix that does not end at a path segment hears everything.
            _ if !scope.exact && !scope.within.ends_with('/') => TopicName::Path(scope.resource.as_str().into()),
            _ => TopicName::Path(scope.within.as_str().into()),
        };
        if let Some(topic) = self.by_name.get(&name) {
            return topic.clone();
        }
        self.fields += usize::from(matches!(name, TopicName::Field(..)));
        let topic = Arc::new(Topic {
            name: name.clone(),
            notify: Notify::new(),
            last: AtomicI64::new(last),
        });
        self.by_name.insert(name, topic.clone());
        topic
    }

    /// Forgets the topic if only this table and the leaving watch hold it.
    pub fn leave(&mut self, topic: &Arc<Topic>) {
        if Arc::strong_count(topic) <= 2 && self.by_name.get(&topic.name).is_some_and(|t| Arc::ptr_eq(t, topic)) {
            self.by_name.remove(&topic.name);
            self.fields -= usize::from(matches!(topic.name, TopicName::Field(..)));
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    /// Marks the topics that the event concerns and adds them to `wake`.
    pub fn heard(&self, root: &str, event: &Event, indexed: &[Arc<str>], wake: &mut Vec<Arc<Topic>>) {
        let mut mark = |topic: &Arc<Topic>| {
            topic.last.store(event.revision(), Ordering::Release);
            wake.push(topic.clone());
        };
        let key = event.key();
        if self.by_name.len() > self.fields {
            // Every ancestor folder below the root, then the key itself.
            let folders = key
                .match_indices('/')
                .map(|(at, _)| at + 1)
                .filter(|at| *at > root.len());
            for end in folders.chain([key.len()]) {
                let name = key.get(..end).map(|path| TopicName::Path(path.into()));
                if let Some(topic) = name.and_then(|name| self.by_name.get(&name)) {
                    mark(topic);
                }
            }
        }
        if self.fields > 0 {
            for field in indexed {
                let old = event.old().and_then(|o| o.fields().get(field));
                let new = event.new().and_then(|o| o.fields().get(field));
                for value in [old, new.filter(|n| old != Some(n))].into_iter().flatten() {
                    if let Some(topic) = self.by_name.get(&TopicName::Field((&**field).into(), value.into())) {
                        mark(topic);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_the_folder_of_its_resource() {
        let check = |key: &str, shard: Option<&str>| assert_eq!(shard_of("/registry/", key), shard, "{key}");
        check("/registry/pods/default/web", Some("/registry/pods/"));
        check("/registry/pods/", Some("/registry/pods/"));
        check("/registry/minions/node-1", Some("/registry/minions/"));
        check(
            "/registry/services/specs/default/web",
            Some("/registry/services/specs/"),
        );
        check("/registry/services/endpoints/", Some("/registry/services/endpoints/"));
        check(
            "/registry/example.com/widgets/default/w",
            Some("/registry/example.com/widgets/"),
        );
        check("/registry/ranges/serviceips", Some("/registry/ranges/"));
        check("/registry/stray", None);
        check("compact_rev_key", None);
    }
}
