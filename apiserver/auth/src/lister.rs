//! How authentication and authorization see the cluster's objects: read-only, from memory, without waiting.

use serde_json::Value;
use std::sync::Arc;

/// Objects as the server's cache holds them now. Groups are API groups (`""` for core), plurals are resource names.
/// An object is JSON of the group's preferred version with `apiVersion` and `kind`.
pub trait Lister: Send + Sync {
    /// Every object of a resource; of one namespace if given.
    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>>;
    /// One object; `namespace` is `None` for cluster-scoped resources.
    fn get(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>>;
}

/// Something that keeps its own index of certain objects (the RBAC index, the node graph).
///
/// The server calls [`Follower::changed`] for each existing object when it starts (with `old` absent) and then for each
/// change, in the order of revisions, before it lets requests that saw the change through.
pub trait Follower: Send + Sync {
    /// `(group, plural)` of every resource wanted.
    fn follows(&self) -> &'static [(&'static str, &'static str)];
    /// Created: `old` is `None`. Deleted: `new` is `None`. Never blocks for long.
    fn changed(&self, group: &str, plural: &str, old: Option<&Value>, new: Option<&Value>);
}

/// Reads a string at a JSON pointer; empty when it is absent or of another type.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of a list at a JSON pointer; none when it is absent or of another type.
pub fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The strings of a list at a JSON pointer.
pub fn strings(value: &Value, pointer: &str) -> Vec<String> {
    items(value, pointer)
        .iter()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

/// Objects kept in memory: what tests and the bootstrap use where a server has its cache.
#[derive(Debug, Default)]
pub struct Fixed {
    objects: std::collections::BTreeMap<(String, String, String, String), Arc<Value>>,
}

impl Fixed {
    /// Adds or replaces an object under the given group and plural; namespace and name are its metadata's.
    pub fn put(&mut self, group: &str, plural: &str, object: Value) {
        let (namespace, name) = (text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
        let key = (
            group.to_owned(),
            plural.to_owned(),
            namespace.to_owned(),
            name.to_owned(),
        );
        self.objects.insert(key, Arc::new(object));
    }
}

impl Lister for Fixed {
    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let wanted = |(g, p, ns, _): &(String, String, String, String)| {
            g == group && p == plural && namespace.is_none_or(|n| n == ns)
        };
        self.objects
            .iter()
            .filter(|(key, _)| wanted(key))
            .map(|(_, object)| object.clone())
            .collect()
    }

    fn get(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        let key = (
            group.into(),
            plural.into(),
            namespace.unwrap_or_default().into(),
            name.into(),
        );
        self.objects.get(&key).cloned()
    }
}
