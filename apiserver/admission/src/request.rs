//! What a plugin is asked about: one write.

use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;
use steersman_auth::lister::text;
use steersman_auth::user::User;
use steersman_schema::status::Status;

/// The kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    /// PUT, PATCH and server-side apply of an existing object.
    Update,
    /// One object; `deletecollection` asks for each.
    Delete,
    /// exec, attach, portforward, proxy.
    Connect,
}

/// Collects warnings; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    pub fn push(&self, text: String) {
        self.0.lock().push(text);
    }

    /// Everything so far, once.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

/// One write, as the admission chain sees it (upstream: `admission.Attributes`).
#[derive(Clone, Debug)]
pub struct Request {
    pub operation: Operation,
    pub user: User,
    /// Of the resource addressed: group, version, plural name; `pods` also for `pods/eviction`.
    pub group: String,
    pub version: String,
    pub resource: String,
    /// Empty, or for instance `status`, `binding`, `token`.
    pub subresource: String,
    /// Of the object in the body (`Eviction` for `pods/eviction`).
    pub kind: String,
    pub kind_group: String,
    /// Empty for cluster-scoped resources. For a Namespace object itself it is the object's own name.
    pub namespace: String,
    /// Empty when the server is yet to make one from `generateName`.
    pub name: String,
    /// The new object: create, update, connect (its options). With `apiVersion` and `kind`.
    pub object: Option<Value>,
    /// The stored object, unmodified: update, delete.
    pub old: Option<Arc<Value>>,
    /// The operation's options (CreateOptions, UpdateOptions, DeleteOptions), `Null` when there are none.
    pub options: Value,
    pub dry_run: bool,
    /// When the request arrived.
    pub now: jiff::Timestamp,
    /// Fresh randomness for generated names.
    pub random: u64,
    /// Texts for `Warning` headers, added by plugins in either pass.
    pub warnings: Warnings,
}

impl Request {
    /// Whether the write is to this resource of this group.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }

    /// The name in refusals: the request's, else the object's name or its generateName, else `Unknown`.
    pub fn shown_name(&self) -> &str {
        if !self.name.is_empty() {
            return &self.name;
        }
        let Some(object) = &self.object else { return "Unknown" };
        [text(object, "/metadata/name"), text(object, "/metadata/generateName")]
            .into_iter()
            .find(|s| !s.is_empty())
            .unwrap_or("Unknown")
    }

    /// 403 on the object written: `pods "x" is forbidden: <why>`.
    #[must_use]
    pub fn forbidden(&self, why: impl AsRef<str>) -> Status {
        Status::forbidden(&self.group, &self.resource, self.shown_name(), why.as_ref())
    }
}
