//! The list under `metadata.managedFields`: who owns what.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::set::Set;

/// Entries of updates that are kept apart (upstream: `DefaultMaxUpdateManagers`).
const MAX_UPDATERS: usize = 10;
/// The manager of what the oldest updaters beyond that owned.
const ANCIENT: &str = "ancient-changes";

/// How an owner came to own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What tells owners apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    pub operation: Operation,
    pub name: String,
    pub subresource: String,
    /// Empty for appliers: an applier is the same in every version.
    version: String,
}

impl Manager {
    /// An owner that writes in a version.
    #[must_use]
    pub fn new(name: &str, operation: Operation, version: &str, subresource: &str) -> Self {
        let name = if name.is_empty() { "unknown" } else { name };
        Self {
            operation,
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => version.to_owned(),
            },
        }
    }
}

/// What an owner owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// `apiVersion` in which the fields are named.
    pub version: String,
    pub set: Set,
    /// Of the last change, RFC 3339; not everybody has one.
    pub time: Option<String>,
}

/// Every owner of an object's fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers(pub BTreeMap<Manager, Owned>);

impl Managers {
    /// Reads `metadata.managedFields` of an object.
    ///
    /// # Errors
    /// What is wrong with an entry.
    pub fn read(object: &Value) -> Result<Self, String> {
        let mut managers = BTreeMap::new();
        let Some(entries) = object.pointer("/metadata/managedFields").and_then(Value::as_array) else {
            return Ok(Self::default());
        };
        for (i, entry) in entries.iter().enumerate() {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".into()),
            };
            let version = text("apiVersion");
            if version.is_empty() {
                return Err("apiVersion must not be empty".into());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
                other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {i}")),
            }
            let set = match entry.get("fieldsV1") {
                None | Some(Value::Null) => Set::default(),
                Some(fields) => Set::from_json(fields).map_err(|why| format!("error decoding set: {why}"))?,
            };
            let manager = Manager {
                operation,
                name: text("manager").to_owned(),
                subresource: text("subresource").to_owned(),
                version: match operation {
                    Operation::Apply => String::new(),
                    Operation::Update => version.to_owned(),
                },
            };
            let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
            let version = version.to_owned();
            managers.insert(manager, Owned { version, set, time });
        }
        Ok(Self(managers))
    }

    /// Writes `metadata.managedFields`: appliers first, then by time, name, version and subresource.
    pub fn write(&self, object: &mut Value) {
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
            return;
        };
        if self.0.is_empty() {
            metadata.remove("managedFields");
            return;
        }
        let mut entries: Vec<(&Manager, &Owned)> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            let (x, y) = ((&x.time, &a.name, &x.version), (&y.time, &b.name, &y.version));
            (a.operation, x, &a.subresource).cmp(&(b.operation, y, &b.subresource))
        });
        let entries = entries
            .into_iter()
            .map(|(manager, owned)| entry(manager, owned))
            .collect();
        metadata.insert("managedFields".into(), Value::Array(entries));
    }

    /// Drops owners of nothing.
    pub fn sweep(&mut self) {
        self.0.retain(|_, owned| !owned.set.is_empty());
    }

    /// Merges the oldest updaters, version by version, until there are few enough.
    pub fn cap(&mut self) {
        let mut updaters: Vec<(Option<String>, Manager)> = self
            .0
            .iter()
            .filter(|(manager, _)| manager.operation == Operation::Update)
            .map(|(manager, owned)| (owned.time.clone(), manager.clone()))
            .collect();
        let mut count = updaters.len();
        if count <= MAX_UPDATERS {
            return;
        }
        updaters.sort();
        let mut first: BTreeMap<String, Manager> = BTreeMap::new();
        for (time, manager) in updaters {
            if count <= MAX_UPDATERS {
                break;
            }
            let Some(version) = self.0.get(&manager).map(|owned| owned.version.clone()) else {
                continue;
            };
            let Some(oldest) = first.get(&version) else {
                first.insert(version, manager);
                continue;
            };
            let bucket = Manager::new(ANCIENT, Operation::Update, &version, "");
            if !self.0.contains_key(&bucket)
                && let Some(owned) = self.0.remove(oldest)
            {
                self.0.insert(bucket.clone(), owned);
            }
            let gone = self.0.remove(&manager);
            if let (Some(gone), Some(into)) = (gone, self.0.get_mut(&bucket)) {
                into.set = into.set.union(&gone.set);
                into.time = time;
            }
            count -= 1;
        }
    }
}

fn entry(manager: &Manager, owned: &Owned) -> Value {
    let mut out = Map::new();
    if !manager.name.is_empty() {
        out.insert("manager".into(), manager.name.as_str().into());
    }
    out.insert("operation".into(), manager.operation.text().into());
    out.insert("apiVersion".into(), owned.version.as_str().into());
    if let Some(time) = &owned.time {
        out.insert("time".into(), time.as_str().into());
    }
    out.insert("fieldsType".into(), "FieldsV1".into());
    out.insert("fieldsV1".into(), owned.set.to_json());
    if !manager.subresource.is_empty() {
        out.insert("subresource".into(), manager.subresource.as_str().into());
    }
    Value::Object(out)
}

/// Whether somebody asks for the list to be forgotten: it is there and empty, or holds one empty entry.
#[must_use]
pub fn is_reset(object: &Value) -> bool {
    match object.pointer("/metadata/managedFields").and_then(Value::as_array) {
        Some(entries) => entries.is_empty() || *entries == [json!({})],
        None => false,
    }
}

/// Gives `new` the list of `old` if they differ in nothing but times, so that a write that changes nothing stays one.
pub fn keep_times(new: &mut Value, old: &Value) {
    const LIST: &str = "/metadata/managedFields";
    if new.pointer(LIST) == old.pointer(LIST) {
        return;
    }
    let timeless = |object: &Value| -> Option<Vec<Value>> {
        let mut entries = object.pointer(LIST)?.as_array()?.clone();
        for entry in &mut entries {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        entries.sort_by_key(Value::to_string);
        Some(entries)
    };
    let (before, after) = (timeless(old), timeless(new));
    if before.is_some()
        && before == after
        && let Some(list) = old.pointer(LIST)
        && let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.insert("managedFields".into(), list.clone());
    }
}
