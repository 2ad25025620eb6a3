//! [`Kind`]: what one resource decides for itself. Everything else about it is derived from the table of API facts.

use serde_json::Value;
use steersman_schema::field::FieldErrors;

/// The moment and the randomness that a decision may use, handed in by the caller.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// RFC 3339, UTC, whole seconds: what `metav1.Time` shows.
    pub now: String,
    /// User name of whoever sent the request (CertificateSigningRequest records it).
    pub user: String,
    pub groups: Vec<String>,
    pub uid: String,
    /// What authentication knows besides.
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// A resource's own decisions: pure functions over JSON values, in the order in which a write meets them.
///
/// A struct literal without `..Default`, so that a decision nobody took does not compile; [`crate::nothing`] has the
/// named no-ops. Values given to these functions have passed strict decoding: every known field has its declared type.
pub struct Kind {
    /// API group, empty for core.
    pub group: &'static str,
    /// The version whose shape these functions see. It is the served version; the table names the stored one.
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    /// Defaulting beyond the table's static defaults, run after them (upstream: `SetDefaults_*`). Runs on every decoded
    /// object, and on objects read back from the store.
    pub default: fn(&mut Value),
    /// Upstream: `PrepareForCreate`, `generation` excepted (the generic path keeps it).
    pub prepare_create: fn(&mut Value, &Context),
    /// Upstream: `PrepareForUpdate`; `(new, old)`. The generic path has already put back `status` (where the kind has a
    /// status subresource), system metadata, and afterwards raises `generation` when `spec` changed.
    pub prepare_update: fn(&mut Value, &Value, &Context),
    /// Every fault of a new object, object metadata excepted (the generic path checks it).
    pub validate: fn(&Value) -> FieldErrors,
    /// Every fault of a change; `(new, old)`. Includes what `validate` would say of `new` where upstream repeats it.
    pub validate_update: fn(&Value, &Value) -> FieldErrors,
    /// Upstream: `WarningsOnCreate` / `WarningsOnUpdate`; old is `None` on create. Sent as `Warning` headers.
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// How names are checked: `(name, is_prefix) -> faults`.
    pub validate_name: fn(&str, bool) -> Vec<String>,
    /// The `status` subresource, if there is one.
    pub status: Option<Status>,
    /// Other subresources through which the whole object is written (`ephemeralcontainers`, `resize`, `approval`,
    /// `finalize`): name, and what such a write may change. Their `prepare` gets the client's object as it is and
    /// returns with everything put back that this write may not touch, metadata included where upstream does so.
    pub updates: &'static [(&'static str, Status)],
    /// Whether `metadata.generation` is kept: starts at 1 and rises when anything but metadata and status changes.
    pub generation: bool,
    /// Whether a PUT to a missing name creates (upstream: `AllowCreateOnUpdate`).
    pub create_on_update: bool,
    /// Whether an update without resourceVersion is allowed (upstream: `AllowUnconditionalUpdate`).
    pub unconditional_update: bool,
    /// Where `spec.replicas` and friends live, if there is a `scale` subresource.
    pub scale: Option<Scale>,
    /// Graceful deletion: seconds to wait, decided from the object and what the request asked for; `None` deletes at once.
    pub grace: Option<fn(&Value, Option<i64>) -> i64>,
    /// Whether deletion orphans dependents when the request does not say (upstream: `DefaultGarbageCollectionPolicy`).
    pub orphans_by_default: bool,
    /// Fields usable in `fieldSelector` besides `metadata.name` and `metadata.namespace`: dotted name and how to read it.
    pub fields: &'static [(&'static str, fn(&Value) -> String)],
    /// Table columns as the server prints them (`kubectl get`), `None` for Name and Created At alone.
    pub table: Option<Table>,
    /// A minimal valid object in YAML, used by tests and as documentation.
    pub example: &'static str,
}

/// Who may write which half of an object through `…/status`.
pub struct Status {
    /// `(new, old)`: put back everything a status write may not touch beyond spec and metadata, which the generic path
    /// has already put back.
    pub prepare: fn(&mut Value, &Value, &Context),
    pub validate: fn(&Value, &Value) -> FieldErrors,
}

/// JSON pointers of the `scale` subresource (autoscaling/v1 Scale).
pub struct Scale {
    /// For instance `/spec/replicas`.
    pub spec_replicas: &'static str,
    pub status_replicas: &'static str,
    /// Reads the selector in string form, empty when there is none.
    pub selector: fn(&Value) -> String,
}

/// The server-side table of a kind.
pub struct Table {
    pub columns: &'static [Column],
    /// One row: a cell per column, in order. `now` is RFC 3339.
    pub row: fn(&Value, &jiff::Timestamp) -> Vec<Value>,
    /// Row conditions (upstream marks finished pods `Completed`).
    pub conditions: fn(&Value) -> Vec<Value>,
}

/// One column definition (`meta.k8s.io/v1 TableColumnDefinition`).
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub kind: &'static str,
    /// `name` for the first column, otherwise empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}
